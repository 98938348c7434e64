"""Noise of coil images together with the attenuation of their k-space (Cui et al. 2024, AK-Diffusion, Eq. 11)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from kdrift.mri.birdcage import draw_coils, maps_of
from kdrift.mri.coils import combine
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.runs.seeds import numpy_rng, torch_generator
from kdrift.sde.attenuated import AttenuatedSDE, gaussian_window
from kdrift.sde.base import Noise
from kdrift.sde.noise_config import NoiseConfig
from kdrift.sde.process import Network, NoiseProcess, as_channels, as_complex

if TYPE_CHECKING:
    from kdrift.networks import NetworkConfig


@dataclass(frozen=True)
class AttenuatedNoise(NoiseProcess):
    """G_t z_0 + sigma SS* n of coil images z_0."""

    b_min: float
    """b of the mildest attenuation G = exp(-|w|^2 b^2 / 2), w in [-1, 1), which goes with sigma_min."""
    b_max: float
    """b of the strongest attenuation, which goes with sigma_max."""

    kind: ClassVar[Noise] = "attenuated"
    complex_only: ClassVar[bool] = True
    preconditionings: ClassVar[tuple[str, ...]] = ("residual", "edm")

    def __post_init__(self) -> None:
        AttenuatedSDE(self.sigma_min, self.sigma_max, self.b_min, self.b_max)  # raises where a value is out of range

    @classmethod
    def of(cls, config: NoiseConfig) -> Self:
        """Return the process of a training configuration."""
        return cls(*config.sigma_range, config.attenuated.b_min, config.attenuated.b_max)

    def sde(self, rows: int, cols: int, device: str | torch.device = "cpu") -> AttenuatedSDE:
        """Return the SDE of k-space without coil maps; samplers that have maps put them in."""
        return AttenuatedSDE(self.sigma_min, self.sigma_max, self.b_min, self.b_max)

    def blur(self, images: Tensor, sigma: float) -> Tensor:
        """Return G x at the time whose level is `sigma`, for one coil of ones."""
        if sigma <= 0:
            return images
        time = math.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)
        b = self.b_min * (self.b_max / self.b_min) ** time
        rows, cols = images.shape[-2:]
        window = gaussian_window(rows, cols, torch.tensor(b, device=images.device))
        return as_channels(ifft2c(window * fft2c(as_complex(images))))

    def kept(self, images: Tensor, sigma: float) -> Tensor:
        """Return G x: the centre of k-space."""
        return self.blur(images, sigma)

    def draw(
        self, config: NoiseConfig, preconditioning: str, seed: int, indices: Sequence[int], shape: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """Draw levels, noise and coils for each image `shape` (2, row, col), a pure function of (seed, image index).

        Returns sigma `(batch,)`, unit noise complex `(batch, 1 | coil, row, col)`, b `(batch,)`, and what `maps_of`
        makes the coil maps of, on the device that trains: `(batch, 3, 3)` and `(batch, coil, coil)`. Their root sum of
        squares is the item's gain.
        """
        how = config.attenuated
        rows, cols = shape[-2:]
        count, coils, last = len(indices), how.num_coils, how.num_times - 1
        sigma, b = torch.empty(count), torch.empty(count)
        place, mix = torch.empty(count, 3, 3), torch.empty(count, coils, coils, dtype=torch.complex64)
        noise = torch.empty(count, 1 if how.coil_noise else coils, rows, cols, 2)
        for position, index in enumerate(map(int, indices)):
            rng = numpy_rng("attenuation", seed, index)
            pair, mirrored = divmod(index, 2) if how.antithetic else (index, 0)
            step = int(numpy_rng("attenuation time", seed, pair).integers(how.num_times))
            time = torch.tensor((last - step if mirrored else step) / last)
            top = float(rng.choice(how.sigma_last or (self.sigma_max,)))
            sde = AttenuatedSDE(self.sigma_min, top, self.b_min, self.b_max)
            sigma[position], b[position] = sde.sigma(time), sde.b(time)
            gain = np.exp(rng.uniform(*np.log(how.gain)))
            place[position], unitary = draw_coils(coils, rows, cols, rng)
            mix[position] = unitary * float(gain)
            noise[position].normal_(generator=torch_generator("noise", seed, index))
        return sigma, torch.view_as_complex(noise), b, place, mix

    def loss(
        self, config: NoiseConfig, network: Network, network_config: NetworkConfig, image: Tensor, *drawn: Tensor
    ) -> Tensor:
        """Return lambda(t) |S^H G_t (h(z_t) - z_0)|^2 with z_t = G_t z_0 + sigma SS* n (Eq. 11), mean over pixels.

        SS* n of unit noise n is S n' with one noise image n' of unit variance. lambda, which the paper leaves open, is
        1 / (sigma^2 mean G_t^2), so that the loss is the fraction left of the noise's power under G_t, which at the
        last times is a few samples of k-space. With `loss_under_attenuation` off, G_t is left out of both. `image` is
        `(batch, 2, row, col)`.
        """
        how, (sigma, noise, b, place, mix) = config.attenuated, drawn
        rows, cols = image.shape[-2:]
        smaps = maps_of(place, mix, rows, cols)
        level, window = sigma[:, None, None, None], gaussian_window(rows, cols, b[:, None, None, None])
        clean = smaps * as_complex(image)[:, None]
        noisy = ifft2c(window * fft2c(clean)) + level * (smaps * noise if how.coil_noise else noise)
        channels = as_channels(noisy.flatten(0, 1)).contiguous()
        output = network(channels, sigma.repeat_interleave(smaps.shape[1])).to(torch.float32)
        error = as_complex(output).reshape(noisy.shape) - clean
        power = level**2
        if how.loss_under_attenuation:
            error = ifft2c(window * fft2c(error))
            power = power * (window**2).mean((-2, -1), keepdim=True)
        if how.coil_noise:
            error = combine(error, smaps)[:, None] / smaps.abs().square().sum(1, keepdim=True)
        return (torch.view_as_real(error).square().sum(-1) / (2 * power)).mean()

    def misfit(self, config: NoiseConfig, error: Tensor, noise: Tensor, sigma: float) -> tuple[Tensor, float]:
        """Return G error and the noise's power under G, or with the loss over all of k-space the error and sigma^2.

        To the second, what is not restored of the attenuation adds.
        """
        if not config.attenuated.loss_under_attenuation:
            return error, sigma**2
        return self.blur(error, sigma), sigma**2 * float((self.blur(noise, sigma) ** 2).mean())
