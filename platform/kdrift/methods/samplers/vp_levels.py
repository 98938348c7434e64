"""What the variance-preserving samplers (DPS, DDS, DiffPIR) share: times, the denoised image, the start.

Their papers take the DDPM schedule, beta from 1e-4 to 0.02 over 1000 steps: a VP-SDE of beta 0.1 to 20 at 1000 steps.
Here its time is divided evenly into N steps over the part whose noise levels the prior knows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kdrift.methods import ChainNoise, Measurement, StartOptions
from kdrift.sde import VESDE, VPSDE
from kdrift.sde.score import ScoreModel, denoise


@dataclass(frozen=True)
class VPOptions(StartOptions):
    """Settings of a sampler on the VP-SDE."""

    num_steps: int = 1000
    """N, network evaluations."""
    beta_min: float = 0.1
    """beta at time 0 of the VP-SDE; 0.1 is DDPM's 1e-4 at 1000 steps."""
    beta_max: float = 20.0
    """beta at time 1; 20 is DDPM's 0.02 at 1000 steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        VPSDE(self.beta_min, self.beta_max)  # checks them


def alpha_bars(options: VPOptions, sde: VESDE, measurement: Measurement) -> list[float]:
    """Return alpha_bar = alpha(t)^2 of the N' steps to do, noisiest first, and 1 at the end.

    Times are evenly spaced; their levels sqrt(1 - alpha_bar) / sqrt(alpha_bar) are clipped to those of `sde`, the
    prior's. DDPM's own 157 down to 0.01 needs a prior that knows them.
    """
    vp = VPSDE(options.beta_min, options.beta_max)
    low, high = (float(vp.time(torch.tensor(s, dtype=torch.float64))) for s in (sde.sigma_min, sde.sigma_max))
    times = torch.linspace(min(high, 1.0), low, options.num_steps, dtype=torch.float64)
    return [*(vp.alpha(times) ** 2).tolist()[-options.steps_left(measurement) :], 1.0]


def vp_level(alpha_bar: float) -> float:
    """Noise level of x_t / sqrt(alpha_bar)."""
    return math.sqrt(1 / alpha_bar - 1)


def vp_denoise(score: ScoreModel, sde: VESDE, x: Tensor, alpha_bar: float) -> Tensor:
    """E[x_0 | x_t]: the prior is asked at x_t / sqrt(alpha_bar) and its noise level."""
    level = min(max(vp_level(alpha_bar), sde.sigma_min), sde.sigma_max)  # rounding of times may leave the range
    return denoise(score, x / math.sqrt(alpha_bar), level)


def vp_noise(x: Tensor, denoised: Tensor, alpha_bar: float) -> Tensor:
    """The noise e in x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) e for an estimate of x_0."""
    return (x - math.sqrt(alpha_bar) * denoised) / math.sqrt(1 - alpha_bar)


def vp_start(measurement: Measurement, alpha_bar: float, rng: ChainNoise) -> Tensor:
    """Noise the start, without one A^H y, to the first level.

    The papers start from N(0, I), where nothing of x_0 is left. That holds at DDPM's last level, not at the first one
    of a prior that knows less noise.
    """
    mean = measurement.first
    return math.sqrt(alpha_bar) * mean + math.sqrt(1 - alpha_bar) * rng(*mean.shape[-2:])
