"""What noise a prior removes: one object draws it, has its loss, and gives the SDE that samplers take back.

Training, priors and samplers ask the process; nothing else compares kinds of noise. Networks see the real and the
imaginary part of an image as two channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from kdrift.sde.attenuated import AttenuatedSDE
from kdrift.sde.base import SDE, Noise
from kdrift.sde.noise_config import NoiseConfig

if TYPE_CHECKING:
    from kdrift.networks import NetworkConfig

Network = Callable[[Tensor, Tensor], Tensor]
"""Called `(images (batch, channel, row, col), second input (batch,))`; returns images of the same shape."""
Projection = Callable[[Tensor], Tensor]
"""A linear map of complex images `(*batch, row, col)`."""


@dataclass(frozen=True)
class NoiseProcess(ABC):
    """Noise of one kind at levels sigma_min to sigma_max; a new kind is a file and a line in `kdrift.sde.PROCESSES`.

    Training works on images as channels `(batch, channel, row, col)`; `config` says how levels and noise are drawn, and
    is read by nothing else. Everything drawn is a pure function of the seed and the number of the image.
    """

    sigma_min: float
    """Lowest level, the standard deviation of each real component, in units of the normalised image."""
    sigma_max: float
    """Highest level."""

    kind: ClassVar[Noise]
    """Its name in configurations, and what a method asks for."""
    complex_only: ClassVar[bool]
    """Whether it is of complex images alone."""
    preconditionings: ClassVar[tuple[str, ...]]
    """Networks that its loss can train (`network.preconditioning`)."""

    @classmethod
    @abstractmethod
    def of(cls, config: NoiseConfig) -> Self:
        """Return the process of a training configuration."""

    @abstractmethod
    def sde(self, rows: int, cols: int, device: str | torch.device = "cpu") -> SDE | AttenuatedSDE:
        """Return the SDE of images `(row, col)` that has this noise, over its levels."""

    def projection(self) -> Projection | None:
        """Return P on complex images, the part of them that the noise is in; None: all of it."""
        return None

    def blur(self, images: Tensor, sigma: float) -> Tensor:
        """Return what goes with noise of level `sigma`: images with their k-space attenuated, or as they are."""
        return images

    @abstractmethod
    def kept(self, images: Tensor, sigma: float) -> Tensor:
        """Return what noise of level `sigma`, the highest, leaves of the images; sampling starts from there."""

    @abstractmethod
    def draw(
        self, config: NoiseConfig, preconditioning: str, seed: int, indices: Sequence[int], shape: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """Draw what `loss` takes after the images `shape` (channel, row, col), first of all the levels `(batch,)`."""

    @abstractmethod
    def loss(
        self, config: NoiseConfig, network: Network, network_config: NetworkConfig, image: Tensor, *drawn: Tensor
    ) -> Tensor:
        """Return the training loss of a network, mean over pixels."""

    @abstractmethod
    def misfit(self, config: NoiseConfig, error: Tensor, noise: Tensor, sigma: float) -> tuple[Tensor, float]:
        """Return the part of an error of denoising that the loss counts, and the power that the noise has there."""


def as_complex(channels: Tensor) -> Tensor:
    """Return `(batch, 2, row, col)` as complex images `(batch, row, col)`."""
    return torch.view_as_complex(channels.to(torch.float32).movedim(1, -1).contiguous())


def as_channels(images: Tensor) -> Tensor:
    """Return complex images `(batch, row, col)` as `(batch, 2, row, col)`."""
    return torch.view_as_real(images).movedim(-1, 1)


def project_channels(projection: Projection | None, images: Tensor) -> Tensor:
    """Apply a projection of complex images to `(batch, channel, row, col)`; without one they stay as they are."""
    return images if projection is None else as_channels(projection(as_complex(images)))
