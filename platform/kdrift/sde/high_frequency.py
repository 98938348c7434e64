"""Diffusion of the high frequencies alone (Cao et al. 2024, HFS-SDE, Eqs. 11 to 15 and 24)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.mri.sense import sense_operator
from kdrift.sde.base import SDE


@dataclass(frozen=True)
class LowFrequencies:
    """The centre of k-space that does not diffuse, as a fraction of its width, so that it fits every image size."""

    shape: Literal["square", "columns"] = "square"
    """`square`: n_l rows and columns (the paper, Eq. 11); `columns`: n_l central columns (the released code)."""
    fraction: float = 0.075
    """n_l over the number of rows and columns: the paper's 24 of 320; 0.05, 16 of 320, in the released code."""

    def __post_init__(self) -> None:
        if self.shape not in ("square", "columns") or not 0 <= self.fraction < 1:
            raise ValueError(f"expected shape 'square' or 'columns' and fraction in [0, 1), got {self}")

    def mask(self, rows: int, cols: int) -> Tensor:
        """M_l, boolean `(row, col)`, set on the centre; at `fraction` 0 it is empty."""
        inside = _centre(cols, self.fraction).expand(rows, cols)
        return inside & _centre(rows, self.fraction)[:, None] if self.shape == "square" else inside


def _centre(size: int, fraction: float) -> Tensor:
    width = round(size * fraction)
    start = size // 2 - width // 2
    index = torch.arange(size)
    return (index >= start) & (index < start + width)


class HighFrequencySDE(SDE):
    """HFS-VP, HFS-VE and HFS-sub-VP: the drift and noise of `base` passed through F_h = F^-1 (I - M_l) F.

    `low` is M_l, boolean `(row, col)`; with an empty one this is `base`. With coil maps `([set,] coil, row, col)`
    F_h = sum_c conj(S_c) F^-1 (I - M_l) F S_c (the paper's Eq. 12, which is then no exact projection); without, it is
    the plain F_h of the released code.
    """

    def __init__(self, base: SDE, low: Tensor, smaps: Tensor | None = None) -> None:
        if low.ndim != 2 or low.dtype != torch.bool:
            raise ValueError(f"low must be a boolean (row, col) mask, got {tuple(low.shape)} of {low.dtype}")
        self.base, self.low = base, low
        self._coils = sense_operator(smaps, ~low) if smaps is not None else None

    def project(self, x: Tensor) -> Tensor:
        """F_h x, `(*batch, row, col)`; complex, since a real image may have none of its conjugate frequencies."""
        if self._coils is None:
            return ifft2c(torch.where(self.low, 0, fft2c(x + 0j)))
        return self._coils.normal(x)

    def alpha(self, t: Tensor) -> Tensor:
        """Factor of the signal in the mean, that of the base SDE."""
        return self.base.alpha(t)

    def std(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise, that of the base SDE."""
        return self.base.std(t)

    def rate(self, t: Tensor) -> Tensor:
        """Factor of the drift, that of the base SDE."""
        return self.base.rate(t)

    def diffusion(self, t: Tensor) -> Tensor:
        """Factor of the Wiener process, that of the base SDE."""
        return self.base.diffusion(t)

    def discretize(self, start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of one step of the base SDE, to be passed through F_h (Eq. 13)."""
        return self.base.discretize(start, stop)

    def time(self, sigma: Tensor) -> Tensor:
        """Time at which the base SDE has the noise level `sigma`."""
        return self.base.time(sigma)
