"""Chains of one slice, run as a batch by any method: measured, watched, combined and judged against the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kdrift.methods import ChainNoise, Measurement, Options
from kdrift.mri.coils import map_holes
from kdrift.mri.heldout import untested
from kdrift.mri.mask_family import mask_facts
from kdrift.prior.bundle import Prior
from kdrift.recon.check import classical_image, heldout_error, hold_out, noise_left, predict_groups
from kdrift.recon.chunks import Checked, Chunk, ChunkResult, Part
from kdrift.recon.guard import AllDiverged, Guard
from kdrift.recon.looks import Look, look_at
from kdrift.recon.resolved import ResolvedPlan
from kdrift.recon.slices import SliceData
from kdrift.runs.seeds import Stream
from kdrift.runs.stopwatch import Stopwatch, now
from kdrift.trust.family import with_calibration
from kdrift.trust.uncertainty import RunningMoments
from kdrift.trust.verdict import Evidence, judge

Show = Callable[[], Look | None]
"""Gives a look at the chains as they are, None where they are no images of the slice. It waits for the device: to be
called now and then, not in every step."""
Steps = Callable[[int, int, Show], None]
"""Called with (steps done, steps in all, what shows the chains) of a chunk; raises to stop the work."""


def run_chunk(
    plan: ResolvedPlan, prior: Prior | None, data: SliceData, chunk: Chunk, steps: Steps | None = None
) -> ChunkResult:
    """Run the chains of `chunk` on a prepared slice; `prior` is the one that the plan was resolved with.

    Raises ValueError where the chunk splits coils that the method cannot split, and for a slice without the start that
    the plan names.
    """
    method, scale = plan.method, data.scale
    if chunk.coils is not None and not method.chains.splits:
        raise ValueError(f"the coils of {plan.plan.method} cannot be split: leave out coils")
    if plan.plan.start is not None and data.start is None:
        raise ValueError(f"the slice has no start: prepare it with the plan that names {plan.plan.start!r}")
    if chunk.part == "check":
        return _run_check(plan, prior, data, chunk, steps)
    device = data.kspace.device
    began = now(device)
    part = data.of_coils(chunk.coils)
    if not len(part.kspace):
        return _no_coils(plan, data, chunk)
    measurement = part.measurement(method.chains)
    guard, score = Guard(measurement, chunk.num_samples), _TimedScore(device)

    def watch(done: int, total: int, images: Tensor, level: float) -> None:
        guard(done, total, images, level)
        if steps is not None:
            steps(done, total, lambda: look_at(part, measurement, chunk, images))

    try:
        if prior is None:
            x = method.function(measurement, options=plan.options)[None]
        elif not method.samples:
            with score.watch.measure():
                x = method.function(prior.network, measurement, options=plan.options)[None]
            score.calls = 1
        else:
            score = _TimedScore(device, plan.score(prior))
            x = method.function(
                score,
                prior.sde(*measurement.mask.shape),
                measurement,
                rng=_chain_noise(plan, part, chunk, measurement),
                options=plan.options_of(chunk.part),
                callback=watch,
            )
        guard.finish(x)
    except AllDiverged:
        x = measurement.data.new_full((chunk.num_samples, *measurement.A.ishape), torch.nan)
    sampled = now(device)
    healthy = guard.healthy()
    images = (scale * part.magnitude(x, method.chains)).cpu()
    images[[row for row in range(len(images)) if row not in healthy]] = torch.nan
    moments = RunningMoments.of(images[healthy]) if healthy and chunk.coils is None else None
    diverged = guard.divergences(data.index, chunk.samples[0])
    left = part.kspace - measurement.A.forward(scale * x + 0j)
    heldout = None
    if part.heldout is not None:
        heldout = scale * heldout_error(part, method.chains, x)[..., part.heldout.mask].cpu()
    combined, network = now(device), score.watch.seconds
    return ChunkResult(
        chunk=chunk,
        moments=moments,
        images=images if (plan.plan.keep_samples and chunk.part == "samples") or chunk.coils is not None else None,
        misfit=left.abs().square().flatten(1).sum(1).cpu(),
        nfe=score.calls,
        network_images=score.num_images,
        stages={"network": network, "sampler": sampled - began - network, "combine": combined - sampled},
        heldout=heldout,
        diverged=diverged,
        fallback=classical_image(data, "cg_sense") if diverged and plan.plan.on_divergence == "fallback" else None,
    )


def _run_check(
    plan: ResolvedPlan, prior: Prior | None, data: SliceData, chunk: Chunk, steps: Steps | None
) -> ChunkResult:
    """Hold samples out of a slice, predict them, and judge the slice."""
    assert prior is not None  # only samplers are checked
    assert plan.prior is not None
    device = data.kspace.device
    began = now(device)
    seen, groups = hold_out(data, plan.plan.seed)
    seen = plan.started(seen)
    measurement, score = seen.measurement(plan.method.chains), _TimedScore(device, plan.score(prior))
    total, lengths = plan.evaluations(len(data.kspace), chunk), list[int]()

    def run(chains: Chunk, options: Options) -> Tensor:
        before = score.calls

        def watch(done: int, of: int, images: Tensor, level: float) -> None:
            if steps is not None:
                steps(min(total, score.num_images), total, lambda: None)  # they are held to less than the data

        found = plan.method.function(
            score, prior.sde(*seen.mask.shape), measurement, rng=_chain_noise(plan, seen, chains, measurement),
            options=options, callback=watch,
        )  # fmt: skip
        lengths.append(score.calls - before)
        return found

    draws = images = run(chunk, plan.options_of("samples"))
    own = 1 - 1 / max(1, plan.num_samples)
    if plan.spread:
        means = replace(chunk, samples=(0, plan.num_means), part="mean")
        images, own = run(means, plan.options).mean(0, keepdim=True), 0.0
    residual, excess = _residual(images[0], measurement) if plan.method.fits_data else (0.0, 0.0)
    noise = data.noise_sigma * float(data.mask.float().mean()) ** 0.5 if plan.options.keeps_noise else 0.0
    known = None
    if plan.asks:
        keys = plan.plan.seed, data.index
        known = noise_left(score, images[0], prior.info.noise_left, *keys, noise=noise / data.scale)
    compared = predict_groups(seen, groups, measurement, images, draws, own) if groups else ()
    facts = mask_facts(data.mask)
    evidence = Evidence(
        compared, known, residual, excess, noise, noise_stated=data.noise_stated, asked_sets=data.asked_sets,
        extent=facts.extent, untested=untested(data.mask, groups) if groups else 0.0,
        map_holes=0 if data.maps_estimated else map_holes(data.smaps),
    )  # fmt: skip
    evidence = with_calibration(judge(evidence), plan.calibrations, facts, plan.prior.name)
    verdict, instead = judge(evidence), None
    if verdict.level == "not trusted" and verdict.best and plan.plan.on_mistrust == "fallback":
        instead = classical_image(data, verdict.best)
        verdict = verdict.giving(instead.method)
    seconds, network = now(device) - began, score.watch.seconds
    return ChunkResult(
        chunk, None, None, torch.zeros(0), max(lengths), score.num_images,
        {"network": network, "sampler": seconds - network, "combine": 0.0},
        checked=Checked(verdict, instead),
    )  # fmt: skip


def _residual(image: Tensor, measurement: Measurement) -> tuple[float, float]:
    """Return |M (y - A x)| as a part of |y|, and as a multiple of what noise explains."""
    left = float(torch.linalg.vector_norm(measurement.kspace - measurement.A.forward(image + 0j)))
    size = float(torch.linalg.vector_norm(measurement.kspace))
    explained = measurement.noise_sigma * (2 * len(measurement.kspace) * int(measurement.mask.sum())) ** 0.5
    return left / size if size else 0.0, left / explained if explained else 0.0


def _no_coils(plan: ResolvedPlan, data: SliceData, chunk: Chunk) -> ChunkResult:
    """Return what a chunk gives whose coils were all left out: chunks are planned before the data are read."""
    shape, points = data.mask.shape, 0 if data.heldout is None else int(data.heldout.mask.sum())
    return ChunkResult(
        chunk, None, torch.zeros(chunk.num_samples, *shape), torch.zeros(chunk.num_samples), 0, 0,
        dict.fromkeys(("network", "sampler", "combine"), 0.0),
        heldout=None if data.heldout is None else torch.zeros(chunk.num_samples, 0, points, dtype=torch.complex64),
    )  # fmt: skip


def choose_device(device: str | torch.device) -> torch.device:
    """Return a usable device; `auto` is a GPU where there is one. Raises ValueError for one that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from None


def _chain_noise(plan: ResolvedPlan, data: SliceData, chunk: Chunk, measurement: Measurement) -> ChainNoise:
    """Return the noise of the chunk's chains; coils keep their numbers however they are split."""
    streams: dict[Part, Stream] = {"samples": "chain", "mean": "mean chain", "check": "check chain"}
    first = chunk.coils[0] if chunk.coils else 0
    parts = [range(first, first + count) for count in measurement.A.ishape[:-2]]
    kspace = measurement.kspace
    return ChainNoise(
        plan.plan.seed, data.index, range(*chunk.samples), *parts, antithetic=chunk.part == "mean",
        stream=streams[chunk.part], device=kspace.device, dtype=kspace.dtype,
    )  # fmt: skip


class _TimedScore:
    """Counts and times the calls of a score model; without one there is nothing to count."""

    def __init__(self, device: torch.device, score: Any = None) -> None:
        self._score, self.watch, self.calls = score, Stopwatch(device), 0

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        with self.watch.measure():
            result: Tensor = self._score(x, sigma)
        self.calls += 1
        return result

    @property
    def num_images(self) -> int:
        return int(self._score.num_images) if self._score else self.calls
