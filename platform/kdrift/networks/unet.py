"""U-Net on zero-filled magnitudes (Zbontar et al. 2018, fastMRI, arXiv:1811.08839, section 5.1.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdrift.mri.coils import combine
from kdrift.mri.fourier import ifft2c
from kdrift.networks.reconstructor import Correction, ReconstructorConfig


@dataclass(frozen=True)
class UNetConfig(ReconstructorConfig):
    """Settings of the U-Net."""

    features: int = 32
    """Channels of the first level; each level below has twice as many."""
    levels: int = 4
    """Levels below the first."""


class MagnitudeUNet(nn.Module):
    """x + r(x) of the magnitude x = |S^H F^-1 y|, with the phase of the zero-filled image.

    The paper has no sum and takes the root sum of squares; with normalised maps that is x without their help.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.correction = Correction(1, config.features, config.levels)

    def forward(self, kspace: Tensor, mask: Tensor, smaps: Tensor) -> Tensor:
        """Return images `(batch, row, col)`; see `kdrift.networks.reconstructor`."""
        zero_filled = combine(ifft2c(kspace), smaps)
        magnitude = zero_filled.abs()
        corrected: Tensor = magnitude + self.correction(magnitude[:, None])[:, 0]
        return corrected * torch.sgn(zero_filled)
