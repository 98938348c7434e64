"""Attenuated k-space diffusion (Cui et al. 2024, AK-Diffusion, Eqs. 8 and 9): high frequencies fade as noise comes.

The drift dG_t/dt z(0) holds the clean k-space and not z(t), so this is no `kdrift.sde.SDE` of scalar factors: it has
its own kernel, for training and sampling alike, on multi-coil k-space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kdrift.mri.coils import combine
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.sde.ve import VESDE


def gaussian_window(rows: int, cols: int, b: Tensor) -> Tensor:
    """G = exp(-|w|^2 b^2 / 2) on k-space `(row, col)`, w in [-1, 1) along both axes.

    `b` broadcasts against `(*batch, row, col)`; 0 gives G = 1. A larger b leaves less of the high frequencies.
    """
    return torch.exp(_squared_frequency(rows, cols, b) * (-(b**2) / 2))


@dataclass(frozen=True, eq=False)
class AttenuatedSDE:
    """dz = G'_t z(0) dt + sqrt(d sigma^2/dt) SS* dw on k-space `(*batch, coil, row, col)`, time in [0, 1].

    SS* = F S S^H F^-1 gives noise the coils' sensitivities. b and sigma grow geometrically from t = 0 to 1: G_t goes
    from nearly 1 to the centre of k-space. z(0) has noise of level sigma_min, so that the kernel's is sigma(t) (Eq. 10,
    Algorithm 1). `t` is a scalar or broadcasts against `(*batch, coil, row, col)`.
    """

    sigma_min: float = 0.01
    """Noise level at t = 0, in units of the normalised image."""
    sigma_max: float = 1.0
    """sigma_N, the level at t = 1."""
    b_min: float = 0.5
    """b at t = 0."""
    b_max: float = 24.0
    """b at t = 1. With both 0 nothing is attenuated, and with SS* = I this is the VE-SDE."""
    smaps: Tensor | None = None
    """Coil maps S `(coil, row, col)` with sum |S|^2 = 1; None: SS* = I."""

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")
        if not (0 < self.b_min <= self.b_max or self.b_min == self.b_max == 0):
            raise ValueError(f"expected 0 < b_min <= b_max (or both 0), got {self.b_min} and {self.b_max}")
        if self.smaps is not None and self.smaps.ndim != 3:
            raise ValueError(f"smaps must be one set (coil, row, col), got {tuple(self.smaps.shape)}")

    @property
    def levels(self) -> VESDE:
        """The noise levels alone: sigma(t), its inverse and the diffusion are those of a VE-SDE."""
        return VESDE(self.sigma_min, self.sigma_max)

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level, which the network is told: sigma_min (sigma_max / sigma_min)^t."""
        return self.levels.std(t)

    def time(self, sigma: Tensor) -> Tensor:
        """Time at which the noise level is `sigma`."""
        return self.levels.time(sigma)

    def b(self, t: Tensor) -> Tensor:
        """b(t) = b_min (b_max / b_min)^t."""
        return self.b_min * torch.exp(t * self._log_ratio)

    def attenuation(self, t: Tensor, rows: int, cols: int) -> Tensor:
        """Return the attenuation G_t, real, `(*t, row, col)` by broadcasting."""
        return gaussian_window(rows, cols, self.b(t))

    def project(self, z: Tensor) -> Tensor:
        """Return SS* z, `(*batch, coil, row, col)`."""
        if self.smaps is None:
            return z
        return fft2c(self.smaps * combine(ifft2c(z), self.smaps)[..., None, :, :])

    def drift(self, z0: Tensor, t: Tensor) -> Tensor:
        """dG_t/dt z(0): of the clean k-space z(0), unlike an ordinary SDE's."""
        rows, cols = z0.shape[-2:]
        slope = -_squared_frequency(rows, cols, t) * self.b(t) ** 2 * self._log_ratio
        return slope * self.attenuation(t, rows, cols) * z0

    def diffusion(self, t: Tensor) -> Tensor:
        """sqrt(d sigma^2/dt), the factor of SS* dw."""
        return self.levels.diffusion(t)

    def marginal(self, z0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean G_t z(0) of the kernel and the deviation of its noise, which is `sigma SS* n`."""
        rows, cols = z0.shape[-2:]
        return self.attenuation(t, rows, cols) * z0, self.sigma(t)

    def perturb(self, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw from p(z_t | z_0) with unit `noise` of the shape of z0."""
        mean, std = self.marginal(z0, t)
        return mean + std * self.project(noise)

    def prior_sample(self, noise: Tensor) -> Tensor:
        """sigma_N SS* n: z at t = 1 but for the centre of k-space, which is not lost."""
        return self.sigma_max * self.project(noise)

    @property
    def _log_ratio(self) -> float:
        return math.log(self.b_max / self.b_min) if self.b_min else 0.0


def _squared_frequency(rows: int, cols: int, like: Tensor) -> Tensor:
    """|w|^2 `(row, col)`, zero at index n // 2, in the type and on the device of `like`."""
    y, x = ((torch.arange(n, dtype=like.dtype, device=like.device) - n // 2) / (n / 2) for n in (rows, cols))
    return y[:, None] ** 2 + x**2
