"""A plan, resolved once into a runner of chunks: names become functions, settings and a prior."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from kdrift.methods import METHODS, Callback, ChainNoise, Measurement
from kdrift.methods.classical import BASELINES, cg_sense
from kdrift.methods.start import StartOptions
from kdrift.mri.coils import rss
from kdrift.prior.bundle import Prior, load_prior, shipped_for
from kdrift.recon.chunks import Chunk, ChunkResult, Fallback
from kdrift.recon.guard import AllDiverged, Guard
from kdrift.recon.plan import DEFAULT_PRIOR, Plan, plan_preset
from kdrift.recon.residual import heldout_residual, residual
from kdrift.recon.slices import SliceData
from kdrift.runs.config import parse, suggest
from kdrift.trust.uncertainty import RunningMoments

Steps = Callable[[int, int], None]
"""Called with (sampler steps done, steps in all); raises to stop the work."""


class Runner(Protocol):
    """A resolved plan: runs chunks of a slice, and knows how its chains may be split."""

    @property
    def config(self) -> dict[str, Any]:
        """Resolved: method, preset, options, prior and its hash, samples, seed."""
        ...

    @property
    def num_samples(self) -> int:
        """Samples a slice; 1 for a classical method."""
        ...

    @property
    def independent_coils(self) -> bool:
        """Each coil image is a chain of its own."""
        ...

    def run_chunk(self, data: SliceData, chunk: Chunk, steps: Steps | None = None) -> ChunkResult:
        """Run the chains of `chunk`; `steps` is told (steps done, steps in all)."""
        ...


def resolve(plan: Plan, prior: Prior | str | None = None, device: str | torch.device = "auto") -> Runner:
    """Turn names into functions, settings and a prior; every mistake in them is found here.

    `prior` is a loaded prior, or a shipped name or path; only samplers need one. None: the method's shipped prior.
    Raises ValueError for an unknown method, preset or setting, or a prior that cannot serve.
    """
    maps = {"sets": plan.num_map_sets, "crop": plan.map_crop, "threshold": plan.map_threshold}
    common = {
        "method": plan.method,
        "num_samples": plan.num_samples,
        "seed": plan.seed,
        "maps": maps,
        "precision": plan.precision,
        "on_divergence": plan.on_divergence,
    }
    if plan.num_samples < 1 or plan.batch_samples < 1 or plan.seed < 0:
        raise ValueError(
            "num_samples and batch_samples must be at least 1 and seed 0 or larger, got"
            f" {plan.num_samples}, {plan.batch_samples} and {plan.seed}"
        )
    if plan.num_map_sets not in (1, 2) or not 0 <= plan.map_crop < 1 or not 0 < plan.map_threshold < 1:
        raise ValueError(
            "num_map_sets must be 1 or 2, map_crop in [0, 1) and map_threshold in (0, 1), got"
            f" {plan.num_map_sets}, {plan.map_crop} and {plan.map_threshold}"
        )
    if plan.method in BASELINES:
        if plan.preset:
            raise ValueError(f"{plan.method} has no presets, got {plan.preset!r}")
        if plan.start is not None:
            raise ValueError(f"{plan.method} is a classical method: it does not start from {plan.start!r}")
        options = _classical_options(plan)
        return _Classical(plan, {**common, "num_samples": 1, "preset": "", "options": options})
    if plan.method not in METHODS:
        raise ValueError(f"no method {plan.method!r}{suggest(plan.method, [*METHODS, *BASELINES])}")
    method = METHODS[plan.method]
    preset = plan_preset(plan)
    resolved = parse(method.options, {**preset.settings, **plan.settings}, f"method {plan.method}")
    _check_start(plan, resolved)
    if not isinstance(prior, Prior):
        prior = load_prior(prior or default_prior(plan.method), choose_device(device))
    _check_prior(plan.method, prior)
    used = {"name": prior.name, "sha256": prior.sha256}
    chosen = {"preset": preset.name, "preset_source": preset.source}
    config = {**common, **chosen, "options": dataclasses.asdict(resolved), "prior": used}
    if plan.start is not None:
        config["start"] = plan.start
    if preset.provenance:
        config["preset_provenance"] = preset.provenance
    return _Sampling(plan, config, resolved, prior)


def default_prior(method: str) -> str:
    """Name of the shipped prior that a method uses where none is named."""
    wanted = METHODS[method]
    return next(iter(shipped_for(wanted.noise, wanted.images)), DEFAULT_PRIOR)


def load_priors(methods: Iterable[str], name: str | None = None) -> dict[str, Prior]:
    """Load the prior of each sampler among `methods`: the one named, else each method's shipped one."""
    names = {method: name or default_prior(method) for method in methods if method in METHODS}
    loaded = {each: load_prior(each) for each in sorted(set(names.values()))}
    return {method: loaded[each] for method, each in names.items()}


