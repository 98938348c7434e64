"""Split conformal calibration: what deviations are multiplied by so that intervals hold their share, from residuals.

The score of a pixel is |error| over its deviation, and the quantile of scores at the nominal level is the factor with
which intervals hold just that share (Angelopoulos et al. 2022, Image-to-image regression with distribution-free
uncertainty quantification, section 2; Angelopoulos and Bates 2023, A gentle introduction to conformal prediction,
section 2.3). Pixels of a scan are not exchangeable with those of another, and few scans are at hand: the quantile is
taken in each slice, the geometric mean over slices and the median over scans, which is steadier than a quantile over
scans would be, and is not moved by one scan that is unlike the others. It holds the level in the middle of scans, not
in every one of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch
from scipy.special import ndtri
from torch import Tensor

LEAST = 0.05
"""Factors below this are taken for it: a deviation is never switched off."""


def pixel_scores(error: Tensor, spread: Tensor, noise: float, level: float) -> Tensor:
    """Return for each pixel the factor c with which |error| is just within its interval, in double precision.

    The interval is z sqrt((c spread)^2 + noise^2), z the half width of a normal distribution at `level`; infinite where
    there is an error beyond noise and no spread.
    """
    beyond = (error.double() / float(ndtri(0.5 + level / 2))).square() - noise**2
    beyond = beyond.clamp(min=0).sqrt()
    return torch.where(beyond > 0, beyond / spread.double(), 0.0)


def region_scores(error: Tensor, std: Tensor, inside: Tensor, size: int, level: float) -> Tensor:
    """Return for each region `size` x `size` the factor with which the mean error is just within its interval.

    Images are `(row, col)`; the deviation of a region is the root mean square of its pixels'. Regions that lie in the
    object by half or more count, without their pixels outside of it.
    """
    rows, cols = (size * (n // size) for n in error.shape)

    def blocks(x: Tensor) -> Tensor:
        cut = x[:rows, :cols].double()
        return cut.reshape(rows // size, size, cols // size, size).swapaxes(1, 2).reshape(-1, size * size)

    kept = blocks(inside)
    count = kept.sum(1)
    mean = (blocks(error) * kept).sum(1) / count.clamp(min=1)
    deviation = ((blocks(std).square() * kept).sum(1) / count.clamp(min=1)).sqrt()
    scores = mean.abs() / (float(ndtri(0.5 + level / 2)) * deviation)
    return scores[(2 * count >= size * size) & (deviation > 0)]


def level_quantile(scores: Tensor, level: float) -> float:
    """Return the ceil((n + 1) level)-th smallest of n scores, the largest where there are too few."""
    place = min(len(scores), math.ceil((len(scores) + 1) * level))
    return max(LEAST, float(scores.sort().values[place - 1]))


def combined(factors: Sequence[Sequence[float]]) -> float:
    """Return the median over scans of the geometric means over their slices; of two in the middle, their own mean."""
    return math.exp(statistics.median(statistics.fmean(map(math.log, each)) for each in factors))


def lower_bound(values: Sequence[float], probability: float) -> tuple[float, float]:
    """Return a bound that the value of another slice is above, and the probability of that.

    It is the k-th smallest of n values, which another one of their kind is below in k of n + 1 cases; with too few
    values the smallest, which says less than what was asked for.
    """
    place = max(1, math.floor((1 - probability) * (len(values) + 1) + 1e-9))
    return sorted(values)[place - 1], 1 - place / (len(values) + 1)
