"""Training of AK-Diffusion (Cui et al. 2024, Eq. 11): coil images attenuated, with the noise of coils."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdrift.data.coil_maps import random_coil_maps
from kdrift.mri.coils import combine
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.runs.seeds import numpy_rng, torch_generator
from kdrift.sde import AttenuatedSDE, gaussian_window

Network = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class AttenuationConfig:
    """Attenuation and coils of noise.kind attenuated; the noise levels are noise.sigma_min to noise.sigma_max."""

    b_min: float = 0.5
    """b of the mildest attenuation G = exp(-|w|^2 b^2 / 2), w in [-1, 1)."""
    b_max: float = 24.0
    """b of the strongest; geometric between, as the noise levels."""
    num_times: int = 1000
    """T: t is one of this many evenly spaced times."""
    sigma_last: tuple[float, ...] = ()
    """sigma_N, drawn from these for each image: the noise level that goes with b_max. Several make a prior that serves
    methods of different sigma_N; empty: noise.sigma_max alone."""
    antithetic: bool = True
    """Images 2k and 2k + 1 take times that mirror each other (released code)."""
    coil_noise: bool = True
    """Noise and loss through SS* and S^H; False puts the identity there, the paper's ablation (section V.A)."""
    loss_under_attenuation: bool = True
    """Compare G_t h with G_t z_0, as in Eq. 11. False: h with z_0. The best h is the conditional mean of z_0 for both;
    a small network learns the frequencies that G_t leaves little of from the second alone."""
    num_coils: int = 4
    """Coil images made of each training image; all of them go through the network."""
    gain: tuple[float, float] = (0.4, 1.0)
    """Range of a random factor on the coil images of an item, log-uniform: each of many coils is weaker than of few."""

    def __post_init__(self) -> None:
        if not 0 < self.b_min <= self.b_max or self.num_times < 2 or self.num_coils < 1:
            raise ValueError(f"expected 0 < b_min <= b_max, num_times >= 2 and num_coils >= 1, got {self}")
        if not 0 < self.gain[0] <= self.gain[1] or any(sigma <= 0 for sigma in self.sigma_last):
            raise ValueError(f"expected 0 < gain low <= high and sigma_last > 0, got {self}")


def draw_attenuated(
    config: AttenuationConfig, sigmas: tuple[float, float], seed: int, indices: Sequence[int], shape: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw levels, noise and coils for each image `shape` (2, row, col), a pure function of (seed, global image index).

    Returns
    -------
    sigma (batch,), unit noise complex (batch, 1 | coil, row, col), b (batch,), coil maps (batch, coil, row, col), whose
    root sum of squares is the item's gain.
    """
    rows, cols = shape[-2:]
    count, coils = len(indices), config.num_coils
    sigma, b = torch.empty(count), torch.empty(count)
    smaps = torch.empty(count, coils, rows, cols, dtype=torch.complex64)
    noise = torch.empty(count, 1 if config.coil_noise else coils, rows, cols, 2)
    for position, index in enumerate(map(int, indices)):
        rng = numpy_rng("attenuation", seed, index)
        time = _time(config, seed, index)
        top = float(rng.choice(config.sigma_last or (sigmas[1],)))
        sde = AttenuatedSDE(sigmas[0], top, config.b_min, config.b_max)
        sigma[position], b[position] = sde.sigma(time), sde.b(time)
        gain = np.exp(rng.uniform(*np.log(config.gain)))
        smaps[position] = torch.from_numpy(gain * random_coil_maps(coils, rows, cols, rng))
        noise[position].normal_(generator=torch_generator("noise", seed, index))
    return sigma, torch.view_as_complex(noise), b, smaps


def _time(config: AttenuationConfig, seed: int, index: int) -> Tensor:
    pair, mirrored = divmod(index, 2) if config.antithetic else (index, 0)
    last = config.num_times - 1
    step = int(numpy_rng("attenuation time", seed, pair).integers(config.num_times))
    return torch.tensor((last - step if mirrored else step) / last)


def attenuated_loss(
    network: Network, config: AttenuationConfig, image: Tensor, sigma: Tensor, noise: Tensor, b: Tensor, smaps: Tensor
) -> Tensor:
    """lambda(t) |S^H G_t (h(z_t) - z_0)|^2 with z_t = G_t z_0 + sigma SS* n (Eq. 11), mean over pixels.

    SS* n of unit noise n is S n' with one noise image n' of unit variance. lambda, which the paper leaves open, is
    1 / (sigma^2 mean G_t^2), so that the loss is the fraction left of the noise's power under G_t, which at the last
    times is a few samples of k-space. With `loss_under_attenuation` off, G_t is left out of both. `image` is
    `(batch, 2, row, col)`.
    """
    rows, cols = image.shape[-2:]
    level, window = sigma[:, None, None, None], gaussian_window(rows, cols, b[:, None, None, None])
    clean = smaps * _complex(image)[:, None]
    noisy = ifft2c(window * fft2c(clean)) + level * (smaps * noise if config.coil_noise else noise)
    channels = torch.view_as_real(noisy.flatten(0, 1)).movedim(-1, 1).contiguous()
    output = network(channels, sigma.repeat_interleave(smaps.shape[1])).to(torch.float32)
    error = _complex(output).reshape(noisy.shape) - clean
    power = level**2
    if config.loss_under_attenuation:
        error = ifft2c(window * fft2c(error))
        power = power * (window**2).mean((-2, -1), keepdim=True)
    if config.coil_noise:
        error = combine(error, smaps)[:, None] / smaps.abs().square().sum(1, keepdim=True)
    return (torch.view_as_real(error).square().sum(-1) / (2 * power)).mean()


def attenuate(images: Tensor, b: float) -> Tensor:
    """G x of real channels `(batch, 2, row, col)`."""
    rows, cols = images.shape[-2:]
    window = gaussian_window(rows, cols, torch.tensor(b, device=images.device))
    return torch.view_as_real(ifft2c(window * fft2c(_complex(images)))).movedim(-1, 1)


def _complex(channels: Tensor) -> Tensor:
    return torch.view_as_complex(channels.to(torch.float32).movedim(1, -1).contiguous())
