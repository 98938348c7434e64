"""DiffPIR (Zhu et al. 2023, Algorithm 1): plug-and-play restoration by half-quadratic splitting within diffusion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from kdrift.methods import LEAST_NOISE, Callback, ChainNoise, Measurement, Method
from kdrift.methods.samplers.vp_levels import VPOptions, alpha_bars, vp_denoise, vp_level, vp_noise, vp_start
from kdrift.sde import VESDE
from kdrift.sde.score import ScoreModel


@dataclass(frozen=True)
class DiffPIROptions(VPOptions):
    """Settings of DiffPIR."""

    num_steps: int = 100
    """N, network evaluations."""
    weight: float = 1.0
    """lambda: weight of the denoised image against the data."""
    zeta: float = 0.1
    """Share of fresh noise, 0 (deterministic) to 1."""
    noise_scale: float = 1.0
    """Factor on the estimated noise level of the data."""
    cg_iterations: int = 12
    """Most conjugate-gradient steps of a data step, from the denoised image. One unit coil is solved in closed form."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight <= 0 or not 0 <= self.zeta <= 1 or self.noise_scale <= 0 or self.cg_iterations < 1:
            raise ValueError(f"expected weight, noise_scale, cg_iterations > 0 and zeta in [0, 1], got {self}")


def diffpir(
    score: ScoreModel, sde: VESDE, measurement: Measurement, *, rng: ChainNoise, options: DiffPIROptions,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """Draw samples, complex `(sample, [set,] row, col)`.

    With A and A' the alpha_bar of this level and the next, D = E[x_0 | x] at noise level sigma_t and s the noise level
    of the data (at least LEAST_NOISE): x_0 = argmin |y - A x|^2 + rho |x - D|^2, rho = lambda s^2 / sigma_t^2,
    e = (x - sqrt(A) x_0) / sqrt(1 - A), x <- sqrt(A') x_0 + sqrt(1 - A') (sqrt(1 - zeta) e + sqrt(zeta) z). Noise
    levels are clipped to those of `sde`.
    """
    operator, data = measurement.A, measurement.data
    bars = alpha_bars(options, sde, measurement)
    s = max(measurement.noise_sigma * options.noise_scale, LEAST_NOISE)
    x = vp_start(measurement, bars[0], rng)
    for i, (bar, after) in enumerate(pairwise(bars)):
        denoised = vp_denoise(score, sde, x, bar)
        rho = options.weight * (s / vp_level(bar)) ** 2
        missing = data - operator.normal(denoised)
        x0 = denoised + operator.solve_normal(missing, rho, max_iter=options.cg_iterations, tol=1e-4)
        noise = math.sqrt(1 - options.zeta) * vp_noise(x, x0, bar)
        if options.zeta and after < 1:
            noise = noise + math.sqrt(options.zeta) * rng(*x.shape[-2:])
        x = math.sqrt(after) * x0 + math.sqrt(1 - after) * noise
        if callback:
            callback(i + 1, len(bars) - 1, x0, vp_level(after))
    return x


METHODS = {
    "diffpir": Method(
        # the published configuration is that for missing pixels
        diffpir, {"paper": DiffPIROptions(), "released": DiffPIROptions(num_steps=20, zeta=1.0)},
        "DiffPIR: a proximal data step on the denoised image, weighed by the noise levels of data and image",
    ),
}  # fmt: skip
