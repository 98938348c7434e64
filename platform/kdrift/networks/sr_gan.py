"""Generator of SRGAN (Ledig et al. 2017, CVPR, arXiv:1609.04802, section 2.1.1), on the zero-filled image.

The other network of the pair, which training alone needs, is in `kdrift.networks.critic`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from kdrift.mri.coils import combine
from kdrift.mri.fourier import ifft2c
from kdrift.networks.reconstructor import ReconstructorConfig, convolution, of_complex

_WIDE = 9
"""Side of the first and the last convolution."""


@dataclass(frozen=True)
class SRGANConfig(ReconstructorConfig):
    """Settings of the generator."""

    features: int = 64
    """Channels of its convolutions."""
    blocks: int = 16
    """Residual blocks."""

    def __post_init__(self) -> None:
        if min(self.features, self.blocks) < 1:
            raise ValueError(f"expected features and blocks of at least 1, got {self.features} and {self.blocks}")


class ResidualBlock(nn.Module):
    """x + C(PReLU(C(x))), C convolutions; the second starts at zero."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            convolution(features, features), nn.PReLU(), convolution(features, features, zero=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return `(batch, feature, row, col)`."""
        added: Tensor = self.layers(x)
        return x + added


class SRGAN(nn.Module):
    """x + G(x) of the zero-filled image x = S^H F^-1 y, whose parts are two channels.

    The zero-filled image has all its pixels, so that nothing is enlarged. Without biases G(a x) = a G(x), a > 0.
    """

    def __init__(self, config: SRGANConfig) -> None:
        super().__init__()
        features = config.features
        self.first = nn.Sequential(convolution(2, features, _WIDE), nn.PReLU())
        blocks = [ResidualBlock(features) for _ in range(config.blocks)]
        self.blocks = nn.Sequential(*blocks, convolution(features, features, zero=True))
        self.last = convolution(features, 2, _WIDE, zero=True)

    def forward(self, kspace: Tensor, mask: Tensor, smaps: Tensor) -> Tensor:
        """Return images `(batch, row, col)`; see `kdrift.networks.reconstructor`."""
        image = combine(ifft2c(kspace), smaps)
        return image + of_complex(self._missing, image)

    def _missing(self, x: Tensor) -> Tensor:
        shallow = self.first(x)
        missing: Tensor = self.last(shallow + self.blocks(shallow))
        return missing
