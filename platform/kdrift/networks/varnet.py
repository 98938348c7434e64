"""End-to-end variational network (Sriram et al. 2020, E2E-VarNet, MICCAI, arXiv:2004.06688)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdrift.mri.coils import combine, normalise_maps, rss
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.mri.masks import acs_region
from kdrift.networks.reconstructor import Correction, ReconstructorConfig, of_complex


@dataclass(frozen=True)
class VarNetConfig(ReconstructorConfig):
    """Settings of the variational network."""

    cascades: int = 12
    """Steps, each with a U-Net of its own."""
    features: int = 18
    """Channels of the first level of the cascades' U-Nets; each level below has twice as many."""
    levels: int = 4
    """Levels below the first of the cascades' U-Nets."""
    map_features: int = 8
    """Channels of the first level of the U-Net that estimates coil maps."""
    map_levels: int = 4
    """Levels below the first of that U-Net."""

    def __post_init__(self) -> None:
        if self.cascades < 1:
            raise ValueError(f"expected cascades of at least 1, got {self.cascades}")


class Cascade(nn.Module):
    """k - eta M (k - y) - F S r(S^H F^-1 k) (Eqs. 8 and 9), coil k-space to coil k-space."""

    def __init__(self, config: VarNetConfig) -> None:
        super().__init__()
        self.eta = nn.Parameter(torch.ones(1))
        self.correction = Correction(2, config.features, config.levels)

    def forward(self, kspace: Tensor, measured: Tensor, mask: Tensor, smaps: Tensor) -> Tensor:
        """Return `(batch, coil, row, col)`; the mask is `(batch, 1, row, col)`."""
        image = combine(ifft2c(kspace), smaps)
        refined = fft2c(smaps * of_complex(self.correction, image)[:, None])
        return kspace - self.eta * torch.where(mask, kspace - measured, 0) - refined


class VarNet(nn.Module):
    """Cascades in the k-space of all coils, with coil maps that a network of its own estimates from the centre.

    It returns the root sum of squares of the last coil images (Eq. 10), as the paper does, with the phase of their
    combination by the maps that are given. What the U-Nets return is added to their input, in the map network too, so
    that it starts as zero-filled.
    """

    def __init__(self, config: VarNetConfig) -> None:
        super().__init__()
        self.map_correction = Correction(2, config.map_features, config.map_levels)
        self.cascades = nn.ModuleList([Cascade(config) for _ in range(config.cascades)])

    def forward(self, kspace: Tensor, mask: Tensor, smaps: Tensor) -> Tensor:
        """Return images `(batch, row, col)`; see `kdrift.networks.reconstructor`.

        Raises ValueError for a mask whose centre was not sampled.
        """
        own_maps, predicted = self.estimate_maps(kspace, mask), kspace
        for cascade in self.cascades:
            predicted = cascade(predicted, kspace, mask[:, None], own_maps)
        coil_images = ifft2c(predicted)
        return rss(coil_images) * torch.sgn(combine(coil_images, smaps))

    def estimate_maps(self, kspace: Tensor, mask: Tensor) -> Tensor:
        """Return normalised coil maps `(batch, coil, row, col)`: coil images of the centre, each corrected (Eq. 11)."""
        centre = torch.zeros_like(kspace)
        for number, region in enumerate(map(acs_region, mask)):
            if not mask[number][region].numel():
                raise ValueError(
                    "varnet estimates coil maps from the centre of k-space, which was not sampled: use another method"
                )
            centre[number][:, region[0], region[1]] = kspace[number][:, region[0], region[1]]
        coils = ifft2c(centre).flatten(0, 1)
        return normalise_maps((coils + of_complex(self.map_correction, coils)).reshape(kspace.shape))
