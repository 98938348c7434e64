"""Dual-domain recurrent network (Zhou & Zhou 2020, DuDoRNet, CVPR, arXiv:2001.03799), for coils, without a T1 prior."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdrift.mri.coils import combine
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.networks.reconstructor import ReconstructorConfig, homogeneous, of_complex

_SQUEEZE = 16
"""Channels a channel of the hidden layer that weighs channels."""


@dataclass(frozen=True)
class DuDoRNetConfig(ReconstructorConfig):
    """Settings of the dual-domain network; the defaults are those of the released code."""

    recurrences: int = 4
    """How often image and k-space are restored, always by the same two networks."""
    features: int = 32
    """Channels between the dense blocks, and of each convolution inside of them."""
    blocks: int = 3
    """Dense blocks of each of the two networks."""
    dilations: tuple[int, ...] = (1, 2, 3, 3)
    """Dilations of the convolutions of a block, one each."""

    def __post_init__(self) -> None:
        if min(self.recurrences, self.features, self.blocks, *self.dilations) < 1 or not self.dilations:
            raise ValueError(
                "expected recurrences, features, blocks and dilations of at least 1, got"
                f" {self.recurrences}, {self.features}, {self.blocks} and {list(self.dilations)}"
            )


class DenseBlock(nn.Module):
    """x + w C(x): dilated convolutions, each of all before it, a 1x1 convolution C of all, w a weight a channel."""

    def __init__(self, features: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(features * number, features, 3, padding=dilation, dilation=dilation)
                for number, dilation in enumerate(dilations, 1)
            ]
        )
        self.fuse = nn.Conv2d(features * (len(dilations) + 1), features, 1)
        hidden = max(features // _SQUEEZE, 1)
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(features, hidden, 1, bias=False), nn.ReLU(),
            nn.Conv2d(hidden, features, 1, bias=False), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Return `(batch, feature, row, col)`."""
        dense = x
        for convolution in self.convolutions:
            dense = torch.cat([dense, torch.relu(convolution(dense))], 1)
        fused = self.fuse(dense)
        found: Tensor = x + self.weigh(fused) * fused
        return found


class DRDNet(nn.Module):
    """Dilated residual dense network, `(batch, 2, row, col)` to what is added to it; its last layer starts at zero."""

    def __init__(self, config: DuDoRNetConfig) -> None:
        super().__init__()
        features = config.features

        def convolve(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 3, padding=1)

        self.shallow, self.first = convolve(2, features), convolve(features, features)
        self.blocks = nn.ModuleList([DenseBlock(features, config.dilations) for _ in range(config.blocks)])
        self.fuse = nn.Sequential(nn.Conv2d(features * config.blocks, features, 1), convolve(features, features))
        self.last = nn.Sequential(convolve(features, features), convolve(features, 2))
        nn.init.zeros_(self.last[1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.last[1].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return a correction of the size of `x`."""
        shallow = self.shallow(x)
        deep, found = self.first(shallow), list[Tensor]()
        for block in self.blocks:
            deep = block(deep)
            found.append(deep)
        correction: Tensor = self.last(self.fuse(torch.cat(found, 1)) + shallow)
        return correction


class DuDoRNet(nn.Module):
    """Restores the image of all coils, then the k-space of each, and puts the measured samples back after either."""

    def __init__(self, config: DuDoRNetConfig) -> None:
        super().__init__()
        self.recurrences = config.recurrences
        self.image_network = DRDNet(config)
        self.kspace_network = DRDNet(config)

    def forward(self, kspace: Tensor, mask: Tensor, smaps: Tensor) -> Tensor:
        """Return images `(batch, row, col)`; see `kdrift.networks.reconstructor`."""
        return combine(ifft2c(self.restored_kspace(kspace, mask, smaps)), smaps)

    def restored_kspace(self, kspace: Tensor, mask: Tensor, smaps: Tensor) -> Tensor:
        """Return the k-space of all coils `(batch, coil, row, col)`, which equals the data where they were sampled."""
        sampled, restored = mask[:, None], kspace
        for _ in range(self.recurrences):
            image = combine(ifft2c(restored), smaps)
            image = image + of_complex(self._image_correction, image)
            restored = torch.where(sampled, kspace, fft2c(smaps * image[:, None]))
            coils = restored.flatten(0, 1)
            coils = coils + of_complex(self._kspace_correction, coils)
            restored = torch.where(sampled, kspace, coils.reshape(kspace.shape))
        return restored

    def _image_correction(self, x: Tensor) -> Tensor:
        return homogeneous(self.image_network, x)

    def _kspace_correction(self, x: Tensor) -> Tensor:
        return homogeneous(self.kspace_network, x)
