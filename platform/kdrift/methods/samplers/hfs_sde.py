"""HFS-SDE (Cao et al. 2024), Algorithm 1, and VE, VP and sub-VP run the way that paper runs them.

Every predictor and corrector step follows the prior's score g and the data's gradient G = A^H (A x - y), scaled to it:
g - lambda (|g| / |G|) G. In HFS-SDE the high frequencies alone diffuse, so that sampling starts from the measured
centre of k-space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from kdrift.methods import Callback, ChainNoise, Measurement, Method, StartOptions, chain_norm, ratio
from kdrift.methods.samplers.predictor_corrector import (
    Corrector,
    Guide,
    Predictor,
    Scheme,
    evaluations_a_step,
    run_scheme,
    time_steps,
)
from kdrift.sde import SDE, VESDE, VPSDE, HighFrequencySDE, SubVPSDE
from kdrift.sde.score import ScoreModel

_ROUNDING = 1e-9
"""Indices closer to a whole number than this are that number."""


@dataclass(frozen=True)
class GuidedPCOptions(StartOptions):
    """Settings of predictor-corrector sampling with a scaled data gradient; the defaults are HFS-SDE's."""

    num_steps: int = 1000
    """N, predictor steps; VP needs more than `beta_max`."""
    num_corrector_steps: int = 1
    """M, corrector steps after each predictor step."""
    snr: float = 0.16
    """r of the corrector's step size."""
    lambda_1: float = 2.5
    """Weight of the data in the predictor: the norm of their gradient over that of the score."""
    lambda_2: float = 0.1
    """Weight of the data in the corrector, likewise."""
    sde: Literal["vp", "ve", "sub_vp"] = "vp"
    """SDE that takes images to noise; one prior serves all of them."""
    predictor: Predictor = "euler_maruyama"
    """Discretisation of the reverse SDE."""
    corrector: Corrector = "langevin"
    """`langevin` takes its step size from the norms of noise and score, `annealed_langevin` from the noise level."""
    beta_min: float = 0.1
    """beta at t = 0 of VP and sub-VP."""
    beta_max: float = 20.0
    """beta at t = 1 of VP and sub-VP."""
    sigma_min: float | None = None
    """Lowest level of VE, at least the prior's lowest; None: that one."""
    sigma_max: float | None = None
    """Highest level of VE, at most the prior's highest; None: that one."""
    t_min: float = 1e-3
    """eps, the time at which VP and sub-VP end; at least that of the prior's lowest level."""
    discretisation: Literal["paper", "released"] = "paper"
    """`released` asks the corrector at the time the predictor starts from, steps once beyond t_min, and omits the last
    noise; its steps of VP and sub-VP are 1/N long, and their corrector's alpha comes from a table."""
    table_length: int | None = None
    """Entries of the table of beta_i that `released` takes alpha = 1 - beta_i from, at index t (N - 1), for VP and
    sub-VP; None: N. With more than N the index ends low in the table, where alpha is nearly 1."""
    image_std: float | None = None
    """Standard deviation, over the whole image, that the magnitude of A^H y is brought to inside of VP and sub-VP,
    whose noise ends at 1; None: the image is as the prior has it."""
    corrector_first: bool = False
    """Correct before the predictor of each step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_corrector_steps < 0 or self.snr <= 0:
            raise ValueError(f"expected num_corrector_steps >= 0 and snr > 0, got {self}")
        if self.lambda_1 < 0 or self.lambda_2 < 0 or not 0 < self.t_min < 1:
            raise ValueError(f"expected lambda_1 and lambda_2 >= 0 and t_min in (0, 1), got {self}")
        if self.predictor == "ancestral" and self.sde == "sub_vp":
            raise ValueError("ancestral sampling is published for ve and vp; take reverse_diffusion for sub_vp")
        if self.table_length is not None and (self.discretisation == "paper" or self.sde == "ve"):
            raise ValueError("table_length is of discretisation released, for vp and sub_vp: set it to null")
        if self.table_length is not None and self.table_length < self.num_steps:
            raise ValueError(f"expected table_length >= num_steps, got {self.table_length} and {self.num_steps}")
        if self.image_std is not None and (self.sde == "ve" or self.image_std <= 0):
            raise ValueError("image_std is above 0, and of vp and sub_vp, whose noise ends at 1: set it to null")
        if self.predictor == "none" and (self.corrector == "none" or not self.num_corrector_steps):
            raise ValueError("neither predictor nor corrector: nothing would be sampled")

    @property
    def evaluations(self) -> int:
        """Network evaluations of one chain: one a predictor step and one a corrector step."""
        return self.steps_done * evaluations_a_step(self.predictor, self.corrector, self.num_corrector_steps)


@dataclass(frozen=True)
class HFSOptions(GuidedPCOptions):
    """Settings of Algorithm 1."""

    high_pass: Literal["coils", "plain"] = "coils"
    """F_h with coil maps around it (Eq. 12), or the plain filter (Eq. 11) of the released code."""
    mask_predictor_score: bool = True
    """Pass the predictor's score through F_h; the released code does so in the corrector alone."""


