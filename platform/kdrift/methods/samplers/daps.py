"""Decoupled annealing posterior sampling (DAPS; Zhang et al. 2024, Algorithm 1, pixel space, Langevin steps)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from kdrift.methods import Callback, ChainNoise, Measurement, Method, StartOptions
from kdrift.sde import VESDE, spaced_levels
from kdrift.sde.score import ScoreModel, denoise


@dataclass(frozen=True)
class DAPSOptions(StartOptions):
    """Settings of DAPS; the defaults are those published for linear problems on photographs at 1000 evaluations."""

    num_steps: int = 200
    """N_A, levels of the annealing."""
    num_ode_steps: int = 5
    """Network evaluations a level: Euler steps of the probability-flow ODE from the level to an image."""
    sigma_max: float = 100.0
    """First noise level (at most the prior's largest)."""
    sigma_min: float = 0.1
    """Last noise level (at least the prior's smallest)."""
    ode_sigma_min: float = 0.01
    """Last level at which the ODE asks the prior (at least the prior's smallest); a step to 0 follows."""
    rho: float = 7.0
    """Spacing of both kinds of levels: equal steps of sigma^(1/rho) (Karras et al. 2022, Eq. 5)."""
    num_langevin_steps: int = 100
    """Langevin steps a level, without the network."""
    step_size: float = 1e-4
    """Langevin step size at the first level."""
    step_ratio: float = 0.01
    """Step size at the last level over that at the first; it falls linearly."""
    tau: float = 0.01
    """Noise level of the data in their Langevin term, whatever the estimated one: steps are stable below 2 tau^2."""
    prior_sigma: float | None = None
    """p: p(x_0 | x_sigma) has the deviation 1 / sqrt(1/sigma^2 + 1/p^2). None: it has sigma, as published."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_ode_steps < 1 or self.num_langevin_steps < 1:
            raise ValueError(f"expected num_ode_steps and num_langevin_steps >= 1, got {self}")
        if not 0 < self.sigma_min < self.sigma_max or self.ode_sigma_min <= 0 or self.rho <= 0:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, ode_sigma_min > 0 and rho > 0, got {self}")
        positive = (self.step_size, self.step_ratio, self.tau, self.prior_sigma)
        if any(value is not None and value <= 0 for value in positive):
            raise ValueError(f"expected step_size, step_ratio, tau and prior_sigma > 0, got {self}")

    @property
    def evaluations(self) -> int:
        """Network evaluations of one chain: those of the ODE at each level."""
        return self.steps_done * self.num_ode_steps


def daps(
    score: ScoreModel, sde: VESDE, measurement: Measurement, *, rng: ChainNoise, options: DAPSOptions,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """Draw samples, complex `(sample, [set,] row, col)`.

    At each level sigma, high to low: D from x by the ODE; Langevin steps from x_0 = D on
    |x_0 - D|^2 / (2 r^2) + |y - A x_0|^2 / (2 tau^2) with r = sigma (or by `prior_sigma`); x <- x_0 + sigma' z at the
    next level. The last x_0 is returned. The first x is A^H y, or the start, noised to the first level. Levels are
    clipped to those of `sde`. Raises ValueError where the Langevin steps would diverge.
    """
    operator, data = measurement.A, measurement.data
    low, high = max(options.sigma_min, sde.sigma_min), min(options.sigma_max, sde.sigma_max)
    left = options.steps_left(measurement)
    levels = [*spaced_levels(high, low, options.num_steps, options.rho)[-left:], 0.0]
    x = measurement.first + levels[0] * rng(*data.shape[-2:])
    deviations = [1 / math.sqrt(sigma**-2 + (options.prior_sigma or math.inf) ** -2) for sigma in levels[:-1]]
    sizes = _step_sizes(options, deviations)
    for i, sigma in enumerate(levels[:-1]):
        denoised = _ode(score, x, sigma, max(options.ode_sigma_min, sde.sigma_min), options)
        x0 = denoised
        for _ in range(options.num_langevin_steps):
            drift = (data - operator.normal(x0)) / options.tau**2 + (denoised - x0) / deviations[i] ** 2
            x0 = x0 + sizes[i] * drift + math.sqrt(2 * sizes[i]) * rng(*data.shape[-2:])
        x = x0 + levels[i + 1] * rng(*data.shape[-2:]) if levels[i + 1] else x0
        if callback:
            callback(i + 1, left, x0, levels[i + 1])
    return x


def _ode(score: ScoreModel, x: Tensor, sigma: float, low: float, options: DAPSOptions) -> Tensor:
    """Euler steps of dx / d sigma = (x - D(x)) / sigma from `sigma` over `low` to 0; one step is D(x)."""
    levels = [*spaced_levels(sigma, min(low, sigma), options.num_ode_steps, options.rho), 0.0]
    for level, after in pairwise(levels):
        denoised = denoise(score, x, level)
        x = denoised + after / level * (x - denoised)
    return x


def _step_sizes(options: DAPSOptions, deviations: list[float]) -> list[float]:
    """Langevin step sizes, of the whole run's last levels. Raises ValueError where the steps would diverge."""
    skipped = options.num_steps - len(deviations)
    sizes = []
    for i, deviation in enumerate(deviations):
        size = options.step_size * (1 + (skipped + i) / options.num_steps * (options.step_ratio - 1))
        curvature = deviation**-2 + options.tau**-2  # A^H A is at most 1
        if size * curvature >= 2:
            raise ValueError(
                f"Langevin steps of size {size:.3g} diverge where x_0 has deviation {deviation:.3g} and the data"
                f" {options.tau:.3g}: take step_size below {2 / curvature:.3g}, or a larger tau"
            )
        sizes.append(size)
    return sizes


METHODS = {
    "daps": Method(
        daps, {"paper": DAPSOptions()},
        "DAPS: an ODE to an image, Langevin steps on the data, noise of the next lower level",
    ),
}  # fmt: skip
