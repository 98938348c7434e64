"""Variable-density Poisson discs on a grid, of an exact number of points."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]

PACKING = 0.7
"""Darts a squared radius that random packing on the grid keeps; only a first guess, corrected by counting."""


def poisson_disc(acs: BoolArray, num_kept: int, rng: np.random.Generator) -> BoolArray:
    """Mask (row, col) of `num_kept` points: those of `acs`, and a Poisson disc that thins out linearly.

    The distance that points keep grows with their distance to the centre. The growth is adjusted until
    `num_kept` points fit, and the few more that fit are dropped at random.
    """
    order, drop_order = rng.permutation(acs.size), rng.random(acs.size)
    offset = [(np.arange(n) - n // 2) / max(1, n // 2) for n in acs.shape]
    growth = 0.15 + np.hypot(offset[0][:, None], offset[1][None, :])
    best, goal = np.ones(acs.shape, bool), float(num_kept)
    for _ in range(8):
        packed = _disc_packing(growth * _slope_for(growth, goal), order) | acs
        if num_kept <= packed.sum() < best.sum():
            best = packed
        if best.sum() <= 1.01 * num_kept:
            break
        goal *= 1.005 * num_kept / packed.sum()
    surplus = np.flatnonzero(best & ~acs)
    surplus = surplus[np.argsort(drop_order[surplus], kind="stable")][: int(best.sum()) - num_kept]
    best.flat[surplus] = False
    return best


def _slope_for(growth: npt.NDArray[np.float64], goal: float) -> float:
    """Slope at which random packing, at most one dart a point, keeps `goal` darts."""
    low, high = 0.0, 1e4
    for _ in range(50):
        slope = 0.5 * (low + high)
        kept = float(np.minimum(1.0, PACKING / np.maximum(growth * slope, 0.1) ** 2).sum())
        low, high = (slope, high) if kept > goal else (low, slope)
    return high


def _disc_packing(radius: npt.NDArray[np.float64], order: npt.NDArray[np.int64]) -> BoolArray:
    """Dart throwing in `order`: a dart is kept unless it lies within the radius of one kept before."""
    rows, cols = radius.shape
    n = min(int(np.ceil(radius.max())), max(rows, cols))
    grid = np.arange(-n, n + 1)
    distance = np.hypot(grid[:, None], grid[None, :])
    # A margin of the largest radius around the grid spares the clipping of every disc.
    blocked, kept = np.zeros((rows + 2 * n, cols + 2 * n), bool), np.zeros((rows, cols), bool)
    for index in order.tolist():
        y, x = divmod(index, cols)
        if blocked[y + n, x + n]:
            continue
        kept[y, x] = True
        if (r := radius[y, x]) > 1:
            m = min(int(r) + 1, n)
            blocked[y + n - m : y + n + m + 1, x + n - m : x + n + m + 1] |= (
                distance[n - m : n + m + 1, n - m : n + m + 1] < r
            )
    return kept
