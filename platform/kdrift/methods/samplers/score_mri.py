"""Score-MRI (Chung & Ye 2022), Algorithms 2 to 6: predictor-corrector steps alternating with data consistency."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from kdrift.methods import COILS, COUPLED_COILS, Callback, ChainNoise, Measurement, Method, StartOptions
from kdrift.methods.samplers.predictor_corrector import Scheme, evaluations_a_step, run_scheme, time_steps
from kdrift.mri.coils import combine
from kdrift.sde import VESDE
from kdrift.sde.score import ScoreModel

COUPLINGS = 40
"""Times that the hybrid couples the coils where m is not given."""


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
        if self.num_corrector_steps < 0 or self.snr <= 0:
            raise ValueError(f"expected num_corrector_steps >= 0 and snr > 0, got {self}")
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got {self}")

    @property
    def evaluations(self) -> int:
        """Network evaluations of one chain: one a predictor step and one a corrector step."""
        return self.steps_done * evaluations_a_step("reverse_diffusion", "langevin_parts", self.num_corrector_steps)


@dataclass(frozen=True)
class HybridOptions(ScoreMRIOptions):
    """Settings of Algorithm 5."""

    sense_interval: int | None = None
    """m: the coils are coupled when the step's index is a multiple of this; None: N / 40, which keeps the 40 couplings
    of a run of 2000 steps with the released code's m of 50. The paper leaves m open."""
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
        if (self.sense_interval or 1) < 1 or not 0 <= self.lambda_stop <= self.lambda_start <= 1:
            raise ValueError(f"expected sense_interval >= 1 and 1 >= lambda_start >= lambda_stop >= 0, got {self}")

    @property
    def interval(self) -> int:
        """m, at least 1."""
        return self.sense_interval or max(1, round(self.num_steps / COUPLINGS))


def score_mri_real(
    score: ScoreModel, sde: VESDE, measurement: Measurement, *, rng: ChainNoise, options: ScoreMRIOptions,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """Algorithm 2: real images, `x <- Re(x + A^H (y - A x))`. Returns real `(sample, row, col)`."""
    known, scheme, x = _prepare(sde, measurement, rng, options)
    scheme = replace(scheme, project=lambda x: measurement.consistent(x + 0j).real)
    return run_scheme(score, known, scheme, x.real, rng=rng, callback=callback)


def score_mri(
    score: ScoreModel, sde: VESDE, measurement: Measurement, *, rng: ChainNoise, options: ScoreMRIOptions,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """Algorithm 3 on images, with the SENSE operator; on coil images it is Algorithm 4, data put in coil by coil.

    Returns complex `(sample, *parts, row, col)`.
    """
    known, scheme, x = _prepare(sde, measurement, rng, options)
    return run_scheme(score, known, scheme, x, rng=rng, callback=callback)


def score_mri_hybrid(
    score: ScoreModel, sde: VESDE, measurement: Measurement, *, rng: ChainNoise, options: HybridOptions,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """Algorithm 5: as Algorithm 4, and every m steps a SENSE step of weight lambda couples the coils (Eq. 16)."""
    smaps, sense = measurement.smaps, measurement.sense
    falls_over = options.lambda_steps or options.num_steps

    def couple(x: Tensor, index: int) -> Tensor:
        done = options.num_steps - 1 - index
        if (index if options.discretisation == "paper" else done) % options.interval:
            return x  # the paper counts down to 0, the released code up from 0
        fraction = min(done / max(falls_over - 1, 1), 1.0)
        weight = options.lambda_start + (options.lambda_stop - options.lambda_start) * fraction
        if options.coupling == "broadcast":
            residual = measurement.A.adjoint(measurement.kspace - measurement.A.forward(smaps * x))
            return x + weight * combine(residual, smaps)[..., None, :, :]
        image = combine(x, smaps)
        image = image + weight * (sense.adjoint(measurement.kspace) - sense.normal(image))
        return smaps * image[..., None, :, :]

    known, scheme, x = _prepare(sde, measurement, rng, options)
    return run_scheme(score, known, replace(scheme, after_step=couple), x, rng=rng, callback=callback)


def _prepare(
    sde: VESDE, measurement: Measurement, rng: ChainNoise, options: ScoreMRIOptions
) -> tuple[VESDE, Scheme, Tensor]:
    """Return the SDE over the levels that the prior knows, the scheme of Algorithm 3, and the first x."""
    released = options.discretisation == "released"
    known = VESDE(max(options.sigma_min, sde.sigma_min), min(options.sigma_max, sde.sigma_max))
    steps = time_steps(0.0, 1.0, options.num_steps, released=released)[-options.steps_left(measurement) :]
    scheme = Scheme(
        steps, corrector="langevin_parts", snr=options.snr, num_corrector_steps=options.num_corrector_steps,
        corrector_first=options.corrector_first, final_mean=released, project=measurement.consistent,
    )  # fmt: skip
    first = torch.tensor(steps[0].start, dtype=torch.float64)
    x = known.std(first) * rng(*measurement.mask.shape)
    return known, scheme, x if measurement.start is None else measurement.start + x  # Algorithm 6, line 1


_RELEASED_HYBRID = HybridOptions(
    num_steps=500, discretisation="released", sense_interval=50, lambda_steps=2000, coupling="broadcast"
)
_RELEASED = ScoreMRIOptions(discretisation="released", corrector_first=True)
_RELEASED_SSOS = ScoreMRIOptions(num_steps=500, discretisation="released")

METHODS = {
    "score_mri_real": Method(
        score_mri_real, {"paper": ScoreMRIOptions(), "released": _RELEASED},
        "Score-MRI Algorithm 2: real-valued images",
        images="magnitude", only="magnitude",
    ),
    "score_mri": Method(
        score_mri, {"paper": ScoreMRIOptions(), "released": _RELEASED},
        "Score-MRI Algorithm 3: complex images, SENSE operator where there are coils",
        images="magnitude",
    ),
    "score_mri_ssos": Method(
        score_mri, {"paper": ScoreMRIOptions(), "released": _RELEASED_SSOS},
        "Score-MRI Algorithm 4: every coil image on its own, root sum of squares",
        COILS, images="magnitude",
    ),
    "score_mri_hybrid": Method(
        score_mri_hybrid, {"paper": HybridOptions(), "released": _RELEASED_HYBRID},
        "Score-MRI Algorithm 5: coil images coupled by SENSE steps, root sum of squares",
        COUPLED_COILS, images="magnitude", max_map_sets=1,
    ),
}  # fmt: skip
