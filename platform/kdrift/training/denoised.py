"""How much noise a score network in training leaves on images that it has not seen."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from kdrift.networks import Returns
from kdrift.runs.hardware import has_fast_bfloat16
from kdrift.sde import NoiseConfig
from kdrift.sde.process import Network, project_channels
from kdrift.sde.white_noise import draw_white, own_scale
from kdrift.training.together import together
from kdrift.training.train_config import TrainConfig

_VALIDATION_BATCH = 8


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Return the autocast context of the configured precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=uses_bfloat16(config, device))


def uses_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    """Whether the network computes in bfloat16 on this device."""
    precision = config.hardware.precision
    return precision == "bfloat16" or (precision == "auto" and has_fast_bfloat16(device))


@torch.no_grad()
def validate(config: TrainConfig, network: nn.Module, images: Tensor, device: torch.device) -> dict[str, float]:
    """Fraction of the noise's power left after denoising `(image, channel, row, col)`, for each level.

    The workers of a training share the work; the figures do not depend on how many there are.
    """
    process, returns = config.noise.process, config.network.returns
    scaled = own_scale(network, config.network, process.projection())
    sigmas, batches = config.monitoring.validation_sigmas, torch.split(images, _VALIDATION_BATCH)

    @lru_cache(maxsize=1)  # the levels of a batch come one after another
    def with_noise(batch: int) -> tuple[Tensor, Tensor]:
        image, first = batches[batch], batch * _VALIDATION_BATCH
        indices = range(first, first + len(image))  # the same noise every time, so that values compare
        _, noise = draw_white(config.noise, "edm", config.seed, indices, image.shape[1:], "validation noise")
        return image.to(device), noise.to(device)

    def measure(numbers: range) -> Tensor:
        left = []
        for number in numbers:  # of a batch of images at a level, always the same ones, however they are shared
            batch, level = divmod(number, len(sigmas))
            image, noise = with_noise(batch)
            with autocast(config, device):
                on_device = image, sigmas[level], noise
                left.append(noise_left(scaled, returns, *on_device, config.noise))
        return torch.tensor(left, dtype=torch.float64)

    found = together(len(batches) * len(sigmas), (), measure, device).reshape(len(batches), len(sigmas))
    weights = torch.tensor([len(batch) for batch in batches], dtype=torch.float64)
    means = (weights @ found / len(images)).tolist()
    return {f"validation/noise_left_sigma_{sigma:g}": mean for sigma, mean in zip(sigmas, means, strict=True)}


def denoise(network: Network, returns: Returns, x: Tensor, sigma: Tensor) -> Tensor:
    """Return E[x_0 | x] of a network in training: an image as it is, from a score by Tweedie's x + sigma^2 s."""
    output = network(x, sigma).to(torch.float32)
    return output if returns == "image" else x + sigma[:, None, None, None] ** 2 * output


def noise_left(
    network: Network, returns: Returns, image: Tensor, sigma: float, noise: Tensor, config: NoiseConfig
) -> float:
    """Mean of |P W (D(G y + sigma P z) - y)|^2 / sigma^2: the fraction of the noise's power that denoising leaves.

    It equals the score-matching loss (Score-MRI, Eq. 17) at this level for both kinds of network. P and G are the
    projection and the attenuation of the process, and W what its loss is taken under (G in AK-Diffusion's Eq. 11): the
    value is then a fraction of the noise under W, to which with W = 1 what is not restored of the attenuation adds.
    """
    process = config.process
    levels = torch.full((len(image),), sigma, device=image.device)
    noisy = process.blur(image, sigma) + sigma * project_channels(process.projection(), noise)
    error, power = process.misfit(config, denoise(network, returns, noisy, levels) - image, noise, sigma)
    return float((error**2).mean()) / power
