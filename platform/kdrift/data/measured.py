"""Which positions of k-space were measured: one rule for every format, store, array and request.

Measured is what a mask states, where there is one, inside of the padding that a header states, and not exactly zero in
all coils. A few scattered zeros are measured values, as integer data have them, unless a whole row or column is zero.
What rounding leaves of zeros, many decades below all else, counts as zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.ndimage

BoolArray = npt.NDArray[np.bool_]
Box = tuple[slice, slice]

MEASURED_ZEROS = 0.02
"""Integer data hold a few measured exact zeros: fewer than this are no gaps."""
RESIDUE, STEP, EVEN = 1e-6, 1e3, 100.0
"""What rounding to single precision leaves of zeros, as a transform forth and back does, is below `RESIDUE` of the
peak, a `STEP` below all that was measured, as noise and smooth decay are not, and itself within a factor `EVEN`."""


@dataclass(frozen=True)
class Sampling:
    """What was measured of some slices."""

    measured: BoolArray
    """`(slice, row, col)`."""
    positions: int
    """Positions of a slice that could be measured: the matrix without its padding."""
    origin: str
    """Where the mask comes from, in words."""
    notes: tuple[str, ...] = ()

    @property
    def has_gaps(self) -> bool:
        """Whether a row or column of some slice has more than one run of measured positions: it is undersampled."""
        return any(has_gaps(each) for each in self.measured)

    @property
    def is_one_sided(self) -> bool:
        """Whether much more was measured on one side of the middle of k-space than on the other: partial Fourier."""
        filled = self.measured[_any(self.measured, 1, 2)]
        return any(_is_one_sided(_any(filled, 0, axis)) for axis in (1, 2)) if len(filled) else False

    @property
    def is_complete(self) -> bool:
        """Whether every position was measured, in the slices that hold anything."""
        return bool(common_mask(self.measured).all())

    @property
    def net_acceleration(self) -> float:
        """Positions that could be measured, divided by those that were."""
        return self.positions / mean_count(self.measured)


@dataclass(frozen=True)
class Marks:
    """Where slices of k-space hold something: with what their file states, all that says what was measured of them."""

    nonzero: BoolArray
    """`(slice, row, col)`: more than a residue, in some coil."""
    residue: BoolArray
    """`(slice, row, col)`: no more than rounding leaves of zeros."""

    @classmethod
    def of(cls, levels: npt.NDArray[Any]) -> Marks:
        """Look at the largest magnitudes of all coils `(slice, row, col)` (`magnitudes`), or whether there are any."""
        residue = np.stack([_residue(each) for each in levels])
        return cls((levels != 0) & ~residue, residue)


def find_sampling(
    levels: npt.NDArray[Any], stated: BoolArray | None = None, attrs: Mapping[str, Any] | None = None
) -> Sampling:
    """Return what was measured of slices by `levels`, as `Marks.of` takes them; see `sampling_of`."""
    return sampling_of(Marks.of(levels), stated, attrs)


def sampling_of(marks: Marks, stated: BoolArray | None = None, attrs: Mapping[str, Any] | None = None) -> Sampling:
    """Return what was measured of slices.

    Parameters
    ----------
    marks
        Where they hold something.
    stated
        The mask of the file, `(col,)`, `(row, col)` or one a slice `(slice, row, col)`.
    attrs
        Attributes of the file: `padding_left` and `padding_right` are its first and last column but one of k-space.
    """
    left, nonzero = marks.residue, marks.nonzero
    rows, cols = nonzero.shape[-2:]
    inside, notes = _inside_padding(attrs or {}, cols)
    if left.any():
        notes.append(
            f"{_counted(left, nonzero)} hold next to nothing (below {RESIDUE:g} of the peak of k-space, as rounding"
            " leaves of zeros): they were not measured, and are left out"
        )
    padded = int((nonzero & ~inside).any((0, 1)).sum())
    if padded:
        notes.append(f"k-space has values in {padded} columns that its header calls padding: they are left out")
    allowed = np.broadcast_to(inside, (rows, cols))
    marked = allowed if stated is None else allowed & stated
    expected = np.broadcast_to(marked, nonzero.shape)
    measured = np.stack([_measured(e, n) for e, n in zip(expected, nonzero, strict=True)])
    filled = _any(measured, 1, 2)  # an empty slice says nothing of masks
    if stated is None:
        gaps = any(has_gaps(each) for each in measured)
        positions = int(allowed.sum()) if gaps or not filled.any() else box_size(centred_box(_any(measured, 0)))
        origin = "exact zeros in all coils" if gaps else "what was measured in one block"
        if gaps:
            notes.append("the data state no mask: what is exactly zero in all coils counts as not measured")
        return Sampling(measured, positions, origin, tuple(notes))
    empty = int((expected & ~measured)[filled].any(0).sum())
    if empty:
        notes.append(f"the mask marks {empty} positions where k-space is zero in all coils: they were not measured")
    outside = int((nonzero & allowed & ~expected).any(0).sum())
    if outside:
        notes.append(f"k-space has values at {outside} positions that the mask does not mark: they are left out")
    return Sampling(measured, int(allowed.sum()), "the mask of the file", tuple(notes))


def magnitudes(kspace: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the largest magnitude of all coils of `(slice, coil, row, col)`, `(slice, row, col)`."""
    with np.errstate(invalid="ignore", over="ignore"):  # NaN counts as sampled, and is refused when it is read
        return np.stack([np.abs(each).max(axis=-3) for each in kspace])


