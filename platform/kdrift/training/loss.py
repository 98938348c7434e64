"""Training losses and their noise, drawn image by image so that no split of the work changes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kdrift.networks import Returns
from kdrift.runs.seeds import Stream, torch_generator
from kdrift.sde import VESDE, HighFrequencySDE
from kdrift.training.attenuated import attenuate, attenuated_loss, draw_attenuated
from kdrift.training.train_config import NoiseConfig, TrainConfig

Network = Callable[[Tensor, Tensor], Tensor]
Projection = Callable[[Tensor], Tensor]


def whole(images: Tensor) -> Tensor:
    """Return the images as they are: the projection of white noise, and no attenuation."""
    return images


def draw_noise(
    config: NoiseConfig, preconditioning: str, seed: int, indices: Sequence[int], shape: Sequence[int],
    stream: Stream = "noise",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Draw a noise level and unit noise for each image, a pure function of (seed, global image index).

    `edm`: ln sigma ~ N(P_mean, P_std^2) (Karras et al. 2022, Table 1). `none`: t ~ U(t_min, 1) and sigma(t) of the
    configured SDE, std / alpha; for VE sigma_min (sigma_max / sigma_min)^t (Score-MRI, Eq. 7).

    Returns
    -------
    sigma (batch,) and noise (batch, *shape), float32 on the CPU.
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
    return config.process.sigma(times), noise


def projection(config: NoiseConfig) -> Projection:
    """Return P of the configured noise on real channels: the part of `(batch, channel, row, col)` that diffuses."""
    if config.kind != "high_frequency":
        return whole

    def high_frequencies(images: Tensor) -> Tensor:
        low = config.low.mask(*images.shape[-2:]).to(images.device)
        x = torch.view_as_complex(images.to(torch.float32).movedim(1, -1).contiguous())
        return torch.view_as_real(HighFrequencySDE(VESDE(), low).project(x)).movedim(-1, 1)

    return high_frequencies


def own_scale(network: Network, config: TrainConfig) -> Network:
    """Return the network as a function of images at their own scale and their noise level sigma.

    One conditioned on `std` is asked at alpha x (on the part that diffuses) and alpha sigma, alpha = 1 / sqrt(1 +
    sigma^2), and its score times alpha is that of x: in `score_matching_loss` that is |P (std s(x_t, std) + z)|^2, the
    loss of VP-type SDEs (HFS-SDE Eq. 19).
    """
    if config.network.conditioning == "sigma":
        return network
    part = projection(config.noise)

    def scaled(x: Tensor, sigma: Tensor) -> Tensor:
        alpha = torch.rsqrt(1 + sigma**2)
        factor = alpha[:, None, None, None]
        return factor * network(x + (factor - 1) * part(x), alpha * sigma).to(torch.float32)

    return scaled


def attenuation(config: NoiseConfig, sigma: float) -> Projection:
    """Return what goes with noise of level `sigma` for kind attenuated, one coil of ones: G x; else x."""
    if config.kind != "attenuated" or sigma <= 0:
        return whole
    time = math.log(sigma / config.sigma_min) / math.log(config.sigma_max / config.sigma_min)
    b = config.attenuated.b_min * (config.attenuated.b_max / config.attenuated.b_min) ** time
    return lambda images: attenuate(images, b)


def draw_batch(config: TrainConfig, image: Tensor, indices: Sequence[int]) -> tuple[Tensor, ...]:
    """Return `image` and what `training_loss` takes after it, a pure function of (seed, global image index)."""
    noise, kind = config.noise, config.network.preconditioning
    if noise.kind == "attenuated":
        sigmas = (noise.sigma_min, noise.sigma_max)
        return image, *draw_attenuated(noise.attenuated, sigmas, config.seed, indices, image.shape[1:])
    return image, *draw_noise(noise, kind, config.seed, indices, image.shape[1:])


def edm_loss(
    network: Network, image: Tensor, sigma: Tensor, noise: Tensor, sigma_data: float, part: Projection = whole
) -> Tensor:
    """EDM loss lambda(sigma) |P (D(y + P n; sigma) - y)|^2, mean over pixels (Karras et al. 2022, Eq. 8).

    lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 (Table 1). `image` and unit `noise` are
    `(batch, channel, row, col)`; `part` is P, the identity for white noise.
    """
    level = sigma[:, None, None, None]
    weight = (level**2 + sigma_data**2) / (level * sigma_data) ** 2
    denoised = network(image + level * part(noise), sigma).to(torch.float32)
    return (weight * part(denoised - image) ** 2).mean()


def score_matching_loss(
    network: Network, image: Tensor, sigma: Tensor, noise: Tensor, part: Projection = whole
) -> Tensor:
    """Denoising score matching |P (sigma s(x + sigma P z, sigma) + z)|^2, mean over pixels.

    Score-MRI Eq. 17 for white noise (P the identity), HFS-SDE Eq. 16 for high frequencies.
    """
    level = sigma[:, None, None, None]
    score = network(image + level * part(noise), sigma).to(torch.float32)
    return (part(level * score + noise) ** 2).mean()


def training_loss(
    network: Network, config: TrainConfig, image: Tensor, sigma: Tensor, noise: Tensor, *coils: Tensor
) -> Tensor:
    """Return the loss that belongs to the network's preconditioning and the configured noise."""
    if config.noise.kind == "attenuated":
        return attenuated_loss(network, config.noise.attenuated, image, sigma, noise, *coils)
    part, network = projection(config.noise), own_scale(network, config)
    if config.network.preconditioning == "edm":
        return edm_loss(network, image, sigma, noise, config.network.sigma_data, part)
    return score_matching_loss(network, image, sigma, noise, part)


def denoise(network: Network, returns: Returns, x: Tensor, sigma: Tensor) -> Tensor:
    """Return E[x_0 | x] of a network in training: an image as it is, from a score by Tweedie's x + sigma^2 s."""
    output = network(x, sigma).to(torch.float32)
    return output if returns == "image" else x + sigma[:, None, None, None] ** 2 * output


def noise_left(
    network: Network, returns: Returns, image: Tensor, sigma: float, noise: Tensor, part: Projection = whole,
    blur: Projection = whole, weight: Projection = whole,
) -> float:  # fmt: skip
    """Mean of |P W (D(G y + sigma P z) - y)|^2 / sigma^2: the fraction of the noise's power that denoising leaves.

    It equals the score-matching loss (Score-MRI, Eq. 17) at this level for both kinds of network. `blur` is G, the
    attenuation of AK-Diffusion, and `weight` W what its loss is taken under (G in Eq. 11); the value is then a fraction
    of the noise under W, to which with W = 1 what is not restored of the attenuation adds.
    """
    levels = torch.full((len(image),), sigma, device=image.device)
    denoised = denoise(network, returns, blur(image) + sigma * part(noise), levels)
    power = sigma**2 if weight is whole else sigma**2 * float((weight(noise) ** 2).mean())
    return float((part(weight(denoised - image)) ** 2).mean()) / power
