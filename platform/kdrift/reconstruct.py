"""Undersampled k-space in, posterior mean and uncertainty out: the one way to an image.

The command line, jobs and services all call `reconstruct`. Slices are independent: scale, noise level and coil maps
come from each slice's own undersampled data, so an answer does not depend on which slices are asked for together.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from kdrift.baselines import BASELINES
from kdrift.coils import combine, espirit_maps, rss
from kdrift.config import parse, suggest, to_dict
from kdrift.fourier import fft2c, ifft2c
from kdrift.noise import estimate_noise_sigma
from kdrift.prior import Prior, load_prior
from kdrift.result import ReconstructionResult
from kdrift.samplers import METHODS, ChainNoise, Measurement
from kdrift.sde import VESDE
from kdrift.sense import sense_operator
from kdrift.uncertainty import RunningMoments

DEFAULT_METHOD = "annealed"
DEFAULT_PRIOR = "brain-magnitude-small"
SCALE_QUANTILE = 0.99

Progress = Callable[[int, int, int], None]
"""Called with (slice position, sampler steps done, steps in all)."""


@dataclass(frozen=True)
class Plan:
    """What to run, resolved: method, preset, settings, number of samples, seed."""

    method: str = DEFAULT_METHOD
    preset: str | None = None
    """None: `tuned` where the method has it, else `paper`; "" for a classical method."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Overrides of the preset's settings by name."""
    num_samples: int = 8
    seed: int = 0
    batch_samples: int = 8
    """Samples that run as one batch; bounds memory, never changes an answer."""
    keep_samples: bool = False
    precision: Literal["auto", "float32"] = "auto"
    """`auto`: the network runs in bfloat16 where the hardware computes in it natively."""
    num_map_sets: int = 1
    """ESPIRiT map sets, 1 or 2."""
    map_crop: float = 0.0
    """ESPIRiT maps are zero where their eigenvalue is not above this; 0 keeps the background, as RSS images do."""
    map_threshold: float = 0.02
    """Singular values of the calibration matrix below this fraction of the largest are null space."""


def reconstruct(
    kspace: Tensor,
    mask: Tensor | None = None,
    *,
    plan: Plan | None = None,
    prior: Prior | str | None = None,
    smaps: Tensor | None = None,
    slice_indices: list[int] | None = None,
    noise_sigma: float | None = None,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
) -> ReconstructionResult:
    """Reconstruct a volume of undersampled k-space slice by slice.

    Parameters
    ----------
    kspace : complex `(slice, coil, row, col)`, zero where not sampled (what `mask` leaves out is ignored).
    mask : boolean `(col,)` or `(row, col)`; None: all of it is sampled.
    prior : a loaded prior, or a shipped name or path; only samplers need one.
    smaps : `(slice, [set,] coil, row, col)`; None: ESPIRiT on the ACS of this undersampled k-space.
    slice_indices : numbers of the slices in their volume, for the chains' seeds; None: 0, 1, ...
    noise_sigma : of each real component of k-space; None: estimated from the periphery of each slice.
    device : where samplers and coil maps run; `auto`: a GPU where there is one. The result lies on the CPU.

    Raises
    ------
    ValueError
        Shapes that do not fit, an unknown method, preset or setting, or a prior that cannot serve.
    """
    started = time.perf_counter()
    plan = plan or Plan()
    if kspace.ndim != 4 or not kspace.is_complex():
        raise ValueError(f"kspace must be complex (slice, coil, row, col), got {tuple(kspace.shape)} {kspace.dtype}")
    shape = kspace.shape[-2:]
    device = _device(device)
    full_mask = torch.ones(shape, dtype=torch.bool) if mask is None else mask.expand(shape)
    full_mask, kspace = full_mask.to(device), kspace.to(device)
    kspace = torch.where(full_mask, kspace, 0)
    run = _resolve(plan, prior, device)
    stages = {"coil_maps": 0.0, "network": 0.0, "sampler": 0.0, "combine": 0.0}
    slices, all_maps, levels = [], [], []
    indices = slice_indices if slice_indices is not None else list(range(len(kspace)))
    for position, (index, data) in enumerate(zip(indices, kspace, strict=True)):
        with _timed(stages, "coil_maps"):
            maps = _slice_maps(data, plan) if smaps is None else smaps[position].to(device)
        all_maps.append(maps)
        levels.append(estimate_noise_sigma(data, full_mask) if noise_sigma is None else noise_sigma)
        steps = None if progress is None else _step_callback(progress, position, plan)
        slices.append(run.slice(_SliceData(index, data, full_mask, maps, levels[-1]), stages, steps))
    return ReconstructionResult(
        mean=torch.stack([s.mean for s in slices]).cpu(),
        std=torch.stack([s.std for s in slices]).cpu(),
        samples=torch.stack([s.samples for s in slices if s.samples is not None]).cpu() if plan.keep_samples else None,
        zero_filled=torch.stack([_zero_filled(d, m) for d, m in zip(kspace, all_maps, strict=True)]).cpu(),
        mask=full_mask.cpu(),
        smaps=torch.stack(all_maps).cpu(),
        nfe=slices[0].nfe,
        network_images=sum(s.network_images for s in slices),
        seconds=time.perf_counter() - started,
        stages=stages,
        config=run.config,
        net_acceleration=full_mask.numel() / int(full_mask.sum()),
        data_residual=float(np.mean([s.residual for s in slices])),
        noise_sigma=levels,
    )