def as_mask(values: npt.NDArray[Any], num_slices: int, rows: int, cols: int) -> BoolArray:
    """Return a mask as `(col,)`, `(row, col)` or `(slice, row, col)`.

    It may come as `(col,)`, `(row, 1)`, `(row, col)`, or one a slice with slices first; further axes of length 1 are
    left out, as fastMRI's `(1, 1, col, 1)`. Raises ValueError for another shape, other values than 0 and 1 (or one
    other whole number), and one that marks nothing.
    """
    shape = mask_shape(values.shape, num_slices, rows, cols)
    if values.dtype.kind == "c" and not np.any(values.imag):
        values = values.real
    if values.dtype.kind not in "biuf":
        raise ValueError(f"mask is {values.dtype}, expected 0 and 1")
    if not np.isfinite(values).all():
        raise ValueError("mask is not finite, expected 0 and 1")
    kept = values != 0
    if not kept.any():
        raise ValueError("mask samples nothing")
    least, most = values[kept].min(), values[kept].max()
    if least != most or (values.dtype.kind == "f" and most != 1):
        raise ValueError(f"mask holds other values than 0 and 1 ({least:g} to {most:g}): expected what was measured")
    mask = np.asarray(kept.reshape(shape))
    if len(shape) == 3 and (mask == mask[0]).all():
        mask = mask[0]
    if mask.ndim == 2 and mask.shape[0] == 1:
        return np.asarray(mask[0])
    return mask if mask.ndim == 1 else np.array(np.broadcast_to(mask, (*mask.shape[:-2], rows, cols)))


def mask_shape(shape: tuple[int, ...], num_slices: int, rows: int, cols: int) -> tuple[int, ...]:
    """Return the shape among `(col,)`, `(row, 1)`, `(row, col)` and these a slice that a mask of `shape` has.

    Raises ValueError for one that fits none.
    """
    exact = [(cols,), (rows, 1), (rows, cols)]
    sliced = [(num_slices, 1, cols), (num_slices, rows, 1), (num_slices, rows, cols)] if num_slices > 1 else []
    if shape in exact or shape in sliced:
        return shape
    core = tuple(size for size in shape if size != 1)
    for known in (*exact, *sliced):
        if core == tuple(size for size in known if size != 1):
            return known
    more = f"; or one a slice, {num_slices} of them first" if num_slices > 1 else ""
    raise ValueError(f"mask has shape {shape}, expected ({cols},), ({rows}, 1) or ({rows}, {cols}){more}")


def common_mask(masks: BoolArray) -> BoolArray:
    """Return `(row, col)` where all slices of `(slice, row, col)` that hold anything agree, else all of them."""
    filled = masks[_any(masks, 1, 2)]
    return filled[0] if len(filled) and (filled == filled[0]).all() else masks if len(filled) else masks[0]


def compact_mask(masks: BoolArray) -> BoolArray:
    """Return `common_mask`, as `(col,)` where all rows agree."""
    mask = common_mask(masks)
    return mask[0] if mask.ndim == 2 and (mask == mask[0]).all() else mask


def mean_count(masks: BoolArray) -> float:
    """Return how many positions are marked in a slice of `(slice, row, col)`, the mean over those that hold any."""
    counts = masks.sum((1, 2))
    return float(counts[counts > 0].mean()) if counts.any() else 1.0


def is_by_columns(masks: BoolArray) -> bool:
    """Whether all rows of each mask `(slice, row, col)` are alike: whole readout lines."""
    return bool((masks == masks[:, :1]).all())