def _check_prior(method: str, prior: Prior) -> None:
    wanted = METHODS[method]
    refusal = wanted.refusal(prior.name, prior.noise, prior.network_config.images)
    if refusal:
        able = ", ".join(shipped_for(wanted.noise, wanted.only))
        able = able or f"none is shipped, train one with noise.kind: {wanted.noise}"
        raise ValueError(f"method {method} {refusal}; priors that can serve it: {able}")


def _check_start(plan: Plan, options: Any) -> None:
    if plan.start is None:
        if isinstance(options, StartOptions) and options.start_time < 1:
            raise ValueError(
                f"start_time {options.start_time} leaves out steps: name a start, one of {', '.join(BASELINES)}"
            )
        return
    if not isinstance(options, StartOptions):
        able = [name for name, method in METHODS.items() if issubclass(method.options, StartOptions)]
        raise ValueError(f"{plan.method} cannot start from another reconstruction; those that can: {', '.join(able)}")
    if plan.start not in BASELINES:
        raise ValueError(f"no start {plan.start!r}{suggest(plan.start, list(BASELINES))}")
    if plan.num_map_sets != 1:
        raise ValueError(f"a start takes one set of coil maps, got {plan.num_map_sets}")


def _classical_options(plan: Plan) -> dict[str, Any]:
    options = dict(plan.settings)
    unknown = set(options) - {"weight", "max_iter"}
    if unknown:
        raise ValueError(f"{plan.method} has no setting {min(unknown)!r}; it has weight, max_iter")
    for name, value in options.items():
        kind = int if name == "max_iter" else (int, float)
        if not isinstance(value, kind) or isinstance(value, bool) or not 0 <= value < math.inf:
            expected = "a whole number" if name == "max_iter" else "a number"
            raise ValueError(f"{name} of {plan.method} must be {expected}, 0 or larger, got {value!r}")
    return options


