"""What training a network that reconstructs is: measurements drawn of images, a loss of magnitudes, its validation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdrift.data.measurements import MeasurementConfig, draw_measurements
from kdrift.measures.metrics import similarity
from kdrift.mri.coils import combine
from kdrift.mri.fourier import ifft2c
from kdrift.networks.reconstructor import peak
from kdrift.runs.seeds import Stream
from kdrift.sde.process import as_complex
from kdrift.training.together import together


@dataclass(frozen=True)
class ReconstructionObjective:
    """The task of a network `(kspace, mask, smaps) -> image`; images are channels `(batch, 2, row, col)`."""

    config: MeasurementConfig
    seed: int
    batch_size: int
    """Images of an optimiser step, over all workers: they have coils in common."""
    penalty_weight: float = 0.0
    """Weight of the network's own penalty in the loss; 0: it has none (`ReconstructorConfig.penalty_weight`)."""

    critic: nn.Module | None = None
    """The `Critic` that is trained with the network, whose verdict the loss has too; None: none, or it is not asked."""

    def draw(self, images: Tensor, indices: Sequence[int], stream: Stream = "measurement") -> tuple[Tensor, ...]:
        """Return k-space, masks, coil maps and the reference magnitudes `(batch, row, col)` of images."""
        complex_images = as_complex(images)
        number = indices[0] // self.batch_size
        measured = draw_measurements(self.config, complex_images, self.seed, indices, number, stream)
        return (*measured, complex_images.abs())

    def loss(self, network: Any, *drawn: Tensor) -> Tensor:
        """Return the loss of a batch, its mean over images, with the network's own penalty and the critic's verdict."""
        *measured, reference = drawn
        if self.penalty_weight:
            image, penalty = network(*measured, penalised=True)
            loss: Tensor = self._distance(image, reference) + self.penalty_weight * penalty
        else:
            image = network(*measured)
            loss = self._distance(image, reference)
        if self.critic is not None:
            most = peak(reference)
            loss = loss + self.critic(image.abs() / most, reference / most)
        return loss

    def _distance(self, image: Tensor, reference: Tensor) -> Tensor:
        most = peak(reference)
        if self.config.loss == "ssim":
            return 1 - similarity(reference, image.abs(), most).mean()
        difference = (image.abs() - reference) / most
        return difference.abs().mean() if self.config.loss == "l1" else difference.square().mean()

    @torch.no_grad()
    def validate(self, network: nn.Module, images: Tensor, device: torch.device) -> dict[str, float]:
        """Return mean SSIM and PSNR by image, of the network and of zero-filled, always of the same measurements."""

        def measure(numbers: range) -> Tensor:
            figures = []
            for number in numbers:
                *measured, reference = (part.to(device) for part in self._validation(images, number))
                row = []
                for image in (network(*measured), combine(ifft2c(measured[0]), measured[2])):
                    most, difference = peak(reference), image.abs() - reference
                    row.append(float(similarity(reference, image.abs(), most).mean()))
                    row.append(10 * math.log10(float(most.square() / difference.square().mean().clamp(min=1e-20))))
                figures.append(row)
            return torch.tensor(figures, dtype=torch.float64)

        names = ("ssim", "psnr", "zero_filled_ssim", "zero_filled_psnr")
        means = together(len(images), (len(names),), measure, device).mean(0).tolist()
        return {f"validation/{name}": mean for name, mean in zip(names, means, strict=True)}

    @torch.no_grad()
    def sheets(self, network: nn.Module, images: Tensor | None, device: torch.device) -> dict[str, tuple[Tensor, int]]:
        """Return rows of three magnitudes: zero-filled, network, reference."""
        if images is None:
            return {}

        def draw(numbers: range) -> Tensor:
            rows = list[Tensor]()
            for number in numbers:
                measured = [part.to(device) for part in self._validation(images, number * len(images) // 3)]
                zero_filled, image = combine(ifft2c(measured[0]), measured[2]), network(*measured[:3])
                rows.append(torch.cat([part.abs() for part in (zero_filled, image, measured[3])]))
            return torch.stack(rows)

        tiles = together(min(3, len(images)), (3, *images.shape[-2:]), draw, device).float()
        return {"reconstructed": (tiles.flatten(0, 1)[:, None], 3)}

    def _validation(self, images: Tensor, number: int) -> tuple[Tensor, ...]:
        one = ReconstructionObjective(self.config, self.seed, 1)  # each image has coils of its own
        return one.draw(images[number : number + 1], [number], "validation measurement")
