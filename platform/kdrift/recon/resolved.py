"""What a plan resolves to: everything looked up, plain values that travel to every process."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kdrift.methods import METHODS, Method, Options
from kdrift.methods.presets import Preset
from kdrift.mri.image_scale import ImageScale
from kdrift.prior.bundle import Prior
from kdrift.prior.calibration import Calibration
from kdrift.prior.network_score import NetworkScore
from kdrift.recon.chunks import Chunk, Part, split_chains
from kdrift.recon.fitted_maps import fit_maps_of
from kdrift.recon.slices import RawSlice, SliceData, prepare_slice
from kdrift.recon.starts import with_start
from kdrift.runs.config import to_dict
from kdrift.sde import VESDE

if TYPE_CHECKING:
    from kdrift.recon.plan import Plan

MEAN_CHAINS = 2
"""Chains for the mean, where its settings are not those of the samples: one and its antithetic twin, whose mean is
better than that of eight independent chains; four would raise PSNR by 0.01 dB."""
CHECKED = 100
"""Most evaluations of a chain of which a plan has slices checked without being asked."""
CHECK_DRAWS = 2
"""Samples that predict what is held out: their difference tells the spread."""


@dataclass(frozen=True)
class UsedPrior:
    """Which prior a plan was resolved with."""

    name: str
    sha256: str
    """SHA-256 of the weights."""
    scale: ImageScale
    """How its training images were scaled; a slice is scaled alike."""

    @classmethod
    def of(cls, prior: Prior) -> UsedPrior:
        """Return what names a loaded prior."""
        return cls(prior.name, prior.sha256, prior.info.scale)


@dataclass(frozen=True)
class ResolvedPlan:
    """A plan with everything looked up: plain values that travel to every process that runs a part of the work."""

    plan: Plan
    preset: Preset
    options: Options
    """The method's settings, all of them."""
    prior: UsedPrior | None
    """Prior that it was resolved with; None for a classical method."""
    fits_maps: bool = False
    """Whether coil maps are fitted together with the image, by that prior."""
    spread: Options | None = None
    """Settings of the chains that the standard deviation comes from; None: those of `options` draw it."""
    asks: bool = False
    """Whether its prior can be asked how well it knows an image: it removes white noise from complex images, which are
    what a chain is."""
    checks: bool = False
    """Whether a chunk of each slice predicts held-out samples."""
    start_prior: UsedPrior | None = None
    """Network of the start, where that is learned."""
    calibrations: tuple[Calibration, ...] = ()
    """What `kdrift calibrate` found for the prior with these settings, by families of masks."""

    @property
    def method(self) -> Method:
        """The entry of the table."""
        return METHODS[self.plan.method]

    @property
    def most_map_sets(self) -> int:
        """The most sets of coil maps that the method, and what it starts from, can use."""
        start = METHODS[self.plan.start].max_map_sets if self.plan.start is not None else self.method.max_map_sets
        return min(self.method.max_map_sets, start)

    @property
    def num_samples(self) -> int:
        """Samples a slice; 1 for a method that draws none."""
        return self.plan.num_samples if self.method.samples else 1

    @property
    def num_means(self) -> int:
        """Chains a slice that are for its mean alone."""
        return MEAN_CHAINS if self.spread else 0

    @property
    def unchecked(self) -> str:
        """Why no slice is checked on held-out samples; empty where they are."""
        plan = self.plan
        if self.checks:
            return ""
        unused = ", so on_mistrust fallback gives nothing in its place" if plan.on_mistrust == "fallback" else ""
        if not self.method.samples:
            return f"{plan.method} draws no samples{unused}"
        if plan.check is False:
            return f"check is off{unused}"
        if plan.num_samples == 1:
            return f"one sample has no spread (check was not asked for){unused}"
        return f"a chain has more than {CHECKED} evaluations, and check was not asked for{unused}"

    def options_of(self, part: Part) -> Options:
        """Return the settings of the chains of a part."""
        return self.spread if part == "samples" and self.spread else self.options

    @property
    def config(self) -> dict[str, Any]:
        """What travels with a result, as plain values."""
        plan = self.plan
        kind = "joint" if self.fits_maps else "espirit"
        maps = {
            "kind": kind,
            "sets": plan.num_map_sets or "auto",
            "crop": plan.map_crop,
            "threshold": plan.map_threshold,
        }
        config = {
            "method": plan.method,
            "preset": self.preset.name,
            "preset_source": self.preset.source,
            "options": dataclasses.asdict(self.options),
            "num_samples": self.num_samples,
            "seed": plan.seed,
            "maps": maps,
            "precision": plan.precision,
            "on_divergence": plan.on_divergence,
            "checks": self.checks,
            "on_mistrust": plan.on_mistrust,
            "level": plan.level,
        }
        config |= {} if self.checks else {"unchecked": self.unchecked}
        if self.spread is not None:
            config["spread"] = {"options": dataclasses.asdict(self.spread), "mean_chains": self.num_means}
        config |= {"calibrations": {str(each): each.pixel for each in self.calibrations}} if self.calibrations else {}
        config |= {"prior": dataclasses.asdict(self.prior)} if self.prior else {}
        config |= {"start": plan.start} if plan.start is not None else {}
        config |= {"start_prior": dataclasses.asdict(self.start_prior)} if self.start_prior else {}
        return config | ({"preset_provenance": self.preset.provenance} if self.preset.provenance else {})

    def mean_alone(self) -> ResolvedPlan:
        """Return the plan that a search runs: `num_samples` chains of its own settings for the mean, and no check."""
        return dataclasses.replace(self, spread=None, checks=False)

    @property
    def calibrated_settings(self) -> dict[str, Any]:
        """What must be equal for a calibration to hold, as plain values that survive YAML."""
        spread = None if self.spread is None else to_dict(self.spread)
        options, maps = to_dict(self.options), self.config["maps"]
        settings = {
            "method": self.plan.method, "options": options, "spread": spread, "maps": maps, "start": self.plan.start
        }  # fmt: skip
        return settings | ({"start_prior": self.start_prior.sha256} if self.start_prior else {})

    def fitting(self, calibrations: Iterable[Calibration]) -> tuple[Calibration, ...]:
        """Return the calibrations that were measured with these settings, and with no more samples."""
        settings = self.calibrated_settings
        return tuple(
            each for each in calibrations if each.settings == settings and each.num_samples <= self.num_samples
        )

    def headline(self, device: object) -> str:
        """Return the first line of every reconstruction: method, preset, prior, steps, samples and device."""
        parts = [f"preset {self.preset.name} ({self.preset.source})"]
        if self.prior is not None:
            parts.append(f"prior {self.prior.name}")
        if self.plan.start is not None:
            parts.append(f"from {self.plan.start}{f' by {self.start_prior.name}' if self.start_prior else ''}")
        options = dataclasses.asdict(self.options)
        if "num_steps" in options:
            parts += [f"{options['num_steps']} steps", f"{self.num_samples} sample{'s' * (self.num_samples > 1)}"]
            parts += [f"the mean by {self.num_means} other chains, antithetic"] if self.spread else []
            parts += ["checked on held-out samples"] if self.checks else []
            parts += [f"calibrated for {len(self.calibrations)} families of masks"] if self.calibrations else []
        else:
            parts += [f"{name} {value}" for name, value in options.items()]
        return f"{self.plan.method}: {', '.join([*parts, str(device)])}"

    def prepare(self, raw: RawSlice, prior: Prior | None = None, *, heldout: Tensor | None = None) -> SliceData:
        """Make a slice ready with the plan's settings of coil maps, and with the start that it names.

        `prior` is the one that the plan was resolved with. See `kdrift.recon.slices.prepare_slice`.
        """
        plan = self.plan
        data = prepare_slice(
            raw, heldout=heldout, scale=self.prior.scale if self.prior else None,
            num_sets=plan.num_map_sets, most_sets=self.most_map_sets, crop=plan.map_crop, threshold=plan.map_threshold,
        )  # fmt: skip
        if self.fits_maps and data.maps_estimated:
            data = self._fit_maps(data, prior)
        self.method.check_map_sets(data.smaps.shape[:-3].numel(), self.plan.method)
        return self.started(data)

    def started(self, data: SliceData) -> SliceData:
        """Return a slice with the start that the plan names, from the data that the slice has."""
        plan, used = self.plan, self.start_prior
        if plan.start is None:
            return data
        if used is None:
            return with_start(data, plan.start)
        return with_start(data, plan.start, plan.start_prior or used.name, used.sha256)

    def score(self, prior: Prior) -> NetworkScore:
        """Return the score model of the prior that it was resolved with, in the plan's precision."""
        return prior.score(fast=None if self.plan.precision == "auto" else False)

    def _fit_maps(self, data: SliceData, prior: Prior | None) -> SliceData:
        if prior is None or self.prior is None:
            raise ValueError("coil maps are fitted with the prior: give the one that the plan was resolved with")
        sde, plan = prior.sde(*data.mask.shape), self.plan
        assert isinstance(sde, VESDE)  # see `_can_fit_maps`
        return fit_maps_of(
            self.score(prior), sde, data, scale=self.prior.scale, seed=plan.seed, choose=plan.num_map_sets is None
        )

    def split(self, num_coils: int, num_chunks: int = 1) -> list[Chunk]:
        """Split the chains of a slice of so many coils into chunks, a multiple of `num_chunks` where they suffice."""
        coils = num_coils if self.method.chains.splits else None
        chunks = list[Chunk]()
        counts: dict[Part, int] = {"mean": self.num_means, "samples": self.num_samples}
        for part, count in counts.items():
            if count:
                found = split_chains(
                    count, num_coils=coils, num_chunks=num_chunks, batch_samples=self.plan.batch_samples
                )
                chunks += [dataclasses.replace(chunk, part=part) for chunk in found]
        return chunks + [Chunk((0, CHECK_DRAWS), part="check")] * self.checks

    def chains(self, num_coils: int, chunk: Chunk) -> int:
        """Return how many complex images ask the network together in a chunk of a slice of so many coils."""
        coils = chunk.coils[1] - chunk.coils[0] if chunk.coils else num_coils
        return chunk.num_samples * (coils if self.method.chains.coil_images else 1)

    def num_chains(self, num_coils: int) -> int:
        """Return how many chains of samples and mean a slice has: one an image, or one a coil image."""
        return (self.num_samples + self.num_means) * (num_coils if self.method.chains.coil_images else 1)

    def evaluations(self, num_coils: int, chunk: Chunk | None = None) -> int:
        """Return how many images go through the network, all steps together, in all chunks or in one."""
        if chunk is None:
            return sum(self.evaluations(num_coils, each) for each in self.split(num_coils))
        if chunk.part == "check":
            coils = num_coils if self.method.chains.coil_images else 1
            draws = self.options_of("samples").evaluations
            return coils * (CHECK_DRAWS * draws + self.num_means * self.options.evaluations)
        return self.chains(num_coils, chunk) * self.options_of(chunk.part).evaluations