def choose_device(device: str | torch.device) -> torch.device:
    """Return a usable device; `auto` is a GPU where there is one. Raises ValueError for one that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from None


@dataclass(frozen=True)
class _Classical:
    """A baseline: one image, no samples, no network."""

    plan: Plan
    config: dict[str, Any]
    num_samples: int = 1
    independent_coils: bool = False

    def run_chunk(self, data: SliceData, chunk: Chunk, steps: Steps | None = None) -> ChunkResult:
        if data.smaps.ndim != 3:
            raise ValueError(f"{self.plan.method} takes one set of coil maps, got {len(data.smaps)}")
        began = time.perf_counter()
        data = data.to(torch.device("cpu"))
        given = (data.kspace, data.mask, data.smaps)
        image = BASELINES[self.plan.method](*given, **self.config["options"])[None]
        stages = {"network": 0.0, "sampler": time.perf_counter() - began, "combine": 0.0}
        misfit = residual(image, *given).abs().square().flatten(1).sum(1)
        magnitude = image.abs()
        kept = magnitude if self.plan.keep_samples else None
        unseen = heldout_residual(image, data, data.smaps, None)
        return ChunkResult(chunk, RunningMoments.of(magnitude), kept, misfit, 0, 0, stages, unseen)


@dataclass(frozen=True)
class _Sampling:
    """A posterior sampler with its prior."""

    plan: Plan
    config: dict[str, Any]
    options: Any
    prior: Prior

    @property
    def num_samples(self) -> int:
        return self.plan.num_samples

    @property
    def independent_coils(self) -> bool:
        return METHODS[self.plan.method].chains == "coil"

    def run_chunk(self, data: SliceData, chunk: Chunk, steps: Steps | None = None) -> ChunkResult:
        method, kspace, smaps, scale = METHODS[self.plan.method], data.kspace, data.smaps, data.scale
        by_coil = method.chains != "image"
        if chunk.coils is not None:
            if not self.independent_coils:
                raise ValueError(f"the coils of {self.plan.method} cannot be split: leave out coils")
            kspace, smaps = kspace[slice(*chunk.coils)], smaps[..., slice(*chunk.coils), :, :]
        if by_coil:
            parts: range | None = range(*(chunk.coils or (0, len(kspace))))
        else:
            parts = range(len(smaps)) if smaps.ndim == 4 else None
        began = time.perf_counter()
        if self.plan.start is not None and data.start is None:
            raise ValueError(f"the slice has no start: prepare it with the plan that names {self.plan.start!r}")
        start = None if data.start is None else data.start / scale
        if start is not None and by_coil:
            start = smaps * start
        measurement = Measurement(kspace / scale, data.mask, smaps, data.noise_sigma / scale, start)
        score = _TimedScore(self.prior.score(fast=None if self.plan.precision == "auto" else False))
        samples, guard = range(*chunk.samples), Guard(measurement, chunk.num_samples, by_coil=by_coil)
        rng = ChainNoise(self.plan.seed, data.index, samples, parts, device=kspace.device, dtype=kspace.dtype)
        sde = self.prior.sde(*kspace.shape[-2:])
        try:
            x = method.sample(score, sde, measurement, rng=rng, options=self.options, callback=_told(guard, steps))
            guard.finish(x)
        except AllDiverged:
            x = kspace.new_full((*rng.shape, *kspace.shape[-2:]), torch.nan)
        sampled = time.perf_counter()
        healthy, combined_by = guard.healthy(), None if by_coil else smaps
        images = (scale * (rss(x) if by_coil or smaps.ndim == 4 else x.abs())).cpu()
        images[[row for row in range(len(images)) if row not in healthy]] = torch.nan
        moments = RunningMoments.of(images[healthy]) if healthy and chunk.coils is None else None
        kept = images if self.plan.keep_samples or chunk.coils is not None else None
        misfit = residual(scale * x, kspace, data.mask, combined_by).abs().square().flatten(1).sum(1).cpu()
        unseen = heldout_residual(scale * x, data, combined_by, chunk.coils)
        diverged = guard.divergences(data.index, chunk.samples[0])
        fallback = _cg_sense(data) if diverged and self.plan.on_divergence == "fallback" else None
        stages = {
            "network": score.seconds,
            "sampler": sampled - began - score.seconds,
            "combine": time.perf_counter() - sampled,
        }
        return ChunkResult(
            chunk, moments, kept, misfit, score.calls, score.num_images, stages, unseen, diverged, fallback
        )


def _told(guard: Guard, steps: Steps | None) -> Callback:
    def callback(done: int, total: int, images: Tensor, level: float) -> None:
        guard(done, total, images, level)
        if steps is not None:
            steps(done, total)

    return callback


def _cg_sense(data: SliceData) -> Fallback:
    smaps = data.smaps if data.smaps.ndim == 3 else data.smaps[0]  # the set that has nearly all of the signal
    image = cg_sense(data.kspace, data.mask, smaps)
    misfit = residual(image, data.kspace, data.mask, smaps).abs().square().sum()
    return Fallback(image.abs().cpu(), float(misfit))


class _TimedScore:
    """Counts and times the calls of a score model."""

    def __init__(self, score: Any) -> None:
        self._score, self.seconds, self.calls = score, 0.0, 0

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        began = time.perf_counter()
        result = self._score(x, sigma)
        self.seconds += time.perf_counter() - began
        self.calls += 1
        return result

    @property
    def num_images(self) -> int:
        return int(self._score.num_images)