def has_gaps(measured: BoolArray) -> bool:
    """Whether `(row, col)` is no one block: some row or column has more than one run of measured positions, say."""
    for each in (measured, measured.T):
        begins = each[:, 1:] & ~each[:, :-1]
        if (begins.sum(1) + each[:, 0] > 1).any():
            return True
    return int(scipy.ndimage.label(measured)[1]) > 1


def centred_box(measured: BoolArray) -> Box:
    """Return the smallest box about the middle of k-space (n // 2) that holds all of `measured` `(row, col)`.

    Where `measured` reaches one end, as with partial Fourier, the box reaches both.
    """
    return _centred(_any(measured, 1)), _centred(_any(measured, 0))


def box_size(box: Box) -> int:
    """Return the positions in a box."""
    return int((box[0].stop - box[0].start) * (box[1].stop - box[1].start))


def _any(masks: BoolArray, *axes: int) -> BoolArray:
    return np.asarray(masks.any(axis=axes))


def _centred(line: BoolArray) -> slice:
    where, middle = np.flatnonzero(line), len(line) // 2
    if line[0] or line[-1]:
        return slice(0, len(line))
    size = max(2 * (middle - int(where[0])), 2 * (int(where[-1]) + 1 - middle) - 1, 1)
    return slice(middle - size // 2, middle - size // 2 + size)


def _is_one_sided(line: BoolArray) -> bool:
    where, middle = np.flatnonzero(line), len(line) // 2
    before, after = middle - int(where[0]), int(where[-1]) - middle
    return abs(before - after) > max(2, len(line) // 32)


def _measured(expected: BoolArray, nonzero: BoolArray) -> BoolArray:
    """Return what was measured of one slice `(row, col)`."""
    found = expected & nonzero
    lines = expected & _any(found, 1)[:, None] & _any(found, 0)
    missing = int(lines.sum()) - int(found.sum())
    return lines if missing < MEASURED_ZEROS * lines.sum() else found


def _counted(left: BoolArray, kept: BoolArray) -> str:
    """Return how many columns or rows of `(slice, row, col)` are left, where these are whole, else positions."""
    for axis, unit in ((1, "columns"), (2, "rows")):
        lines = _any(left, 0, axis)
        if not (lines & _any(kept, 0, axis)).any():
            return f"{int(lines.sum())} {unit}"
    return f"{int(left.any(0).sum())} positions"


def _residue(levels: npt.NDArray[Any]) -> BoolArray:
    """Return where one slice `(row, col)` holds no more than rounding leaves of zeros: in lines, else in points."""
    found = np.zeros(levels.shape, dtype=bool)
    limit = RESIDUE * float(levels.max())
    if not ((levels > 0) & (levels < limit)).any():
        return found
    for axis in (0, 1):
        found |= np.expand_dims(_below_step(levels.max(axis), limit), axis)
    found &= levels > 0
    rest = np.where(found, 0, levels)
    few = int(MEASURED_ZEROS * np.count_nonzero(rest))
    points = _below_step(rest, limit, few // 20) & (rest > 0)
    return found | points if points.sum() > few else found


def _below_step(values: npt.NDArray[Any], limit: float, between: int = 0) -> BoolArray:
    """Return which values lie below the highest step of `STEP` that begins below `limit`, where these are alike; at
    most so many may lie `between`."""
    known = np.sort(values[values > 0])
    low = known[: max(0, len(known) - 1 - between)]
    steps = np.flatnonzero((low < limit) & (known[1 + between :][: len(low)] > STEP * low))
    if not len(steps):
        return np.zeros(values.shape, dtype=bool)
    highest = known[steps[-1]]
    if highest > EVEN * np.median(known[: steps[-1] + 1]):
        return np.zeros(values.shape, dtype=bool)
    return np.asarray(values <= highest)


def _inside_padding(attrs: Mapping[str, Any], cols: int) -> tuple[BoolArray, list[str]]:
    """Return the columns `(col,)` that padding leaves, and what is wrong with what is said of it."""
    left, right = attrs.get("padding_left"), attrs.get("padding_right")
    inside = np.ones(cols, dtype=bool)
    if left is None and right is None:
        return inside, []
    try:
        first, stop = max(0, int(left or 0)), min(cols, int(cols if right is None else right))
    except (TypeError, ValueError):
        first, stop = 0, 0
    if first >= stop:
        said = f"padding_left {left} and padding_right {right} leave none of {cols} columns: they are not used"
        return inside, [] if (left, right) == (0, 0) else [said]
    inside[:first] = inside[stop:] = False
    return inside, []