@dataclass(frozen=True)
class _SliceData:
    """One slice to reconstruct; shapes as in `Measurement`, on the scale of the data."""

    index: int
    kspace: Tensor
    mask: Tensor
    smaps: Tensor
    noise_sigma: float


@dataclass(frozen=True)
class _Slice:
    mean: Tensor
    std: Tensor
    samples: Tensor | None
    nfe: int
    network_images: int
    residual: float


@dataclass(frozen=True)
class _Classical:
    """A baseline: one image, no samples, no network."""

    plan: Plan
    config: dict[str, Any]

    def slice(self, data: _SliceData, stages: dict[str, float], steps: Any) -> _Slice:
        if data.smaps.ndim != 3:
            raise ValueError(f"{self.plan.method} takes one set of coil maps, got {len(data.smaps)}")
        with _timed(stages, "sampler"):
            on_cpu = (data.kspace.cpu(), data.mask.cpu(), data.smaps.cpu())
            image = BASELINES[self.plan.method](*on_cpu, **self.config["options"]).to(data.kspace.device)
        mean = image.abs()
        residual = _residual(image[None], data.kspace, data.mask, data.smaps)
        samples = mean[None] if self.plan.keep_samples else None
        return _Slice(mean, torch.zeros_like(mean), samples, 0, 0, residual)


@dataclass(frozen=True)
class _Sampling:
    """A posterior sampler with its prior."""

    plan: Plan
    config: dict[str, Any]
    options: Any
    prior: Prior

    def slice(self, data: _SliceData, stages: dict[str, float], steps: Any) -> _Slice:
        method, kspace, smaps = METHODS[self.plan.method], data.kspace, data.smaps
        scale = image_scale(kspace, smaps)
        measurement = Measurement(kspace / scale, data.mask, smaps, data.noise_sigma / scale)
        sde = VESDE(*self.prior.sigma_range)
        coils = method.chains == "coil"
        parts = len(kspace) if coils else (len(smaps) if smaps.ndim == 4 else None)
        score = _TimedScore(self.prior.score(fast=None if self.plan.precision == "auto" else False))
        moments, kept, residuals = None, [], []
        for first in range(0, self.plan.num_samples, self.plan.batch_samples):
            block = range(first, min(first + self.plan.batch_samples, self.plan.num_samples))
            rng = ChainNoise(self.plan.seed, data.index, block, parts, device=kspace.device, dtype=kspace.dtype)
            began, in_network = time.perf_counter(), score.seconds
            x = method.sample(score, sde, measurement, rng=rng, options=self.options, callback=steps)
            stages["sampler"] += time.perf_counter() - began - (score.seconds - in_network)
            with _timed(stages, "combine"):
                images = scale * (rss(x) if coils or smaps.ndim == 4 else x.abs())
                block_moments = RunningMoments.of(images)
                moments = block_moments if moments is None else moments.merge(block_moments)
                residuals.append(_residual(scale * x, kspace, data.mask, None if coils else smaps))
                kept.append(images if self.plan.keep_samples else images[:0])
        assert moments is not None
        stages["network"] += score.seconds
        samples = torch.cat(kept) if self.plan.keep_samples else None
        nfe = score.calls // len(residuals)
        residual = float(np.mean(residuals))
        return _Slice(moments.mean, moments.std, samples, nfe, score.num_images, residual)


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