def hfs_sde(
    score: ScoreModel, sde: SDE, measurement: Measurement, *, rng: ChainNoise, options: HFSOptions,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """Algorithm 1: HFS-VP, HFS-VE or HFS-sub-VP. Returns complex `(sample, [set,] row, col)`.

    Starts from the coil-combined measured centre M_l y plus high-frequency noise. The schedule is clipped to the levels
    that the prior knows (std / alpha between those of `sde`): N steps over what is left of [t_min, 1]. `sde` holds M_l.
    Raises ValueError for an `sde` of white noise.
    """
    if not isinstance(sde, HighFrequencySDE):
        raise ValueError(f"hfs_sde needs a prior of high_frequency noise, got {type(sde).__name__}; pc_vp takes white")
    factor = _image_factor(options, measurement)
    score, measurement, callback = _scaled(factor, score, measurement, callback)
    maps = measurement.smaps if options.high_pass == "coils" else None
    own = HighFrequencySDE(_base(options, sde.base), sde.low, maps)
    scheme = _scheme(options, measurement, _times(options, own, sde.base, factor))
    scheme = replace(scheme, predictor_projected=options.mask_predictor_score)
    centre = measurement.A.adjoint(torch.where(sde.low, measurement.kspace, 0))
    x = _first(own, scheme, measurement, rng, centre)
    return run_scheme(score, own, scheme, x, rng=rng, callback=callback) / factor


def guided_pc(
    score: ScoreModel, sde: SDE, measurement: Measurement, *, rng: ChainNoise, options: GuidedPCOptions,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """VE, VP or sub-VP as HFS-SDE's comparison runs them. Returns complex `(sample, [set,] row, col)`.

    Starts from noise alone; the schedule is clipped as that of `hfs_sde`.
    """
    factor = _image_factor(options, measurement)
    score, measurement, callback = _scaled(factor, score, measurement, callback)
    own = _base(options, sde)
    scheme = _scheme(options, measurement, _times(options, own, sde, factor))
    x = _first(own, scheme, measurement, rng, torch.zeros_like(measurement.data))
    return run_scheme(score, own, scheme, x, rng=rng, callback=callback) / factor


def _image_factor(options: GuidedPCOptions, measurement: Measurement) -> float:
    """Return what images are multiplied by inside of the SDE; 1 where there are no data to go by."""
    if options.image_std is None:
        return 1.0
    std = float(measurement.data.abs().std(correction=0))
    return options.image_std / std if std > 0 else 1.0


def _scaled(
    factor: float, score: ScoreModel, measurement: Measurement, callback: Callback | None
) -> tuple[ScoreModel, Measurement, Callback | None]:
    """Return the score and the data of images times `factor`; the callback is told of images as the prior has them."""
    if factor == 1:
        return score, measurement, callback
    start = None if measurement.start is None else factor * measurement.start
    kspace, noise = factor * measurement.kspace, factor * measurement.noise_sigma
    tell = callback and (lambda done, of, images, level: callback(done, of, images / factor, level / factor))
    return (
        lambda x, sigma: score(x / factor, sigma / factor) / factor,
        replace(measurement, kspace=kspace, noise_sigma=noise, start=start),
        tell,
    )


def _scheme(options: GuidedPCOptions, measurement: Measurement, times: tuple[float, float]) -> Scheme:
    released = options.discretisation == "released"
    by_table = released and options.sde != "ve"  # VE goes from level to level of its grid
    dt = times[1] / options.num_steps if by_table else None
    steps = time_steps(*times, options.num_steps, released=released, dt=dt)
    return Scheme(
        steps[-options.steps_left(measurement) :],
        predictor=options.predictor,
        corrector=options.corrector,
        snr=options.snr,
        corrector_alpha=partial(_table_alpha, options) if by_table else None,
        num_corrector_steps=options.num_corrector_steps,
        corrector_first=options.corrector_first,
        final_mean=released,
        guide=_towards_data(measurement, options.lambda_1),
        corrector_guide=_towards_data(measurement, options.lambda_2),
    )


def _table_alpha(options: GuidedPCOptions, t: float) -> float:
    """Return alpha = 1 - beta_i, i = floor(t (N - 1)), of the released code's table of L beta_i: from beta_min / L to
    beta_max / L in equal steps. Raises ValueError where beta_i is above 1: the steps are too few."""
    length, index = options.table_length or options.num_steps, math.floor(t * (options.num_steps - 1) + _ROUNDING)
    beta = (options.beta_min + (options.beta_max - options.beta_min) * index / (length - 1)) / length
    if beta > 1:
        raise ValueError(f"beta_i must not be above 1, got {beta:.3g}: take more steps")
    return 1 - beta


def _first(sde: SDE, scheme: Scheme, measurement: Measurement, rng: ChainNoise, mean: Tensor) -> Tensor:
    """Return the first x: `mean` with noise, or the start (CCDF) taken to the first time by the forward SDE."""
    first, noise = torch.tensor(scheme.steps[0].start, dtype=torch.float64), rng(*mean.shape[-2:])
    if measurement.start is None:
        return mean + sde.std(first) * sde.project(noise)
    return sde.perturb(measurement.start, first, noise)


def _towards_data(measurement: Measurement, weight: float) -> Guide:
    """Return g - lambda (|g| / |G|) G with G = A^H (A x - y), norms of each chain; g alone where G is 0."""

    def guide(x: Tensor, g: Tensor) -> Tensor:
        gradient = measurement.A.normal(x) - measurement.data
        return g - ratio(weight * chain_norm(g), chain_norm(gradient)) * gradient

    return guide


def _base(options: GuidedPCOptions, known: SDE) -> SDE:
    """Return the SDE of the options; the levels of VE are clipped to those the prior knows."""
    if options.sde == "ve":
        lowest, highest = _levels(known)
        return VESDE(max(options.sigma_min or lowest, lowest), min(options.sigma_max or highest, highest))
    return (VPSDE if options.sde == "vp" else SubVPSDE)(options.beta_min, options.beta_max)


def _times(options: GuidedPCOptions, sde: SDE, known: SDE, factor: float) -> tuple[float, float]:
    """Return the lowest and the highest time of the schedule, clipped to the levels the prior knows, times `factor`."""
    if options.sde == "ve":
        return 0.0, 1.0  # its levels are clipped already
    lowest, highest = (float(sde.time(torch.tensor(factor * level, dtype=torch.float64))) for level in _levels(known))
    low, high = max(options.t_min, lowest), min(1.0, highest)
    if low >= high:
        raise ValueError(f"the prior knows the times {lowest:.3g} to {highest:.3g}, none of them above t_min {low:.3g}")
    return low, high


def _levels(known: SDE) -> tuple[float, float]:
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    lowest, highest = known.sigma(ends).tolist()
    return lowest, highest


# The papers divide images by their standard deviation; imported priors of `released` have such images already.
# The paper prints neither lambda nor r; these are the released code's, which has an r of its own for N = 100.
_GUIDED_VE = GuidedPCOptions(sde="ve", predictor="reverse_diffusion", snr=0.1, lambda_1=5.0, lambda_2=5.0)
_GUIDED_VP = GuidedPCOptions(snr=0.27, lambda_1=2.5, lambda_2=2.5, image_std=1.0)
_HFS = HFSOptions(image_std=1.0)
_HFS_RELEASED = HFSOptions(
    discretisation="released", corrector_first=True, high_pass="plain", mask_predictor_score=False
)


def _presets(paper: Any, released: Any, fast_snr: float) -> dict[str, Any]:
    """Return the presets of a VP method: N is set to 100 in the released code after its table of 1000 was made."""
    fast = {"num_steps": 100, "snr": fast_snr}
    return {
        "paper": paper,
        "paper_100": replace(paper, **fast),
        "released": released,
        "released_100": replace(released, **fast, table_length=1000),
    }


def _as_released(paper: GuidedPCOptions) -> GuidedPCOptions:
    return replace(paper, discretisation="released", corrector_first=True, image_std=None)


_VE_PRESETS = {
    "paper": _GUIDED_VE,
    "paper_100": replace(_GUIDED_VE, num_steps=100),
    "released": _as_released(_GUIDED_VE),
    "released_300": replace(_as_released(_GUIDED_VE), num_steps=300),
}

METHODS = {
    "pc_ve": Method(
        guided_pc, _VE_PRESETS,
        "predictor-corrector sampling of VE guided by the data's gradient, as HFS-SDE's paper runs it",
    ),
    "pc_vp": Method(
        guided_pc, _presets(_GUIDED_VP, _as_released(_GUIDED_VP), 0.43),
        "predictor-corrector sampling of VP, guided likewise",
    ),
    "hfs_sde": Method(
        hfs_sde, _presets(_HFS, _HFS_RELEASED, 0.32),
        "HFS-SDE Algorithm 1: the high frequencies alone diffuse, the centre of k-space starts as measured",
        needs="high_frequency",
    ),
}  # fmt: skip
