"""Pseudoinverse-guided diffusion (PiGDM; Song, Vahdat, Mardani and Kautz 2023, Algorithm 1), in VE form."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdrift.methods import LEAST_NOISE, Callback, ChainNoise, Measurement, Method, StartOptions
from kdrift.sde import VESDE, spaced_levels
from kdrift.sde.score import ScoreModel, denoise_with_pullback


@dataclass(frozen=True)
class PiGDMOptions(StartOptions):
    """Settings of PiGDM; sigma in units of the normalised image, the levels are EDM's with rho 7."""

    sigma_max: float = 80.0
    """First noise level (at most the prior's largest)."""
    sigma_min: float = 0.002
    """Last noise level (at least the prior's smallest)."""
    eta: float = 1.0
    """Share of fresh noise in a step, 0 (DDIM) to 1."""
    prior_sigma: float = 0.3
    """tau of r^2 = sigma^2 tau^2 / (sigma^2 + tau^2), the variance of p(x_0 | x_sigma); the paper's data have tau 1."""


def pigdm(
    score: ScoreModel, sde: VESDE, measurement: Measurement, *, rng: ChainNoise, options: PiGDMOptions,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """Draw samples by x <- D_y + sqrt(sigma'^2 - c^2) (x - D_y) / sigma + c z, complex `(sample, [set,] row, col)`.

    D_y = D + (sigma / r)^2 J^H (A^H A + s^2 / r^2)^-1 A^H (y - A D), J the network's Jacobian, s the data's noise and
    c = eta sigma' sqrt(1 - sigma'^2 / sigma^2). The first x is A^H y, or the start, with noise of the first level.
    """
    low, high = max(options.sigma_min, sde.sigma_min), min(options.sigma_max, sde.sigma_max)
    levels = [*spaced_levels(high, low, options.num_steps, 7.0)[-options.steps_left(measurement) :], 0.0]
    s = max(measurement.noise_sigma, LEAST_NOISE)
    x = measurement.first + levels[0] * rng(*measurement.mask.shape)
    for i, sigma in enumerate(levels[:-1]):
        share = options.prior_sigma**2 / (sigma**2 + options.prior_sigma**2)  # (r / sigma)^2
        denoised, pullback = denoise_with_pullback(score, x, sigma)
        misfit = measurement.data - measurement.A.normal(denoised)
        pull = measurement.A.solve_normal(misfit, s**2 / (share * sigma**2), max_iter=30, tol=1e-6)
        guided, after = denoised + pullback(pull) / share, levels[i + 1]
        fresh = options.eta * after * max(1 - (after / sigma) ** 2, 0.0) ** 0.5
        x = guided + max(after**2 - fresh**2, 0.0) ** 0.5 / sigma * (x - guided) + fresh * rng(*x.shape[-2:])
        if callback:
            callback(i + 1, len(levels) - 1, x, after)
    return x


METHODS = {
    "pigdm": Method(
        pigdm, {"paper": PiGDMOptions()}, "PiGDM: guided by pseudoinverse and network", through_network=True
    ),
}
