"""White noise of images (VE, VP, sub-VP, EDM), and the same in their high frequencies alone (HFS-SDE)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from kdrift.runs.seeds import Stream, torch_generator
from kdrift.sde.base import SDE, Noise
from kdrift.sde.high_frequency import HighFrequencySDE, LowFrequencies
from kdrift.sde.noise_config import NoiseConfig
from kdrift.sde.process import Network, NoiseProcess, Projection, project_channels
from kdrift.sde.ve import VESDE

if TYPE_CHECKING:
    from kdrift.networks import NetworkConfig


@dataclass(frozen=True)
class WhiteNoise(NoiseProcess):
    """x_0 + sigma z."""

    kind: ClassVar[Noise] = "white"
    complex_only: ClassVar[bool] = False
    preconditionings: ClassVar[tuple[str, ...]] = ("none", "edm")

    def __post_init__(self) -> None:
        VESDE(self.sigma_min, self.sigma_max)  # raises where the levels are none

    @classmethod
    def of(cls, config: NoiseConfig) -> Self:
        """Return the process of a training configuration."""
        return cls(*config.sigma_range)

    def sde(self, rows: int, cols: int, device: str | torch.device = "cpu") -> SDE:
        """Return the VE-SDE of these levels: every other SDE of white noise is the same at another scale."""
        return VESDE(self.sigma_min, self.sigma_max)

    def kept(self, images: Tensor, sigma: float) -> Tensor:
        """Return zeros: the highest level drowns all."""
        return torch.zeros_like(images)

    def draw(
        self, config: NoiseConfig, preconditioning: str, seed: int, indices: Sequence[int], shape: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """Draw levels `(batch,)` and unit noise `(batch, *shape)`; see `draw_white`."""
        return draw_white(config, preconditioning, seed, indices, shape)

    def loss(
        self, config: NoiseConfig, network: Network, network_config: NetworkConfig, image: Tensor, *drawn: Tensor
    ) -> Tensor:
        """Return the EDM loss of a denoiser, and that of score matching of a network that returns the score."""
        sigma, noise = drawn
        network = own_scale(network, network_config, self.projection())
        if network_config.preconditioning == "edm":
            return edm_loss(network, image, sigma, noise, network_config.sigma_data, self.projection())
        return score_matching_loss(network, image, sigma, noise, self.projection())

    def misfit(self, config: NoiseConfig, error: Tensor, noise: Tensor, sigma: float) -> tuple[Tensor, float]:
        """Return P error, and sigma^2."""
        return project_channels(self.projection(), error), sigma**2


@dataclass(frozen=True)
class HighFrequencyNoise(WhiteNoise):
    """x_0 + sigma F_h z with F_h = F^-1 (I - M_l) F (HFS-SDE); of complex images."""

    low: LowFrequencies
    """M_l, the centre of k-space that stays free of noise."""

    kind: ClassVar[Noise] = "high_frequency"
    complex_only: ClassVar[bool] = True

    @classmethod
    def of(cls, config: NoiseConfig) -> Self:
        """Return the process of a training configuration."""
        return cls(*config.sigma_range, config.low)

    def sde(self, rows: int, cols: int, device: str | torch.device = "cpu") -> SDE:
        """Return the VE-SDE of the high frequencies, on the levels of this noise."""
        return HighFrequencySDE(VESDE(self.sigma_min, self.sigma_max), self.low.mask(rows, cols).to(device))

    def projection(self) -> Projection | None:
        """Return F_h."""

        def high_frequencies(x: Tensor) -> Tensor:
            return HighFrequencySDE(VESDE(), self.low.mask(*x.shape[-2:]).to(x.device)).project(x)

        return high_frequencies

    def kept(self, images: Tensor, sigma: float) -> Tensor:
        """Return the centre of k-space."""
        return images - project_channels(self.projection(), images)


def draw_white(
    config: NoiseConfig, preconditioning: str, seed: int, indices: Sequence[int], shape: Sequence[int],
    stream: Stream = "noise",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Draw a noise level and unit noise for each image, a pure function of (seed, global image index).

    `edm`: ln sigma ~ N(P_mean, P_std^2) (Karras et al. 2022, Table 1). `none`: t ~ U(t_min, 1) and sigma(t) of the
    configured SDE, std / alpha; for VE sigma_min (sigma_max / sigma_min)^t (Score-MRI, Eq. 7).

    Returns sigma `(batch,)` and noise `(batch, *shape)`, float32 on the CPU.
    """
    levels = torch.empty(len(indices))
    noise = torch.empty(len(indices), *shape)
    for position, index in enumerate(indices):
        generator = torch_generator(stream, seed, index)
        if preconditioning == "edm":
            levels[position] = torch.randn((), generator=generator)
        else:
            levels[position] = torch.rand((), generator=generator)
        noise[position].normal_(generator=generator)
    if preconditioning == "edm":
        return (config.log_sigma_mean + config.log_sigma_std * levels).exp(), noise
    times = config.t_min + (1 - config.t_min) * levels
    return config.levels.sigma(times), noise


def edm_loss(
    network: Network, image: Tensor, sigma: Tensor, noise: Tensor, sigma_data: float, part: Projection | None = None
) -> Tensor:
    """EDM loss lambda(sigma) |P (D(y + P n; sigma) - y)|^2, mean over pixels (Karras et al. 2022, Eq. 8).

    lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 (Table 1). `image` and unit `noise` are
    `(batch, channel, row, col)`; `part` is P, None the identity for white noise.
    """
    level = sigma[:, None, None, None]
    weight = (level**2 + sigma_data**2) / (level * sigma_data) ** 2
    denoised = network(image + level * project_channels(part, noise), sigma).to(torch.float32)
    return (weight * project_channels(part, denoised - image) ** 2).mean()


def score_matching_loss(
    network: Network, image: Tensor, sigma: Tensor, noise: Tensor, part: Projection | None = None
) -> Tensor:
    """Denoising score matching |P (sigma s(x + sigma P z, sigma) + z)|^2, mean over pixels.

    Score-MRI Eq. 17 for white noise (P the identity), HFS-SDE Eq. 16 for high frequencies.
    """
    level = sigma[:, None, None, None]
    score = network(image + level * project_channels(part, noise), sigma).to(torch.float32)
    return (project_channels(part, level * score + noise) ** 2).mean()


def own_scale(network: Network, config: NetworkConfig, part: Projection | None) -> Network:
    """Return the network as a function of images at their own scale and their noise level sigma.

    One conditioned on `std` is asked at alpha x (on `part`, which diffuses) and alpha sigma, alpha = 1 / sqrt(1 +
    sigma^2), and its score times alpha is that of x: in `score_matching_loss` that is |P (std s(x_t, std) + z)|^2, the
    loss of VP-type SDEs (HFS-SDE Eq. 19).
    """
    if config.conditioning == "sigma":
        return network

    def scaled(x: Tensor, sigma: Tensor) -> Tensor:
        alpha = torch.rsqrt(1 + sigma**2)
        factor = alpha[:, None, None, None]
        return factor * network(x + (factor - 1) * project_channels(part, x), alpha * sigma).to(torch.float32)

    return scaled
