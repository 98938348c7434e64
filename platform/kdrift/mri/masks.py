"""Sampling masks, drawn by seed, with their net acceleration and their ACS region.

Columns are phase-encoding lines. One-dimensional kinds keep whole columns, two-dimensional kinds keep points.
Every draw comes from NumPy's PCG64 of the stream `mask`, so that a seed gives one mask on every platform.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kdrift.mri.poisson_disc import poisson_disc
from kdrift.runs.seeds import numpy_rng

BoolArray = npt.NDArray[np.bool_]
Box = tuple[slice, slice]
Shape = tuple[int, int]
Rng = np.random.Generator

# Score-MRI's densities: 15/128 of the width is a standard deviation, 1.5/128 of the squared width a variance.
GAUSSIAN_1D_STD = 15.0 / 128.0
GAUSSIAN_2D_STD = math.sqrt(1.5 / 128.0)


@dataclass(frozen=True)
class SamplingMask:
    """A sampling mask with what has to be reported about it."""

    mask: torch.Tensor
    """Bool (row, col); for one-dimensional kinds all rows are equal."""
    kind: str
    """Key of `KINDS`."""
    acceleration: float
    """The factor that was asked for."""
    net_acceleration: float
    """Positions divided by sampled positions, counted on the mask."""
    acs: Box
    """Fully sampled centre that was asked for, as (row slice, col slice); empty slices where there is none."""
    seed: int
    """Seed of the draw."""
    released: bool = False
    """True for the variant that the published code draws."""

    @property
    def description(self) -> str:
        """One line for logs, with the nominal and the net factor."""
        rows, cols = (s.stop - s.start for s in self.acs)
        name = f"{self.kind}{' (released)' if self.released else ''}"
        return (
            f"{name} {self.acceleration:g}x nominal, {self.net_acceleration:.2f}x net, "
            f"ACS {rows} x {cols} of {self.mask.shape[0]} x {self.mask.shape[1]}, seed {self.seed}"
        )


@dataclass(frozen=True)
class MaskKind:
    """One row of `KINDS`."""

    dims: int
    """1 where whole columns are kept, 2 where points are."""
    definition: str
    """What the default draw does."""
    draw: Callable[[Shape, float, Box, Rng], BoolArray]
    """draw(shape, R, acs box, rng) -> bool (col,) for dims 1, (row, col) for dims 2; the ACS is added after."""
    released: Callable[[Shape, float, Box, Rng], BoolArray] | None = None
    """What the published code draws, where that differs."""


def make_mask(
    kind: str,
    shape: Shape,
    *,
    acceleration: float,
    acs_fraction: float | None = None,
    acs_lines: int | None = None,
    seed: int = 0,
    released: bool = False,
) -> SamplingMask:
    """Draw the sampling mask `kind` of `shape` (row, col) whose net factor, ACS included, is `acceleration`.

    The net factor is exact to rounding for gaussian1d, gaussian2d, poisson and center, to the few lines that
    rounding leaves for equispaced, and in expectation for random (fastMRI's definitions of both). `released`
    draws what published code draws instead, whose net factor drifts: every R-th line plus ACS (equispaced;
    fastMRI's plain variant and HFS-SDE's "10x uniform"), or Score-MRI's draws with replacement (random: N/R
    minus ACS lines; gaussian1d: 1.2 N/R lines, std 15/128 of the width; gaussian2d: N^2/R points, variance
    1.5/128 of the squared width, no ACS unless asked for).

    `acs_fraction` or `acs_lines` is the size of the fully sampled centre, as a fraction of each undersampled axis or in
    lines. Without both: 8 % for R <= 6, else 4 % (Jalal et al. 2021). For two-dimensional kinds the box has that size
    in both axes. For `center` the box is the mask: where one of them is given it replaces R.

    Raises ValueError for an unknown kind, R < 1, an ACS wider than k-space, or an ACS that alone exceeds the samples R
    allows.
    """
    if kind not in KINDS:
        raise ValueError(f"mask kind is one of {', '.join(KINDS)}, not {kind!r}")
    rows, cols = int(shape[0]), int(shape[1])
    if rows < 1 or cols < 1:
        raise ValueError(f"mask shape must be at least 1 x 1 (row, col), got {rows} x {cols}")
    if not (math.isfinite(acceleration) and acceleration >= 1):
        raise ValueError(f"acceleration must be at least 1, got {acceleration:g}")
    if acs_fraction is not None and acs_lines is not None:
        raise ValueError("give the ACS as acs_fraction or as acs_lines, not both")
    row = KINDS[kind]
    draw = row.released if released else row.draw
    if draw is None:
        raise ValueError(f"mask {kind!r} has no released variant: leave `released` off")

    given = acs_fraction is not None or acs_lines is not None
    if not given and kind == "center":
        rows_kept, cols_kept = (max(1, round(n / math.sqrt(acceleration))) for n in (rows, cols))
        size = (rows_kept, cols_kept)
    elif not given and released and kind == "gaussian2d":
        size = (0, 0)
    else:
        fraction = acs_fraction if given else (0.08 if acceleration <= 6 else 0.04)
        cols_kept = _acs_size(cols, fraction, acs_lines)
        size = (rows if row.dims == 1 else _acs_size(rows, fraction, acs_lines), cols_kept)
    box = (_centred(rows, size[0]), _centred(cols, size[1]))

    rng = numpy_rng("mask", seed)
    mask = np.array(np.broadcast_to(draw((rows, cols), float(acceleration), box, rng), (rows, cols)))
    mask[box] = True
    kept = int(mask.sum())
    if kept == 0:
        raise ValueError(f"a {kind} mask of {acceleration:g}x keeps nothing of {rows} x {cols}: lower it")
    net = rows * cols / kept
    return SamplingMask(torch.from_numpy(mask), kind, float(acceleration), net, box, seed, released)


def expand_mask(mask: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Bool (row, col) mask of `shape` from a (col,) or (row, col) mask of any type."""
    if tuple(mask.shape) not in {(shape[1],), (1, shape[1]), tuple(shape)}:
        raise ValueError(f"mask has shape {tuple(mask.shape)}, expected ({shape[1]},) or {tuple(shape)}")
    return (mask != 0).expand(shape).clone()


