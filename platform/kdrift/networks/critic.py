"""What tells reconstructions from references in adversarial training (Ledig et al. 2017, SRGAN, arXiv:1609.04802)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class CriticConfig:
    """Settings of the critic (the paper's discriminator)."""

    weight: float = 1e-3
    """Weight in the loss of a network of how surely the critic takes its images for reconstructions (Eq. 3)."""
    features: int = 64
    """Channels of the first level; each level below has twice as many."""
    levels: int = 4
    """Levels of two convolutions, the second of which halves the size."""

    def __post_init__(self) -> None:
        if self.weight <= 0 or min(self.features, self.levels) < 1:
            raise ValueError(
                "expected weight above 0, features and levels of at least 1, got"
                f" {self.weight}, {self.features} and {self.levels}"
            )


class Critic(nn.Module):
    """D, convolutions with leaky ReLU whose last map says of each place whether it is of a reference, as a logit.

    A map of places (Isola et al. 2017, arXiv:1611.07004) takes images of any size.
    """

    def __init__(self, config: CriticConfig) -> None:
        super().__init__()
        self.weight = config.weight
        layers, inputs = list[nn.Module](), 1
        for level in range(config.levels):
            width = config.features << level
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.LeakyReLU(0.2)]
            layers += [nn.Conv2d(width, width, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(inputs, 1, 1))

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Return what is added to the loss of a step, of magnitudes `(batch, row, col)` whose reference has maximum 1.

        It is -w log D(image), which reaches the image alone, and -log D(reference) - log(1 - D(image)), which reaches
        the critic alone: one step for both, each against the other as it was.
        """
        frozen = {name: parameter.detach() for name, parameter in self.layers.named_parameters()}
        deceived = torch.func.functional_call(self.layers, frozen, (image[:, None],))
        judged = self.layers(torch.cat([reference, image.detach()])[:, None]).to(torch.float32)
        real, made = judged.split([len(reference), len(image)])
        own = F.softplus(-real).mean() + F.softplus(made).mean()
        return self.weight * F.softplus(-deceived.to(torch.float32)).mean() + own
