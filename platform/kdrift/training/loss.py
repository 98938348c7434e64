"""Images denoised by a network in training, and what denoising leaves of the noise."""

from __future__ import annotations

import torch
from torch import Tensor

from kdrift.networks import Returns
from kdrift.sde import NoiseConfig
from kdrift.sde.channels import Network, project_channels


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