def _resolve(plan: Plan, prior: Prior | str | None, device: torch.device) -> _Classical | _Sampling:
    """Turn names into functions, settings and the prior; every mistake in them is found here."""
    maps = {"sets": plan.num_map_sets, "crop": plan.map_crop, "threshold": plan.map_threshold}
    common = {
        "method": plan.method,
        "num_samples": plan.num_samples,
        "seed": plan.seed,
        "maps": maps,
        "precision": plan.precision,
    }
    if plan.num_samples < 1 or plan.batch_samples < 1:
        raise ValueError(
            f"num_samples and batch_samples must be at least 1, got {plan.num_samples}, {plan.batch_samples}"
        )
    if plan.method in BASELINES:
        if plan.preset:
            raise ValueError(f"{plan.method} has no presets, got {plan.preset!r}")
        options = dict(plan.settings)
        unknown = set(options) - {"weight", "max_iter"}
        if unknown:
            raise ValueError(f"{plan.method} has no setting {min(unknown)!r}; it has weight, max_iter")
        return _Classical(plan, {**common, "num_samples": 1, "preset": "", "options": options})
    if plan.method not in METHODS:
        raise ValueError(f"no method {plan.method!r}{suggest(plan.method, [*METHODS, *BASELINES])}")
    method = METHODS[plan.method]
    try:
        name, preset = method.preset(plan.preset)
    except ValueError as error:
        raise ValueError(f"method {plan.method}: {error}") from None
    resolved = parse(method.options, {**to_dict(preset), **plan.settings}, f"method {plan.method}")
    prior = prior if isinstance(prior, Prior) else load_prior(prior or DEFAULT_PRIOR, device)
    used = {"name": prior.name, "sha256": prior.sha256}
    config = {**common, "preset": name, "options": dataclasses.asdict(resolved), "prior": used}
    return _Sampling(plan, config, resolved, prior)


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from None


def image_scale(kspace: Tensor, smaps: Tensor) -> float:
    """Image scale of one slice: 0.99 quantile of the matched combination of its undersampled data.

    The same quantile that training divides by; never taken from a reference (METHODS: CSGM-Langevin). `kspace` is
    `(coil, row, col)`. Raises ValueError for k-space that is zero.
    """
    image = _zero_filled(kspace, smaps)
    scale = float(torch.quantile(image.flatten(), SCALE_QUANTILE)) or float(image.max())
    if not scale > 0:
        raise ValueError("kspace is zero everywhere: nothing to reconstruct")
    return scale


def _slice_maps(kspace: Tensor, plan: Plan) -> Tensor:
    if len(kspace) == 1:
        return torch.ones_like(kspace)
    return espirit_maps(kspace, num_sets=plan.num_map_sets, crop=plan.map_crop, threshold=plan.map_threshold)


def _zero_filled(kspace: Tensor, smaps: Tensor) -> Tensor:
    images = ifft2c(kspace)
    return combine(images, smaps).abs() if smaps.ndim == 3 else rss(combine(images[None], smaps))


def _residual(x: Tensor, kspace: Tensor, mask: Tensor, smaps: Tensor | None) -> float:
    predicted = torch.where(mask, fft2c(x), 0) if smaps is None else sense_operator(smaps, mask).forward(x + 0j)
    return float(torch.linalg.vector_norm(predicted - kspace) / torch.linalg.vector_norm(kspace) / len(x) ** 0.5)


def _step_callback(progress: Progress, position: int, plan: Plan) -> Callable[[int, int], None]:
    blocks = -(-plan.num_samples // plan.batch_samples)
    finished = 0

    def step(done: int, total: int) -> None:
        nonlocal finished
        progress(position, finished * total + done, blocks * total)
        finished += done == total

    return step


class _timed:
    """Adds the seconds of a block to a stage."""

    def __init__(self, stages: dict[str, float], name: str) -> None:
        self._stages, self._name = stages, name

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._stages[self._name] += time.perf_counter() - self._began
