"""Pictures of what a prior has learned so far: denoised validation images and unconditional samples.

The workers of a training share the work.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from kdrift.runs.files import whole_file
from kdrift.runs.seeds import torch_generator
from kdrift.sde import NoiseProcess
from kdrift.sde.process import project_channels
from kdrift.sde.white_noise import own_scale
from kdrift.training.denoised import autocast, denoise
from kdrift.training.together import together
from kdrift.training.train_config import TrainConfig


def noise_schedule(process: NoiseProcess, num_steps: int) -> Tensor:
    """Return `num_steps` levels from sigma_max to sigma_min and a zero (Karras et al. 2022, Eq. 5)."""
    ramp = torch.linspace(0, 1, num_steps)
    low, high = process.sigma_min ** (1 / 7), process.sigma_max ** (1 / 7)
    return torch.cat([(high + ramp * (low - high)) ** 7, torch.zeros(1)])


@torch.no_grad()
def draw_samples(
    config: TrainConfig, network: nn.Module, size: int, device: torch.device, images: Tensor | None = None
) -> Tensor:
    """Samples of the prior `(sample, channel, size, size)` by Euler steps (Karras et al. 2022, Alg. 1).

    Where only high frequencies diffuse, the low ones are those of `images` (zero without any), and where k-space is
    attenuated, its centre.
    """
    generator = torch_generator("preview", config.seed)
    shape = (config.monitoring.num_samples, config.network.channels, size, size)
    process = config.noise.process
    part, levels = process.projection(), noise_schedule(process, config.monitoring.sample_steps)
    scaled = own_scale(network, config.network, part)
    start = project_channels(part, levels[0] * torch.randn(shape, generator=generator))
    if images is not None:
        known = images.repeat(-(-shape[0] // len(images)), 1, 1, 1)[: shape[0]]
        start = start + process.kept(known, float(levels[0]))

    def draw(numbers: range) -> Tensor:
        x = start[list(numbers)].to(device)
        for now, after in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
            with autocast(config, device):
                sigma = torch.full((len(x),), now, device=device)
                denoised = denoise(scaled, config.network.returns, x, sigma)
            seen = process.blur(denoised, now)
            x = x + process.blur(denoised, after) - seen + (1 - after / now) * project_channels(part, seen - x)
        return x

    return together(shape[0], shape[1:], draw, device).float()


@torch.no_grad()
def draw_denoised(config: TrainConfig, network: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """Rows for three noise levels, columns noisy, denoised, clean, of one image each: `(9, channel, row, col)`."""
    sigmas, process = config.monitoring.validation_sigmas, config.noise.process
    part = process.projection()
    scaled = own_scale(network, config.network, part)
    chosen = [sigmas[0], sigmas[len(sigmas) // 2], sigmas[-1]] if sigmas else []
    generator = torch_generator("preview noise", config.seed)
    noises = [torch.randn((1, *images.shape[1:]), generator=generator) for _ in chosen]

    def draw(numbers: range) -> Tensor:
        rows = []
        for number in numbers:
            sigma, clean = chosen[number], images[number * len(images) // len(chosen)][None]
            noisy = process.blur(clean, sigma) + sigma * project_channels(part, noises[number])
            with autocast(config, device):
                level = torch.full((1,), sigma, device=device)
                denoised = denoise(scaled, config.network.returns, noisy.to(device), level)
            rows.append(torch.cat([noisy, denoised.cpu(), clean]))
        return torch.stack(rows)

    return together(len(chosen), (3, *images.shape[1:]), draw, device).float().flatten(0, 1)


def save_sheet(path: Path, images: Tensor, columns: int) -> None:
    """Write `(image, channel, row, col)` images of scale 1 as one PNG: magnitudes, of complex ones too."""
    import matplotlib.image

    count, _, rows, cols = images.shape
    sheet = torch.zeros(-(-count // columns) * rows, columns * cols)
    for number, image in enumerate(images):
        top, left = divmod(number, columns)
        sheet[top * rows : (top + 1) * rows, left * cols : (left + 1) * cols] = image.square().sum(0).sqrt()
    with whole_file(path) as temporary:
        matplotlib.image.imsave(str(temporary), sheet.clamp(0, 1.2).numpy(), cmap="gray", vmin=0, vmax=1.2)
