"""What networks share that reconstruct: they are called `network(kspace, mask, smaps)` and return images.

k-space is complex `(batch, coil, row, col)`, zero where not sampled, the mask boolean `(batch, row, col)`, coil maps
complex `(batch, coil, row, col)`; images are complex `(batch, row, col)`, whose magnitude is what training compares.
Any number of coils and any size will do, and data times a positive number give images times that number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class ReconstructorConfig:
    """Base of the settings of a network that reconstructs."""

    channels: ClassVar[int] = 2
    size_multiple: ClassVar[int] = 1
    centered: ClassVar[bool] = True

    @property
    def penalty_weight(self) -> float:
        """Weight in the loss of training of a penalty of the network's own; 0: it has none.

        Where it is above 0, `network(kspace, mask, smaps, penalised=True)` returns the image and the penalty, a number
        that does not depend on the scale of the data.
        """
        return 0.0


class UNet(nn.Module):
    """The U-Net of Zbontar et al. 2018 (arXiv:1811.08839, section 5.1.2), `(batch, inputs, row, col)` to `outputs`.

    Blocks of two 3x3 convolutions, each with instance normalisation and leaky ReLU; average pooling on the way down,
    transposed convolutions on the way up. The last convolution starts at zero. Sizes are padded with zeros.
    """

    def __init__(self, inputs: int, outputs: int, features: int, levels: int) -> None:
        super().__init__()
        if min(features, levels) < 1:
            raise ValueError(f"expected features and levels of at least 1, got {features} and {levels}")
        widths = [features << level for level in range(levels + 1)]
        self.down = nn.ModuleList([_block(i, o) for i, o in zip([inputs, *widths[:-1]], widths, strict=True)])
        self.up = nn.ModuleList([_upward(2 * width, width) for width in reversed(widths[:-1])])
        self.joined = nn.ModuleList([_block(2 * width, width) for width in reversed(widths[:-1])])
        self.last = nn.Conv2d(features, outputs, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return images of the size of `x`. Raises ValueError where the lowest level is a single pixel."""
        rows, cols = x.shape[-2:]
        multiple = 1 << len(self.up)
        if max(rows, cols) <= multiple:
            raise ValueError(
                f"a U-Net of {len(self.up)} levels needs more than {multiple} rows or columns, got {rows} x {cols}"
            )
        tall, wide = -rows % multiple, -cols % multiple
        x = F.pad(x, (wide // 2, wide - wide // 2, tall // 2, tall - tall // 2))
        kept = list[Tensor]()
        for block in self.down[:-1]:
            kept.append(block(x))
            x = F.avg_pool2d(kept[-1], 2)
        x = self.down[-1](x)
        for up, joined in zip(self.up, self.joined, strict=True):
            x = joined(torch.cat([up(x), kept.pop()], 1))
        image: Tensor = self.last(x)
        return image[..., tall // 2 : tall // 2 + rows, wide // 2 : wide // 2 + cols]


class Correction(nn.Module):
    """What a U-Net adds to `(batch, channel, row, col)`: r(x) = s U((x - m) / s), so that r(a x) = a r(x), a > 0.

    m and s are mean and standard deviation of each channel of each image. It starts at zero.
    """

    def __init__(self, channels: int, features: int, levels: int) -> None:
        super().__init__()
        self.unet = UNet(channels, channels, features, levels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the correction, float32; zero of an image that is constant."""
        return homogeneous(self.unet, x)


def homogeneous(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return s N((x - m) / s) of `(batch, channel, row, col)`, float32, for a network N of as many channels.

    m and s are mean and standard deviation of each channel of each image; zero of an image that is constant.
    """
    deviation, mean = torch.std_mean(x, (-2, -1), keepdim=True)
    return network((x - mean) / torch.where(deviation > 0, deviation, 1)).to(torch.float32) * deviation


def of_complex(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return what a network of channels makes of complex images `(batch, *maps, row, col)`, complex64 of their shape.

    The parts of an image are two of its channels; those of several maps stand one after the other.
    """
    channels = torch.view_as_real(images).movedim(-1, -3)
    found = network(channels.reshape(len(images), -1, *images.shape[-2:])).to(torch.float32)
    return torch.view_as_complex(found.reshape(channels.shape).movedim(-3, -1).contiguous())


def peak(images: Tensor) -> Tensor:
    """Return the largest magnitude of each image, `(*batch, row, col)` to `(*batch, 1, 1)`; 1 for an image of zeros."""
    most = images.abs().amax((-2, -1), keepdim=True)
    return torch.where(most > 0, most, 1)


def convolution(inputs: int, outputs: int, size: int = 3, *, zero: bool = False) -> nn.Conv2d:
    """Return a convolution without bias, of Xavier's normal weights, or of zeros: so begins what is added."""
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    if zero:
        nn.init.zeros_(layer.weight)
    else:
        nn.init.xavier_normal_(layer.weight)
    return layer


def _block(inputs: int, outputs: int) -> nn.Module:
    layers = list[nn.Module]()
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1, bias=False), nn.InstanceNorm2d(outputs), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers)


def _upward(inputs: int, outputs: int) -> nn.Module:
    layer = nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False)
    return nn.Sequential(layer, nn.InstanceNorm2d(outputs), nn.LeakyReLU(0.2))
