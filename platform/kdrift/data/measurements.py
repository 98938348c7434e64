"""Measurements of training images, simulated as they are drawn: coil maps, noise, and a mask of a family each.

Everything is a pure function of the seed and the number of the image.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kdrift.data.simulate import SimulationConfig, coil_maps, mean_signal
from kdrift.mri.birdcage import random_coil_maps
from kdrift.mri.fourier import fft2c
from kdrift.mri.masks import KINDS, make_mask
from kdrift.networks import CriticConfig
from kdrift.runs.hint import suggest
from kdrift.runs.seeds import Stream, numpy_rng


@dataclass(frozen=True)
class RandomMask:
    """Masks of one kind, each of a random acceleration."""

    kind: str = "equispaced"
    """Kind of mask (kdrift list masks)."""
    acceleration: tuple[float, float] = (4.0, 8.0)
    """Range of the net acceleration, log-uniform."""
    acs_fraction: tuple[float, float] = (0.04, 0.08)
    """Fully sampled centre as a part of each undersampled axis: the larger goes with the lower acceleration."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no mask {self.kind!r}{suggest(self.kind, KINDS)}")
        if not 1 <= self.acceleration[0] <= self.acceleration[1]:
            raise ValueError(f"expected acceleration [low, high] of 1 and more, got {list(self.acceleration)}")
        if not 0 < self.acs_fraction[0] <= self.acs_fraction[1] <= 1:
            raise ValueError(f"expected acs_fraction [low, high] above 0 and up to 1, got {list(self.acs_fraction)}")

    def draw(self, rows: int, cols: int, rng: np.random.Generator) -> Tensor:
        """Return a boolean mask `(row, col)`."""
        position, (low, high), (least, most) = rng.uniform(), self.acceleration, self.acs_fraction
        acceleration = low * (high / low) ** position
        fraction = most * (least / most) ** position
        seed = int(rng.integers(2**32))
        return make_mask(self.kind, (rows, cols), acceleration=acceleration, acs_fraction=fraction, seed=seed).mask


@dataclass(frozen=True)
class MeasurementConfig:
    """How a network that reconstructs sees its training images, and what its loss is."""

    masks: list[RandomMask] = field(default_factory=lambda: [RandomMask()])
    """Families of masks; each image gets one of them, equally often."""
    num_coils: tuple[int, int] = (4, 8)
    """Range of the number of coils, one number a batch."""
    maps: str | None = None
    """File .npy of measured coil maps, complex (coil, row, col), turned and flipped at random and compressed to the
    number of coils; None: random windows of random loops round the object."""
    snr_db: tuple[float, float] = (20.0, 40.0)
    """Range of 20 log10(mean magnitude inside the object / noise deviation of each real component)."""
    loss: Literal["ssim", "l1", "l2"] = "ssim"
    """What compares magnitudes: 1 - SSIM, data range the image's maximum (Sriram et al. 2020), or the mean absolute
    (Zbontar et al. 2018) or mean squared difference (Zhang & Ghanem 2018) as a part of that maximum."""
    critic: CriticConfig | None = None
    """Adversarial training: a second network, trained with the first, that is to tell its images from references and
    whose verdict is added to the loss; null: none."""

    def __post_init__(self) -> None:
        if not self.masks:
            raise ValueError("measurement.masks is empty: name at least one family of masks")
        if not 1 <= self.num_coils[0] <= self.num_coils[1]:
            raise ValueError(f"expected num_coils [low, high] of 1 and more, got {list(self.num_coils)}")
        if not self.snr_db[0] <= self.snr_db[1]:
            raise ValueError(f"expected snr_db [low, high], got {list(self.snr_db)}")


def draw_measurements(
    config: MeasurementConfig, images: Tensor, seed: int, indices: Sequence[int], batch: int, stream: Stream
) -> tuple[Tensor, Tensor, Tensor]:
    """Measure images, complex `(batch, row, col)`, of the numbers `indices`, which belong to batch number `batch`.

    Returns k-space complex64 `(batch, coil, row, col)`, zero where not sampled, masks `(batch, row, col)` and coil maps
    like k-space, whose root sum of squares is 1: the magnitude of an image is the reference.
    """
    rows, cols = images.shape[-2:]
    count = int(numpy_rng(stream, seed, batch).integers(config.num_coils[0], config.num_coils[1] + 1))
    kspace, masks, maps = list[Tensor](), list[Tensor](), list[Tensor]()
    for image, index in zip(images, indices, strict=True):
        rng = numpy_rng(stream, seed, batch, index)
        smaps = torch.from_numpy(_maps(config.maps, count, rows, cols, rng))
        mask = config.masks[int(rng.integers(len(config.masks)))].draw(rows, cols, rng)
        sigma = mean_signal(image.abs().numpy()) / 10 ** (rng.uniform(*config.snr_db) / 20)
        noise = rng.standard_normal((2, count, rows, cols), dtype=np.float32) * np.float32(sigma)
        measured = fft2c(smaps * image) + torch.complex(*torch.from_numpy(noise))
        kspace.append(measured * mask)
        masks.append(mask)
        maps.append(smaps)
    return torch.stack(kspace), torch.stack(masks), torch.stack(maps)


def _maps(file: str | None, count: int, rows: int, cols: int, rng: np.random.Generator) -> np.ndarray:
    if file is None:
        return random_coil_maps(count, rows, cols, rng)
    turns, flipped = int(rng.integers(4)), bool(rng.integers(2))
    shape = (cols, rows) if turns % 2 else (rows, cols)
    maps = np.rot90(_measured_maps(file, count, *shape), turns, axes=(1, 2))
    return np.ascontiguousarray(maps[:, ::-1] if flipped else maps)


@functools.lru_cache(maxsize=32)  # by number of coils; interpolation takes a second
def _measured_maps(file: str, count: int, rows: int, cols: int) -> np.ndarray:
    return coil_maps(SimulationConfig(num_coils=count, maps=file), rows, cols)
