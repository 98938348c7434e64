"""The standard deviation that is given of an image: the samples' own, on the scale that held-out samples show."""

from __future__ import annotations

import torch
from scipy.ndimage import gaussian_filter
from scipy.special import ndtri
from torch import Tensor

WIDTH = 1.0
"""Variances are averaged over a Gaussian of this standard deviation in pixels: those of eight samples are noisy, which
costs intervals 3 to 5 % of their coverage."""


def calibrated_std(spread: Tensor, other: Tensor | None = None, *, factor: float = 1.0, noise: float = 0.0) -> Tensor:
    """Return sqrt(factor^2 v + noise^2), v the variance of samples as it is to be believed, `(row, col)`.

    Parameters
    ----------
    spread
        Standard deviation of posterior samples, which has the scale.
    other
        That of chains which draw with less spread, but show better where: v then is half of each, both with the power
        of `spread`.
    factor
        Error divided by spread, where it could be measured.
    noise
        Standard deviation of noise that all samples share, of each pixel.
    """
    variance = _averaged(spread)
    if other is not None and float(other.square().sum()) > 0:
        second = _averaged(other)
        variance = 0.5 * (variance + second * (variance.sum() / second.sum()))
    return (factor**2 * variance + noise**2).sqrt()


def interval(mean: Tensor, std: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Return the bounds of the central interval of `level` of a normal distribution; magnitudes are not below 0.

    Raises ValueError for a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval must lie between 0 and 1, got {level:g}")
    width = float(ndtri(0.5 + level / 2)) * std
    return (mean - width).clamp(min=0), mean + width


def _averaged(std: Tensor) -> Tensor:
    return torch.from_numpy(gaussian_filter(std.square().numpy(), WIDTH))
