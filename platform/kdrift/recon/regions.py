"""Regions of images, and the mean over one with the interval that posterior samples give it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from kdrift.mri.fourier import fft2c


@dataclass(frozen=True)
class RegionMean:
    """Mean of an image over a region of one slice, on the scale of the data."""

    slice_index: int
    """Number of the slice in its volume."""
    pixels: int
    mean: float
    """Mean of the image that is given, `ReconstructionResult.mean`."""
    std: float | None = None
    """Standard deviation of the samples' means times the slice's factor, with noise; None where there is no spread."""
    noise_std: float = 0.0
    """What noise that all samples share has of it."""
    lower: float | None = None
    """Lower bound of the interval, not below 0; by Student's t, since few samples tell their deviation roughly."""
    upper: float | None = None
    """Upper bound."""

    def __str__(self) -> str:
        where = f"slice {self.slice_index}: {self.mean:.4g}"
        if self.std is None:
            return f"{where}, no interval: there is no spread of samples ({self.pixels} pixels)"
        bounds = f"interval by Student's t {self.lower:.4g} to {self.upper:.4g}"
        return f"{where} +- {self.std:.2g}, {bounds} ({self.pixels} pixels)"


@dataclass(frozen=True)
class Region:
    """A region of a volume."""

    name: str
    mask: Tensor
    """Boolean `(slice, row, col)`."""
    means: tuple[RegionMean, ...] = ()
    """Means in the slices in which it has pixels, and which did not fail."""

    @property
    def lines(self) -> list[str]:
        """A sentence for each slice."""
        return [f"region {self.name}, {mean}" for mean in self.means] or [f"region {self.name}: its slices failed"]


def region_mean(
    index: int,
    image: Tensor,
    samples: Tensor | None,
    mask: Tensor,
    *,
    factor: float,
    noise: float,
    level: float,
    least: float = 0.0,
) -> RegionMean:
    """Return the mean of an image `(row, col)` over a region, and its interval of `level`.

    `samples` are `(sample, row, col)`, those that are not finite are left out; `factor` and `noise` are those of the
    slice's verdict (`noise` that of the mean over this region, see `noise_of_mean`). `least` is a deviation that
    calibration found for a region of this size or larger: errors of neighbours belong together more than samples show.
    """
    pixels, value = int(mask.sum()), float(image[mask].double().mean())
    means = torch.zeros(0) if samples is None else samples[:, mask].double().mean(1)
    means = means[means.isfinite()]
    if len(means) < 2:
        return RegionMean(index, pixels, value)
    std = max((factor**2 * float(means.var()) + noise**2) ** 0.5, least)
    width = float(stdtrit(len(means) - 1, 0.5 + level / 2)) * std
    return RegionMean(index, pixels, value, std, noise, max(0.0, value - width), value + width)


def noise_of_mean(mask: Tensor, measured: Tensor, noise: float) -> float:
    """Return the standard deviation of the mean over a region, of noise that has `noise` in each pixel.

    The noise is white where k-space was `measured` and none elsewhere, so that of low frequencies, which are measured,
    averages out less than that of pixels that are independent. Both masks are boolean `(row, col)`.
    """
    spectrum = fft2c(mask.to(torch.complex64) / mask.sum()).abs().square()
    return noise * math.sqrt(float(spectrum[measured].sum() / measured.float().mean()))


def as_region(mask: Any, shape: Sequence[int]) -> Tensor:
    """Return a mask of True and False or 1 and 0 `([slice,] row, col)` as boolean `(slice, row, col)` of `shape`.

    Raises ValueError for another shape, other values, and a mask that marks nothing.
    """
    values = mask if isinstance(mask, Tensor) else torch.from_numpy(np.ascontiguousarray(mask))
    if tuple(values.shape) not in (tuple(shape), tuple(shape[1:])):
        raise ValueError(f"the region has shape {tuple(values.shape)}, expected {tuple(shape)} or {tuple(shape[1:])}")
    if values.dtype != torch.bool and not bool(((values == 0) | (values == 1)).all()):
        raise ValueError("the region has other values than 0 and 1: choose one label, such as labels == 3")
    if not bool((values != 0).any()):
        raise ValueError("the region is empty: it marks no pixel")
    return (values.cpu() != 0).expand(*shape)
