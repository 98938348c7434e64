"""Variance-preserving and sub-VP SDE with linear beta (Song et al. 2021, Eqs. 11 and 13, Appendix B)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdrift.sde.base import SDE


@dataclass(frozen=True)
class VPSDE(SDE):
    """dx = -1/2 beta x dt + sqrt(beta) dw with beta(t) = beta_min + t (beta_max - beta_min).

    The kernel is x_t = alpha x_0 + sqrt(1 - alpha^2) z, log alpha = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2.
    """

    beta_min: float = 0.1
    """beta at t = 0."""
    beta_max: float = 20.0
    """beta at t = 1."""

    def __post_init__(self) -> None:
        if not 0 < self.beta_min < self.beta_max:
            raise ValueError(f"expected 0 < beta_min < beta_max, got {self.beta_min} and {self.beta_max}")

    def beta(self, t: Tensor) -> Tensor:
        """Return beta(t) = beta_min + t (beta_max - beta_min)."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def log_alpha(self, t: Tensor) -> Tensor:
        """Logarithm of the factor of the signal."""
        return -(t**2) * (self.beta_max - self.beta_min) / 4 - t * self.beta_min / 2

    def alpha(self, t: Tensor) -> Tensor:
        """Factor of the signal."""
        return torch.exp(self.log_alpha(t))

    def std(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise, sqrt(1 - alpha^2)."""
        return torch.sqrt(-torch.expm1(2 * self.log_alpha(t)))

    def rate(self, t: Tensor) -> Tensor:
        """Factor of the drift, -beta / 2."""
        return -self.beta(t) / 2

    def diffusion(self, t: Tensor) -> Tensor:
        """Factor of the Wiener process, sqrt(beta)."""
        return torch.sqrt(self.beta(t))

    def discretize(self, start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
        """f = sqrt(1 - beta_i) - 1, G = sqrt(beta_i) with beta_i = beta(t_i) dt (Song et al. 2021, Eq. 10).

        Raises ValueError where beta_i reaches 1: the steps are too few.
        """
        beta = self.beta(start) * (start - stop)
        if bool((beta >= 1).any()):
            raise ValueError(f"beta_i = beta(t) dt must stay below 1, got {float(beta.max()):.3g}: take more steps")
        return torch.sqrt(1 - beta) - 1, torch.sqrt(beta)

    def time(self, sigma: Tensor) -> Tensor:
        """Time at which sqrt(1 - alpha^2) / alpha is `sigma`: a root of the quadratic log alpha."""
        return self._time_at(torch.log1p(sigma**2) / 2)

    def _time_at(self, minus_log_alpha: Tensor) -> Tensor:
        slope, b = self.beta_max - self.beta_min, self.beta_min / 2
        return 2 * minus_log_alpha / (b + torch.sqrt(b**2 + slope * minus_log_alpha))


@dataclass(frozen=True)
class SubVPSDE(VPSDE):
    """The same drift with noise sqrt(beta (1 - alpha^4)): the kernel is x_t = alpha x_0 + (1 - alpha^2) z."""

    def std(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise, 1 - alpha^2."""
        return -torch.expm1(2 * self.log_alpha(t))

    def diffusion(self, t: Tensor) -> Tensor:
        """Factor of the Wiener process, sqrt(beta (1 - exp(-2 int beta)))."""
        return torch.sqrt(self.beta(t) * -torch.expm1(4 * self.log_alpha(t)))

    def discretize(self, start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
        """Euler-Maruyama: no other one is published."""
        return SDE.discretize(self, start, stop)

    def time(self, sigma: Tensor) -> Tensor:
        """Time at which (1 - alpha^2) / alpha is `sigma`: -log alpha = asinh(sigma / 2)."""
        return self._time_at(torch.asinh(sigma / 2))
