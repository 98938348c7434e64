"""How long a job takes, as jobs before it did, and how many steps of a method fit into a time."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import sqlalchemy as sa

from kdrift.prior.bundle import Prior
from kdrift.recon.resolved import ResolvedPlan
from kdrift_serve.job_request import JobRequest, resolve_plan
from kdrift_serve.job_table import JobTable
from kdrift_serve.problems import Problem
from kdrift_serve.readers import Found
from kdrift_serve.serve_config import Limits, SamplerConfig


@dataclass(frozen=True)
class Speed:
    """What the last job of a method and a prior took, on samplers of one kind."""

    image_s: float
    """Seconds a pixel of an image that goes through the network, with what the method does besides."""
    slice_s: float
    """Seconds a pixel of a slice that its preparation and its writing take, and a method that asks no network."""


class Speeds:
    """The table of speeds, in the database of the jobs.

    A small image takes longer a pixel, so speeds are kept by size, a power of two of pixels, and one of images that are
    less than a quarter of those asked for says nothing of them.
    """

    def __init__(self, table: JobTable, samplers: SamplerConfig) -> None:
        self._table, self._samplers = table, f"{samplers.device}, {samplers.num_gpus:g} GPU, {samplers.num_cpus} CPU"
        with table.begin() as connection:
            self._speeds = sa.Table("serve_speeds", sa.MetaData(), autoload_with=connection)

    def get(self, prior: str, method: str, pixels: int) -> Speed | None:
        """Return what is known of a method with the prior of this sha256, empty for a method without one, with images
        of so many pixels; None where no job was measured."""
        return self._nearest(self._speeds.c.method == method, prior, pixels).get(method)

    def slowest(self, prior: str, pixels: int) -> Speed | None:
        """Return what is known of the slowest method with the prior of this sha256, None where none was measured."""
        found = self._nearest(sa.true(), prior, pixels)
        return max(found.values(), key=lambda speed: speed.image_s, default=None)

    def put(self, prior: str, method: str, pixels: int, speed: Speed) -> None:
        """Keep what a job took, in place of the one before of this size."""
        speeds, size = self._speeds, 1 << round(math.log2(pixels))
        with self._table.begin() as connection:
            same = (speeds.c.method == method) & (speeds.c.pixels == size)
            connection.execute(speeds.delete().where(self._of(prior) & same))
            key = {"prior": prior, "method": method, "samplers": self._samplers, "pixels": size}
            connection.execute(speeds.insert().values(**key, **asdict(speed)))

    def _nearest(self, which: sa.ColumnElement[bool], prior: str, pixels: int) -> dict[str, Speed]:
        """Return the speed of each of these methods that was measured with images of the nearest size."""
        with self._table.begin() as connection:
            rows = connection.execute(sa.select(self._speeds).where(self._of(prior) & which)).all()
        able = [row for row in rows if 4 * row.pixels >= pixels]
        far = sorted(able, key=lambda row: abs(math.log2(row.pixels / pixels)), reverse=True)
        return {row.method: Speed(float(row.image_s), float(row.slice_s)) for row in far}  # the last is the nearest

    def _of(self, prior: str) -> sa.ColumnElement[bool]:
        return (self._speeds.c.prior == prior) & (self._speeds.c.samplers == self._samplers)


@dataclass
class Measured:
    """What a job takes while it runs."""

    slices: float = 0.0
    """Seconds in which samplers prepared and wrote its slices."""
    chunks: float = 0.0
    """Seconds in which samplers ran its chains."""
    num_slices: int = 0
    evaluations: int = 0
    pixels: int = 0
    """Pixels of a slice."""

    def speed(self) -> Speed | None:
        """Return what that makes a pixel; None where no slice was done."""
        if not self.num_slices or not self.pixels:
            return None
        pixels = self.num_slices * self.pixels
        if not self.evaluations:
            return Speed(0.0, (self.slices + self.chunks) / pixels)
        return Speed(self.chunks / (self.evaluations * self.pixels), self.slices / pixels)


def chunks_a_slice(samplers: int, slices: int) -> int:
    """Return into how many chunks chains are split: as many as keep all samplers busy with the slices there are."""
    return max(1, -(-samplers // max(1, slices)))


def expected_seconds(plan: ResolvedPlan, found: Found, coils: int, speed: Speed, samplers: int) -> float:
    """Return how long a job would take on so many samplers that do nothing else: the longest work first, each piece to
    whichever sampler is free."""
    pixels, slices = found.pixels, len(found.slices)
    chunks = plan.split(coils, chunks_a_slice(samplers, slices))
    work = [speed.image_s * pixels * plan.evaluations(coils, chunk) for chunk in chunks] * slices
    work += [speed.slice_s * pixels] * slices
    free = [0.0] * samplers
    for seconds in sorted(work, reverse=True):
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def check_steps(plan: ResolvedPlan) -> int:
    """Return the steps of a plan. Raises `Problem` (422) where its method has none that could be fewer."""
    steps = getattr(plan.options, "num_steps", None)
    if steps is None:
        raise Problem(422, f"max_seconds: {plan.plan.method} has no steps of which fewer could be done; leave it out")
    return int(steps)


@dataclass(frozen=True)
class Pace:
    """Fits requests into the time that they give."""

    priors: Mapping[str, Prior]
    limits: Limits
    samplers: int

    def fit(
        self, request: JobRequest, plan: ResolvedPlan, found: Found, speed: Speed | None
    ) -> tuple[JobRequest, ResolvedPlan, str]:
        """Return a request whose steps are the most that fit into its `max_seconds`, its plan, and a sentence on it.

        Where no job was measured yet, and where even the fewest steps take longer, the sentence says so.
        """
        asked, limit, method = check_steps(plan), request.max_seconds or 0.0, plan.plan.method
        if speed is None or plan.prior is None:
            note = (
                f"max_seconds {limit:g} was not kept to: no job of {method} with this prior and images of such a size"
                " was measured here yet"
            )
            return request, plan, f"{note}, so all {asked} steps are done"
        coils = min(found.coils, request.virtual_coils or found.coils)

        def seconds(steps: int) -> float:
            return expected_seconds(self._with(request, steps)[1], found, coils, speed, self.samplers)

        fewest = next(steps for steps in range(1, asked + 1) if self._takes(request, steps))
        low, high = fewest, asked  # the most steps that fit lie between
        if seconds(high) > limit:
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if seconds(middle) <= limit else (low, middle)
            high = low
        chosen, changed = self._with(request, high)
        takes = seconds(high)
        note = f"{high} of {asked} steps, to be done in about {max(1, round(takes))} s once a sampler is free"
        if takes > limit:
            note = (
                f"max_seconds {limit:g} cannot be kept to: {high} of {asked} steps, the fewest of {method}, take about"
                f" {max(1, round(takes))} s"
            )
        return chosen, changed, note

    def _with(self, request: JobRequest, steps: int) -> tuple[JobRequest, ResolvedPlan]:
        plan = replace(request.plan, settings={**request.plan.settings, "num_steps": steps})
        chosen = replace(request, plan=plan)
        return chosen, resolve_plan(chosen, self.priors, self.limits)

    def _takes(self, request: JobRequest, steps: int) -> bool:
        try:
            self._with(request, steps)
        except Problem:
            return False
        return True
