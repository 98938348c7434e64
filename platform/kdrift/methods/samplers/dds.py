"""Decomposed diffusion sampling (DDS; Chung, Lee and Ye 2024), VP-DDIM with conjugate-gradient data steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from kdrift.methods import Callback, ChainNoise, Measurement, Method
from kdrift.methods.samplers.vp_levels import VPOptions, alpha_bars, vp_denoise, vp_level, vp_noise, vp_start
from kdrift.sde import VESDE
from kdrift.sde.score import ScoreModel


@dataclass(frozen=True)
class DDSOptions(VPOptions):
    """Settings of DDS; the defaults are the paper's."""

    num_steps: int = 50
    """N, network evaluations."""
    eta: float = 0.85
    """Share of fresh noise, 0 (DDIM) to 1 (DDPM)."""
    cg_iterations: int = 5
    """M, conjugate-gradient steps of a data step, from the denoised image. One unit coil is solved in closed form."""
    gamma: float | None = 1.0
    """Weight of the data in argmin gamma/2 |y - A x|^2 + 1/2 |x - D|^2. None: the paper's form for data without noise,
    M steps on A^H A x = A^H y from D."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1 or self.cg_iterations < 1 or (self.gamma is not None and self.gamma <= 0):
            raise ValueError(f"expected eta in [0, 1], cg_iterations >= 1 and gamma > 0 or None, got {self}")


def dds(
    score: ScoreModel, sde: VESDE, measurement: Measurement, *, rng: ChainNoise, options: DDSOptions,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """Draw samples, complex `(sample, [set,] row, col)`.

    With A and A' the alpha_bar of this level and the next, D = E[x_0 | x] and e = (x - sqrt(A) D) / sqrt(1 - A):
    x_0 = CG(I + gamma A^H A, D + gamma A^H y), M steps from D, and x <- sqrt(A') x_0 + sqrt(1 - A' - eta^2 b^2) e +
    eta b z, b^2 = (1 - A') / (1 - A) (1 - A / A'). Noise levels are clipped to those of `sde`.
    """
    operator, data = measurement.A, measurement.data
    bars = alpha_bars(options, sde, measurement)
    weight = 0.0 if options.gamma is None else 1 / options.gamma
    x = vp_start(measurement, bars[0], rng)
    for i, (bar, after) in enumerate(pairwise(bars)):
        denoised = vp_denoise(score, sde, x, bar)
        # the same steps on the correction to D, which start at zero and leave alone what no data see
        missing = data - operator.normal(denoised)
        x0 = denoised + operator.solve_normal(missing, weight, max_iter=options.cg_iterations, tol=1e-6)
        fresh = options.eta * math.sqrt((1 - after) / (1 - bar) * (1 - bar / after))
        x = math.sqrt(after) * x0 + math.sqrt(max(1 - after - fresh**2, 0.0)) * vp_noise(x, denoised, bar)
        if fresh:
            x = x + fresh * rng(*x.shape[-2:])
        if callback:
            callback(i + 1, len(bars) - 1, x0, vp_level(after))
    return x


METHODS = {
    "dds": Method(
        dds, {"paper": DDSOptions()},
        "DDS: DDIM with a few conjugate-gradient steps on the denoised image, tens of evaluations",
    ),
}  # fmt: skip
