"""Variance-exploding SDE (Song et al. 2021, Eq. 9; Score-MRI Eqs. 3 and 19)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kdrift.sde.base import SDE

_ROUNDING = 1e-9
"""Times closer to 0 than this are 0."""


def spaced_levels(high: float, low: float, count: int, rho: float) -> list[float]:
    """Return `count` noise levels from `high` to `low`, equal steps of sigma^(1/rho) (Karras et al. 2022, Eq. 5)."""
    a, b = high ** (1 / rho), low ** (1 / rho)
    return [(a + i / max(count - 1, 1) * (b - a)) ** rho for i in range(count)]


@dataclass(frozen=True)
class VESDE(SDE):
    """dx = sqrt(d sigma^2/dt) dw with sigma(t) = sigma_min (sigma_max / sigma_min)^t.

    `sigma` is the standard deviation of each real component; the kernel is x_t = x_0 + sigma(t) z.
    """

    sigma_min: float = 0.01
    """Noise level at t = 0, in units of the normalised image."""
    sigma_max: float = 378.0
    """Noise level at t = 1."""

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")

    def alpha(self, t: Tensor) -> Tensor:
        """Factor of the signal: 1, the mean stays as it is."""
        return torch.ones_like(t)

    def std(self, t: Tensor) -> Tensor:
        """Noise level at time t (Score-MRI Eq. 19)."""
        return self.sigma_min * torch.exp(t * math.log(self.sigma_max / self.sigma_min))

    def time(self, sigma: Tensor) -> Tensor:
        """Time at which the noise level is `sigma`; the inverse of `sigma`."""
        return torch.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)

    def rate(self, t: Tensor) -> Tensor:
        """Factor of the drift: 0, there is none."""
        return torch.zeros_like(t)

    def diffusion(self, t: Tensor) -> Tensor:
        """g(t) = sigma(t) sqrt(2 log(sigma_max / sigma_min))."""
        return self.std(t) * math.sqrt(2 * math.log(self.sigma_max / self.sigma_min))

    def discretize(self, start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
        """f = 0, G = sqrt(sigma_i^2 - sigma_{i-1}^2); before time 0 there is no noise (Song et al. 2021, Eq. 8)."""
        before = torch.where(stop < -_ROUNDING, 0, self.std(stop))
        return torch.zeros_like(start), torch.sqrt(self.std(start) ** 2 - before**2)
