"""What the loop trains for, to remove noise or to reconstruct: it asks the objective alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kdrift.data.dataset import TrainingImages
from kdrift.training.denoised import validate
from kdrift.training.preview import draw_denoised, draw_samples
from kdrift.training.reconstruction import ReconstructionObjective
from kdrift.training.train_config import TrainConfig

Sheets = dict[str, tuple[Tensor, int]]
"""Images `(image, channel, row, col)` and in how many columns they are shown, by name."""


class TrainingObjective(Protocol):
    """What is drawn of training images, the loss of that, and what is measured and shown of images that are held out.

    Images are channels `(batch, channel, row, col)`; what is drawn is a pure function of their numbers.
    """

    def draw(self, images: Tensor, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Return what `loss` takes after the network, of the images of these numbers."""

    def loss(self, network: Any, *drawn: Tensor) -> Tensor:
        """Return the loss of a batch."""

    def validate(self, network: nn.Module, images: Tensor, device: torch.device) -> dict[str, float]:
        """Return what is measured of held-out images, by name."""

    def sheets(self, network: nn.Module, images: Tensor | None, device: torch.device) -> Sheets:
        """Return pictures of what the network has learned so far; `images` are held out, None where there are none."""


@dataclass(frozen=True)
class ScoreObjective:
    """To remove noise: the noise of the configuration's process at levels it draws."""

    config: TrainConfig

    def draw(self, images: Tensor, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Return images, and levels and noise for them."""
        config, shape = self.config, images.shape[1:]
        drawn = config.noise.process.draw(config.noise, config.network.preconditioning, config.seed, indices, shape)
        return (images, *drawn)

    def loss(self, network: Any, *drawn: Tensor) -> Tensor:
        """Return the loss of the process."""
        config = self.config
        return config.noise.process.loss(config.noise, network, config.network, *drawn)

    def validate(self, network: nn.Module, images: Tensor, device: torch.device) -> dict[str, float]:
        """Return the fraction of the noise that is left, by level."""
        return validate(self.config, network, images, device)

    def sheets(self, network: nn.Module, images: Tensor | None, device: torch.device) -> Sheets:
        """Return denoised images and unconditional samples."""
        config, found = self.config, Sheets()
        if images is not None and config.monitoring.validation_sigmas:
            found["denoised"] = (draw_denoised(config, network, images, device), 3)
        if config.monitoring.num_samples:
            found["samples"] = (draw_samples(config, network, config.data.crop, device, images), 4)
        return found


def objective_of(config: TrainConfig, critic: nn.Module | None = None) -> TrainingObjective:
    """Return what a run trains for; its loss has the verdict of the critic that is trained with the network, if any."""
    if config.measurement is None:
        return ScoreObjective(config)
    return ReconstructionObjective(
        config.measurement, config.seed, config.batch_size, config.network.penalty_weight, critic
    )


def held_out_images(config: TrainConfig) -> Tensor | None:
    """Return the validation images of a run `(image, channel, row, col)`, None where it has none."""
    if not config.data.validation or not config.monitoring.validation_images:
        return None
    images = TrainingImages(config.data, "validation", config.seed)
    # what reconstructs is measured with the widest field of view of its training, a prior as sharp as images are
    zoom = 1.0 if config.measurement is None else config.data.zoom[0]
    return images.validation_batch(min(config.monitoring.validation_images, len(images)), zoom=zoom)
