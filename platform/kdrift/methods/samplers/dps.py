"""Diffusion posterior sampling (DPS; Chung et al. 2023, Algorithm 1, Gaussian noise)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from kdrift.methods import Callback, ChainNoise, Measurement, Method
from kdrift.methods.samplers.vp_levels import VPOptions, alpha_bars, vp_denoise, vp_level, vp_start
from kdrift.sde import VESDE
from kdrift.sde.score import ScoreModel


@dataclass(frozen=True)
class DPSOptions(VPOptions):
    """Settings of DPS."""

    zeta: float = 1.0
    """zeta': factor of the gradient of |y - A x_0|, the norm itself, as in the published code (the step as printed,
    zeta' / |y - A x_0| times the gradient of the squared norm, is twice that)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.zeta < 0:
            raise ValueError(f"expected zeta >= 0, got {self.zeta}")


def dps(
    score: ScoreModel, sde: VESDE, measurement: Measurement, *, rng: ChainNoise, options: DPSOptions,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """Draw samples, complex `(sample, [set,] row, col)`, by ancestral DDPM steps in the VP form.

    With A and A' the alpha_bar of this level and the next, a = A / A' and D = E[x_0 | x]:
    x <- sqrt(a) (1 - A') / (1 - A) x + sqrt(A') (1 - a) / (1 - A) D + s z - zeta' grad_x |y - A D(x)|,
    s^2 = (1 - a) (1 - A') / (1 - A), the smaller of DDPM's two variances. The gradient goes through the network. Noise
    levels are clipped to those of `sde`.
    """
    bars = alpha_bars(options, sde, measurement)
    x = vp_start(measurement, bars[0], rng)
    for i, (bar, after) in enumerate(pairwise(bars)):
        denoised, gradient = guidance(score, sde, measurement, x, bar)
        step = bar / after
        mean = math.sqrt(step) * (1 - after) * x + math.sqrt(after) * (1 - step) * denoised
        x = mean / (1 - bar) - options.zeta * gradient
        if after < 1:
            x = x + math.sqrt((1 - step) * (1 - after) / (1 - bar)) * rng(*x.shape[-2:])
        if callback:
            callback(i + 1, len(bars) - 1, x / math.sqrt(after), vp_level(after))
    return x


def guidance(
    score: ScoreModel, sde: VESDE, measurement: Measurement, x: Tensor, alpha_bar: float
) -> tuple[Tensor, Tensor]:
    """Return E[x_0 | x_t] and the gradient of |y - A E[x_0 | x_t]| with respect to x_t, each chain's norm its own.

    The norms of the chains are summed: the gradient of the sum is, chain by chain, that of its own norm. It is
    d/d Re x + i d/d Im x.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        denoised = vp_denoise(score, sde, x, alpha_bar)
        residual = torch.view_as_real(measurement.kspace - measurement.A.forward(denoised)).flatten(1)
        (gradient,) = torch.autograd.grad(torch.linalg.vector_norm(residual, dim=1).sum(), x)
    return denoised.detach(), gradient


METHODS = {
    "dps": Method(
        dps, {"paper": DPSOptions(), "released": DPSOptions(zeta=0.5)},  # the published one for missing pixels
        "DPS: ancestral steps guided by the gradient of the data misfit through the network",
        through_network=True,
    ),
}  # fmt: skip