def detect_mask(kspace: torch.Tensor) -> torch.Tensor:
    """Bool (row, col) mask of what was measured: nonzero in some coil of kspace (*batch, coil, row, col)."""
    if kspace.ndim < 2:
        raise ValueError(f"kspace needs axes (*batch, coil, row, col), got shape {tuple(kspace.shape)}")
    return (kspace != 0).reshape(-1, *kspace.shape[-2:]).any(0)


def acs_region(mask: torch.Tensor, centre: tuple[int, int] | None = None) -> Box:
    """Largest fully sampled box of `mask` (row, col) with its middle within half a sample of `centre`.

    `centre` is a position (row, col); None: the middle of k-space. Returns (row slice, col slice), both empty where
    the centre itself was not sampled.
    """
    if mask.ndim != 2:
        raise ValueError(f"mask needs axes (row, col), got shape {tuple(mask.shape)}; see expand_mask")
    kept = (mask != 0).cpu().numpy()
    rows, cols = kept.shape
    missing = np.concatenate([np.zeros((1, cols), int), np.cumsum(~kept, 0)])
    row, col = centre if centre is not None else (rows // 2, cols // 2)
    best, area = (slice(row, row), slice(col, col)), 0
    for height in range(1, rows + 1):
        # An odd height has one centred position; an even one may lean either way.
        for start in (row - height // 2, row - (height - 1) // 2):
            if start < 0 or start + height > rows:
                continue
            window = _run_around(missing[start + height] == missing[start], col)
            if height * (window.stop - window.start) > area:
                best, area = (slice(start, start + height), window), height * (window.stop - window.start)
    return best


def _run_around(kept: BoolArray, centre: int) -> slice:
    """Longest run of True around `centre`, its two sides differing by at most one."""
    if not kept[centre]:
        return slice(centre, centre)
    below, above = kept[:centre][::-1], kept[centre + 1 :]
    left = len(below) if below.all() else int(np.argmin(below))
    right = len(above) if above.all() else int(np.argmin(above))
    side = min(left, right)
    return slice(centre - side - (left > right), centre + side + 1 + (right > left))


def _acs_size(length: int, fraction: float | None, lines: int | None) -> int:
    if lines is not None:
        if not 0 <= lines <= length:
            raise ValueError(f"acs_lines must lie between 0 and the {length} lines of k-space, got {lines}")
        return lines
    if fraction is None or not 0 <= fraction <= 1:
        raise ValueError(f"acs_fraction must lie between 0 and 1, got {fraction}")
    return round(length * fraction)


def _centred(length: int, size: int) -> slice:
    start = (length - size + 1) // 2
    return slice(start, start + size)


def _marked(shape: int | Shape, where: Any) -> BoolArray:
    mask = np.zeros(shape, bool)
    mask[where] = True
    return mask


def _width(box: Box) -> int:
    width: int = box[1].stop - box[1].start
    return width


def _lines_left(cols: int, acceleration: float, box: Box) -> float:
    """Lines that R leaves beside the ACS."""
    left = cols / acceleration - _width(box)
    if left < -0.5:
        raise ValueError(
            f"an ACS of {_width(box)} lines is more than {acceleration:g}x leaves of {cols} columns "
            f"({cols / acceleration:.1f}): take a smaller ACS or acceleration"
        )
    return max(left, 0.0)


def _equispaced(shape: Shape, acceleration: float, box: Box, rng: Rng) -> BoolArray:
    cols, acs = shape[1], _width(box)
    left = _lines_left(cols, acceleration, box)
    # A spacing of (N - n) / (N/R - n) puts N/R - n lines outside an ACS of n (fastMRI).
    return _comb(cols, (cols - acs) / left, rng) if left > 0 and acs < cols else np.zeros(cols, bool)


def _equispaced_released(shape: Shape, acceleration: float, box: Box, rng: Rng) -> BoolArray:
    return _comb(shape[1], acceleration, rng)


def _comb(cols: int, spacing: float, rng: Rng) -> BoolArray:
    offset = int(rng.integers(max(1, round(spacing))))
    return _marked(cols, np.around(np.arange(offset, cols - 0.5, spacing)).astype(int))


def _random(shape: Shape, acceleration: float, box: Box, rng: Rng) -> BoolArray:
    cols, acs = shape[1], _width(box)
    return rng.random(cols) < _lines_left(cols, acceleration, box) / max(1, cols - acs)


def _random_released(shape: Shape, acceleration: float, box: Box, rng: Rng) -> BoolArray:
    return _marked(shape[1], rng.integers(shape[1], size=int(_lines_left(shape[1], acceleration, box))))


def _gaussian_log_density(length: int, std: float) -> npt.NDArray[np.float64]:
    return -0.5 * ((np.arange(length) - length // 2) / (std * length)) ** 2


def _gaussian1d(shape: Shape, acceleration: float, box: Box, rng: Rng) -> BoolArray:
    _lines_left(shape[1], acceleration, box)
    density = _gaussian_log_density(shape[1], GAUSSIAN_1D_STD)
    return _weighted_draw(density, _marked(shape[1], box[1]), acceleration, rng)


def _gaussian2d(shape: Shape, acceleration: float, box: Box, rng: Rng) -> BoolArray:
    acs = _acs_mask(shape, acceleration, box)
    density = [_gaussian_log_density(n, GAUSSIAN_2D_STD) for n in shape]
    return _weighted_draw(density[0][:, None] + density[1][None, :], acs, acceleration, rng)


def _weighted_draw(log_density: npt.NDArray[np.float64], acs: BoolArray, acceleration: float, rng: Rng) -> BoolArray:
    """The ACS and draws without replacement up to N/R samples (Gumbel top-k: keys log p + Gumbel noise)."""
    keys = log_density - np.log(-np.log(rng.random(log_density.shape)))
    keys[acs] = np.inf
    num_kept = max(round(acs.size / acceleration), int(acs.sum()))
    return _marked(acs.size, np.argsort(-keys, axis=None, kind="stable")[:num_kept]).reshape(acs.shape)


def _gaussian1d_released(shape: Shape, acceleration: float, box: Box, rng: Rng) -> BoolArray:
    cols = shape[1]
    draws = rng.normal(cols // 2, GAUSSIAN_1D_STD * cols, int(1.2 * (cols // acceleration)))
    return _marked(cols, np.clip(draws.astype(int), 0, cols - 1))


def _gaussian2d_released(shape: Shape, acceleration: float, box: Box, rng: Rng) -> BoolArray:
    num_draws = int(shape[0] * shape[1] // acceleration)
    draws = [rng.normal(n // 2, GAUSSIAN_2D_STD * n, num_draws) for n in shape]
    return _marked(shape, tuple(np.clip(d.astype(int), 0, n - 1) for d, n in zip(draws, shape, strict=True)))


def _acs_mask(shape: Shape, acceleration: float, box: Box) -> BoolArray:
    acs = _marked(shape, box)
    if acs.sum() > round(acs.size / acceleration) + 1:
        raise ValueError(
            f"an ACS of {acs.sum()} points is more than {acceleration:g}x leaves of {shape[0]} x {shape[1]} "
            f"({acs.size / acceleration:.0f}): take a smaller ACS or acceleration"
        )
    return acs


def _poisson(shape: Shape, acceleration: float, box: Box, rng: Rng) -> BoolArray:
    acs = _acs_mask(shape, acceleration, box)
    return poisson_disc(acs, max(round(acs.size / acceleration), int(acs.sum())), rng)


KINDS: dict[str, MaskKind] = {
    "equispaced": MaskKind(1, "lines at one spacing from a seeded offset", _equispaced, _equispaced_released),
    "random": MaskKind(1, "each line by a coin", _random, _random_released),
    "gaussian1d": MaskKind(1, "lines drawn from a Gaussian density", _gaussian1d, _gaussian1d_released),
    "gaussian2d": MaskKind(2, "points drawn from a Gaussian density", _gaussian2d, _gaussian2d_released),
    "poisson": MaskKind(2, "variable-density Poisson disc", _poisson),
    "center": MaskKind(2, "the k-space centre only", lambda shape, *_: np.zeros(shape, bool)),
}
