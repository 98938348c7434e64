"""Score-MRI (Chung & Ye 2022), Algorithms 2 to 6: predictor-corrector steps alternating with data consistency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kdrift.methods.chain_noise import ChainNoise
from kdrift.methods.measurement import Callback, Measurement
from kdrift.methods.method import Method
from kdrift.methods.samplers.predictor_corrector import paper_steps, pc_sample, released_steps
from kdrift.methods.start import StartOptions, steps_left
from kdrift.mri.coils import combine
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.mri.sense import sense_operator
from kdrift.sde import VESDE
from kdrift.sde.score import ScoreModel


@dataclass(frozen=True)
class ScoreMRIOptions(StartOptions):
    """Settings of Algorithms 2, 3 and 4; the defaults are the paper's (section 4.2)."""

    num_steps: int = 2000
    """N, predictor steps."""
    num_corrector_steps: int = 1
    """M, corrector steps after each predictor step."""
    snr: float = 0.16
    """r of the corrector's step size."""
    sigma_min: float = 0.01
    """Lowest noise level (at least the prior's lowest)."""
    sigma_max: float = 378.0
    """Highest noise level (at most the prior's highest)."""
    discretisation: Literal["paper", "released"] = "paper"
    """`released` asks the corrector at the level the predictor starts from, ends at sigma 0, omits the last noise."""
    corrector_first: bool = False
    """Correct before the predictor of each step, as the released single-coil code does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_steps < 2 or self.num_corrector_steps < 0 or self.snr <= 0:
            raise ValueError(f"expected num_steps >= 2, num_corrector_steps >= 0 and snr > 0, got {self}")
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got {self}")


@dataclass(frozen=True)
class HybridOptions(ScoreMRIOptions):
    """Settings of Algorithm 5."""

    sense_interval: int = 1
    """m: the coils are coupled when the step's index is a multiple of this."""
    lambda_start: float = 1.0
    """lambda of the coupling at the first step."""
    lambda_stop: float = 0.2
    """lambda at the end, reached linearly."""
    lambda_steps: int | None = None
    """Steps over which lambda falls; None: the run's own N (the released code always counts to 2000)."""
    coupling: Literal["combine", "broadcast"] = "combine"
    """How Eq. 16 acts on coil images: `combine` by S^H, correct, expand by S, so that the coils agree; `broadcast`
    multiplies coil images by S again and adds one image to all coils, as the released code does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sense_interval < 1 or not 0 <= self.lambda_stop <= self.lambda_start <= 1:
            raise ValueError(f"expected sense_interval >= 1 and 1 >= lambda_start >= lambda_stop >= 0, got {self}")


def score_mri_real(
    score: ScoreModel, sde: VESDE, measurement: Measurement, *, rng: ChainNoise, options: ScoreMRIOptions,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """Algorithm 2: real images, `x <- Re(x + A^H (y - A x))`. Returns real `(sample, row, col)`."""
    step = _consistency(measurement)
    return _run(score, sde, measurement, rng, options, callback, lambda x: step(x + 0j).real, real=True)


def score_mri(
    score: ScoreModel, sde: VESDE, measurement: Measurement, *, rng: ChainNoise, options: ScoreMRIOptions,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """Algorithm 3: complex images with the SENSE operator. Returns complex `(sample, [set,] row, col)`."""
    return _run(score, sde, measurement, rng, options, callback, _consistency(measurement))


def score_mri_ssos(
    score: ScoreModel, sde: VESDE, measurement: Measurement, *, rng: ChainNoise, options: ScoreMRIOptions,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """Algorithm 4: Algorithm 3 on every coil image. Returns `(sample, coil, row, col)`, to be combined by RSS."""
    return _run(score, sde, measurement, rng, options, callback, _replace_samples(measurement))


def score_mri_hybrid(
    score: ScoreModel, sde: VESDE, measurement: Measurement, *, rng: ChainNoise, options: HybridOptions,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """Algorithm 5: as Algorithm 4, and every m steps a SENSE step of weight lambda couples the coils (Eq. 16)."""
    if measurement.smaps.ndim != 3:
        raise ValueError("the hybrid method takes one set of coil maps (coil, row, col)")
    falls_over = options.lambda_steps or options.num_steps

    def couple(x: Tensor, index: int) -> Tensor:
        done = options.num_steps - 1 - index
        if (index if options.discretisation == "paper" else done) % options.sense_interval:
            return x  # the paper counts down to 0, the released code up from 0
        fraction = min(done / max(falls_over - 1, 1), 1.0)
        weight = options.lambda_start + (options.lambda_stop - options.lambda_start) * fraction
        return _couple(x, measurement, weight, options.coupling)

    return _run(score, sde, measurement, rng, options, callback, _replace_samples(measurement), after_step=couple)


def _run(
    score: ScoreModel,
    sde: VESDE,
    measurement: Measurement,
    rng: ChainNoise,
    options: ScoreMRIOptions,
    callback: Callback | None,
    project: Callable[[Tensor], Tensor],
    *,
    real: bool = False,
    after_step: Callable[[Tensor, int], Tensor] = lambda x, index: x,
) -> Tensor:
    paper = options.discretisation == "paper"
    known = VESDE(max(options.sigma_min, sde.sigma_min), min(options.sigma_max, sde.sigma_max))
    levels = known.levels(options.num_steps + 1 if paper else options.num_steps)
    every = paper_steps(levels) if paper else released_steps(levels)
    steps = every[-steps_left(options.num_steps, options, measurement) :]
    x = steps[0].start * rng(*measurement.kspace.shape[-2:])
    if measurement.start is not None:
        x = measurement.start + x  # Algorithm 6, line 1
    return pc_sample(
        score,
        steps,
        x.real if real else x,
        rng=rng,
        snr=options.snr,
        num_corrector_steps=options.num_corrector_steps,
        corrector_first=options.corrector_first,
        project=project,
        after_step=after_step,
        final_mean=not paper,
        callback=callback,
    )


def _consistency(measurement: Measurement) -> Callable[[Tensor], Tensor]:
    """Return x + A^H (y - A x), Eq. 12 with lambda 1."""
    operator = sense_operator(measurement.smaps, measurement.mask)
    data = operator.adjoint(measurement.kspace)
    return lambda x: x + (data - operator.normal(x))


def _replace_samples(measurement: Measurement) -> Callable[[Tensor], Tensor]:
    """Return the same step for A = P F: sampled k-space is replaced by the data, coil by coil."""
    mask, kspace = measurement.mask, measurement.kspace
    return lambda x: ifft2c(torch.where(mask, kspace, fft2c(x)))


def _couple(x: Tensor, measurement: Measurement, weight: float, coupling: str) -> Tensor:
    smaps = measurement.smaps
    if coupling == "combine":
        operator = sense_operator(smaps, measurement.mask)
        image = combine(x, smaps)
        image = image + weight * (operator.adjoint(measurement.kspace) - operator.normal(image))
        return smaps * image[..., None, :, :]
    residual = torch.where(measurement.mask, measurement.kspace - fft2c(smaps * x), 0)
    return x + weight * combine(ifft2c(residual), smaps)[..., None, :, :]


_HYBRID = HybridOptions(sense_interval=50)  # the paper leaves m open; 50 is the released code's
_RELEASED_HYBRID = HybridOptions(
    num_steps=500, discretisation="released", sense_interval=50, lambda_steps=2000, coupling="broadcast"
)
_RELEASED = ScoreMRIOptions(discretisation="released", corrector_first=True)
_RELEASED_SSOS = ScoreMRIOptions(num_steps=500, discretisation="released")

METHODS = {
    "score_mri_real": Method(
        score_mri_real, ScoreMRIOptions, {"paper": ScoreMRIOptions(), "released": _RELEASED}, "image",
        "Score-MRI Algorithm 2: real-valued images",
        images="magnitude", only="magnitude",
    ),
    "score_mri": Method(
        score_mri, ScoreMRIOptions, {"paper": ScoreMRIOptions(), "released": _RELEASED}, "image",
        "Score-MRI Algorithm 3: complex images, SENSE operator where there are coils",
        images="magnitude",
    ),
    "score_mri_ssos": Method(
        score_mri_ssos, ScoreMRIOptions, {"paper": ScoreMRIOptions(), "released": _RELEASED_SSOS}, "coil",
        "Score-MRI Algorithm 4: every coil image on its own, root sum of squares",
        images="magnitude",
    ),
    "score_mri_hybrid": Method(
        score_mri_hybrid, HybridOptions, {"paper": _HYBRID, "released": _RELEASED_HYBRID}, "coupled_coils",
        "Score-MRI Algorithm 5: coil images coupled by SENSE steps, root sum of squares",
        images="magnitude",
    ),
}  # fmt: skip
