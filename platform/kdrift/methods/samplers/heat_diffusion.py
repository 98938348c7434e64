"""Heat-Diffusion, the published code of AK-Diffusion: one combined image, data by back-propagation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdrift.methods import Callback, ChainNoise, Measurement, Method, Options
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.sde import AttenuatedSDE
from kdrift.sde.score import ScoreModel, denoise_with_pullback

SNR_DB, RATES = (11.0, 15.0, 18.0), (0.2, 0.5, 0.6)
"""Step sizes of the data term at these SNRs, as published."""


@dataclass(frozen=True)
class HeatDiffusionOptions(Options):
    """Settings of Heat-Diffusion; the defaults are the published code's."""

    num_steps: int = 50
    """Levels that are visited, evenly spread from `start_index` down to 0."""
    num_times: int = 1000
    """T, levels of the discrete schedule."""
    start_index: int = 980
    """Number of the level that the chain starts at, counted from 0."""
    start_iterations: int = 30
    """CG-SENSE iterations of the image that the chain starts from."""
    lr: float | None = None
    """Step size of the data term; None: by the SNR of the start (`learning_rate`)."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_steps <= self.start_index < self.num_times or self.start_iterations < 1:
            raise ValueError(
                f"expected 1 <= num_steps <= start_index < num_times and start_iterations >= 1, got {self}"
            )
        if self.lr is not None and self.lr < 0:
            raise ValueError(f"expected lr >= 0, got {self}")

    @property
    def evaluations(self) -> int:
        """Network evaluations of one chain: one a level, through which its data term is back-propagated."""
        return self.num_steps


def heat_diffusion(
    score: ScoreModel, sde: AttenuatedSDE, measurement: Measurement, *, rng: ChainNoise, options: HeatDiffusionOptions,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """Draw complex images `(sample, row, col)`.

    From x_T = G_T x_CG + sigma_T n, at every level x_0 = h(x_t), x_0 <- x_0 - lr J^T A^H (A x_0 - y) with J the
    network's Jacobian, then the reverse step of Algorithm 1 with SS* = I; the last x_0 is returned.
    """
    operator, data = measurement.A, measurement.data
    rows, cols = data.shape
    last = options.num_times - 1
    chosen = torch.linspace(options.start_index, 0, options.num_steps + 1, dtype=torch.float64).round() / last
    times = chosen.to(data.real)
    sigmas = sde.sigma(times).tolist()
    windows = [sde.attenuation(t, rows, cols) for t in times]
    start = operator.solve_normal(data, 0.0, max_iter=options.start_iterations, tol=0.0)
    rate = learning_rate(start) if options.lr is None else options.lr
    z = windows[0] * fft2c(start) + sigmas[0] * rng(rows, cols)
    x0 = start
    for step in range(options.num_steps):
        x0, pullback = denoise_with_pullback(score, ifft2c(z), sigmas[step])
        x0 = x0 - rate * pullback(operator.normal(x0) - data)
        known = fft2c(x0)
        variance = sigmas[step] ** 2 - sigmas[step + 1] ** 2
        drift = (windows[step] - windows[step + 1]) * known
        pull = (variance / sigmas[step] ** 2) * (windows[step] * known - z)
        z = z - drift + pull + variance**0.5 * rng(rows, cols)
        if callback:
            callback(step + 1, options.num_steps, x0, sigmas[step + 1])
    return x0


def learning_rate(image: Tensor) -> float:
    """Return lr by the SNR of an image `(row, col)`: the published steps `SNR_DB` and `RATES`, linear in dB between.

    SNR in dB is 20 log10(s / n) with s the mean magnitude of the brightest quarter of the pixels and n the deviation of
    each component in the four corners, an eighth of the side each: which regions are taken is kdrift's choice.
    """
    magnitude = image.abs()
    rows, cols = (max(1, size // 8) for size in image.shape)
    corners = torch.cat([
        magnitude[place].flatten()
        for place in (
            (slice(rows), slice(cols)), (slice(rows), slice(-cols, None)),
            (slice(-rows, None), slice(cols)), (slice(-rows, None), slice(-cols, None)),
        )
    ])  # fmt: skip
    noise = float(corners.square().mean().sqrt()) / math.sqrt(2)
    signal = float(magnitude.flatten().topk(max(1, magnitude.numel() // 4)).values.mean())
    if noise == 0 or signal == 0:
        return RATES[-1] if signal else RATES[0]
    return float(np.interp(20 * math.log10(signal / noise), SNR_DB, RATES))


METHODS = {
    "heat_diffusion": Method(
        heat_diffusion, {"released": HeatDiffusionOptions()},
        "Heat-Diffusion, the code published with AK-Diffusion: one image, data by back-propagation",
        needs="attenuated", max_map_sets=1,
    ),
}  # fmt: skip
