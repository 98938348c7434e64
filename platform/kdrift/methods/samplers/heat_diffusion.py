"""Heat-Diffusion, the published code of AK-Diffusion: one combined image, data by back-propagation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kdrift.methods import Callback, ChainNoise, Measurement, Method, Options
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.sde import AttenuatedSDE
from kdrift.sde.score import ScoreModel, denoise_with_pullback


@dataclass(frozen=True)
class HeatDiffusionOptions(Options):
    """Settings of Heat-Diffusion; the defaults are the published code's, except for the two SNRs."""

    num_steps: int = 50
    """Levels that are visited, evenly spread over `num_times`."""
    num_times: int = 1000
    """T, levels of the discrete schedule."""
    start_iterations: int = 30
    """CG-SENSE iterations of the image that the chain starts from."""
    lr_low: float = 0.2
    """lr at an SNR of `snr_low_db` and below."""
    lr_high: float = 0.6
    """lr at an SNR of `snr_high_db` and above; linear in dB between."""
    snr_low_db: float = 20.0
    """SNR in dB up to which `lr_low` is used: 20 log10(1 / noise level of the data), 1 being the image scale. Both SNRs
    are kdrift's choice."""
    snr_high_db: float = 40.0
    """SNR in dB from which on `lr_high` is used; see `snr_low_db`."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_steps < self.num_times or self.start_iterations < 1:
            raise ValueError(f"expected 1 <= num_steps < num_times and start_iterations >= 1, got {self}")
        if not 0 <= self.lr_low <= self.lr_high or not self.snr_low_db < self.snr_high_db:
            raise ValueError(f"expected 0 <= lr_low <= lr_high and snr_low_db < snr_high_db, got {self}")

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
    chosen = torch.linspace(last, 0, options.num_steps + 1, dtype=torch.float64).round() / last
    times = chosen.to(data.real)
    sigmas = sde.sigma(times).tolist()
    windows = [sde.attenuation(t, rows, cols) for t in times]
    rate = learning_rate(measurement.noise_sigma, options)
    start = operator.solve_normal(data, 0.0, max_iter=options.start_iterations, tol=0.0)
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


def learning_rate(noise_sigma: float, options: HeatDiffusionOptions) -> float:
    """lr from the estimated noise level of data whose image has scale 1."""
    snr_db = math.inf if noise_sigma == 0 else -20 * math.log10(noise_sigma)
    share = (snr_db - options.snr_low_db) / (options.snr_high_db - options.snr_low_db)
    return options.lr_low + (options.lr_high - options.lr_low) * min(max(share, 0.0), 1.0)


METHODS = {
    "heat_diffusion": Method(
        heat_diffusion, {"released": HeatDiffusionOptions()},
        "Heat-Diffusion, the code published with AK-Diffusion: one image, data by back-propagation",
        needs="attenuated", max_map_sets=1,
    ),
}  # fmt: skip
