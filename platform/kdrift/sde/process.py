"""What noise a prior removes: one object draws it, has its loss, and gives the SDE that samplers take back.

Training, priors and samplers ask the process; nothing else compares kinds of noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

import torch
from torch import Tensor

from kdrift.sde.attenuated import AttenuatedSDE
from kdrift.sde.attenuated_noise import AttenuatedNoise
from kdrift.sde.base import SDE, Noise
from kdrift.sde.channels import Network, Projection
from kdrift.sde.noise_config import NoiseConfig
from kdrift.sde.white_noise import HighFrequencyNoise, WhiteNoise

if TYPE_CHECKING:
    from kdrift.networks import NetworkConfig


class NoiseProcess(Protocol):
    """Noise of one kind at levels sigma_min to sigma_max, in units of the normalised image.

    Training works on images as channels `(batch, channel, row, col)`; `config` says how levels and noise are drawn, and
    is read by nothing else. Everything drawn is a pure function of the seed and the number of the image.
    """

    kind: ClassVar[Noise]
    """Its name in configurations, and what a method asks for."""
    complex_only: ClassVar[bool]
    """Whether it is of complex images alone."""
    preconditionings: ClassVar[tuple[str, ...]]
    """Networks that its loss can train (`network.preconditioning`)."""

    @property
    def sigma_min(self) -> float:
        """Lowest level: the standard deviation of each real component."""

    @property
    def sigma_max(self) -> float:
        """Highest level."""

    @classmethod
    def of(cls, config: NoiseConfig) -> Self:
        """Return the process of a training configuration."""

    def sde(self, rows: int, cols: int, device: str | torch.device = "cpu") -> SDE | AttenuatedSDE:
        """Return the SDE of images `(row, col)` that has this noise, over its levels."""

    def projection(self) -> Projection | None:
        """Return P on complex images, the part of them that the noise is in; None: all of it."""

    def blur(self, images: Tensor, sigma: float) -> Tensor:
        """Return what goes with noise of level `sigma`: images with their k-space attenuated, or as they are."""

    def kept(self, images: Tensor, sigma: float) -> Tensor:
        """Return what noise of level `sigma`, the highest, leaves of the images; sampling starts from there."""

    def draw(
        self, config: NoiseConfig, preconditioning: str, seed: int, indices: Sequence[int], shape: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """Draw what `loss` takes after the images `shape` (channel, row, col), first of all the levels `(batch,)`."""

    def loss(
        self, config: NoiseConfig, network: Network, network_config: NetworkConfig, image: Tensor, *drawn: Tensor
    ) -> Tensor:
        """Return the training loss of a network, mean over pixels."""

    def misfit(self, config: NoiseConfig, error: Tensor, noise: Tensor, sigma: float) -> tuple[Tensor, float]:
        """Return the part of an error of denoising that the loss counts, and the power that the noise has there."""


AnyNoise = WhiteNoise | HighFrequencyNoise | AttenuatedNoise
"""The kinds of noise there are; a new one is a file with such a class, a name here and one in `PROCESSES`."""

PROCESSES: dict[Noise, type[WhiteNoise] | type[AttenuatedNoise]] = {
    process.kind: process for process in (WhiteNoise, HighFrequencyNoise, AttenuatedNoise)
}
"""The process of each kind, by its name in configurations."""
