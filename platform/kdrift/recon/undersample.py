"""Which of the measured positions a reconstruction gets: all, those of a drawn mask, or those of a mask file."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from kdrift.data.array_file import MOST_OF_A_MASK, read_array_file
from kdrift.data.measured import BoolArray, Sampling, as_mask, centred_box, is_by_columns, mean_count
from kdrift.mri.masks import make_mask
from kdrift.recon.request import MaskRequest


@dataclass(frozen=True)
class Kept:
    """What is kept of the positions that were measured."""

    mask: BoolArray
    """`(slice, row, col)`."""
    text: str
    """One line: where the mask comes from, with nominal and net acceleration."""
    net_acceleration: float
    """Measured positions by kept ones; of data that stay as measured, possible positions by measured ones."""
    is_retrospective: bool
    """Whether measured positions were left out, so that what they say can serve as reference."""


def given_mask(request: MaskRequest | None, num_slices: int, sizes: tuple[tuple[int, int], ...]) -> BoolArray | None:
    """Return the mask of the file that a request names, for the first of the matrix `sizes` that it fits, or None.

    Raises ValueError for a file that holds no mask, or one that fits no size.
    """
    if request is None or request.file is None:
        return None
    values = read_array_file(request.file, "mask", most=MOST_OF_A_MASK)
    for rows, cols in sizes[:-1]:
        try:
            return as_mask(values, num_slices, rows, cols)
        except ValueError:
            continue
    try:
        return as_mask(values, num_slices, *sizes[-1])
    except ValueError as error:
        raise ValueError(f"{request.file}: {error}") from None


def crop_rows(masks: BoolArray, rows: int) -> BoolArray:
    """Return masks `(slice, row, col)` of whole readout lines for fewer rows. Raises ValueError for points."""
    if not is_by_columns(masks):
        raise ValueError("a mask of points belongs to the rows that it was measured with")
    return np.array(np.broadcast_to(masks[:, :1], (len(masks), rows, masks.shape[-1])))


def keep(sampling: Sampling, request: MaskRequest | None, given: BoolArray | None, source: str) -> Kept:
    """Return what is kept of measured positions: all without a request, else those that `given` or a draw marks.

    `source` is the name of the data in errors. Raises ValueError where data that have gaps are to be undersampled by a
    draw, and where nothing is left.
    """
    measured = sampling.measured
    if request is None:
        return _as_measured(sampling)
    if given is None:
        return _drawn(sampling, request, source)
    kept = measured & given
    left_out = bool((measured & ~kept).any())
    if not kept.any():
        raise ValueError(f"the mask {request.file} leaves nothing of what was measured")
    if sampling.has_gaps or not left_out:
        net = sampling.positions / mean_count(kept)
        return Kept(kept, f"as measured, mask of {request.file}, {net:.2f}x net", net, False)
    net = mean_count(measured) / mean_count(kept)
    return Kept(kept, f"mask of {request.file}, {net:.2f}x net", net, True)


def _as_measured(sampling: Sampling) -> Kept:
    net = sampling.net_acceleration
    if sampling.is_complete:
        return Kept(sampling.measured, "fully sampled, nothing left out", net, False)
    return Kept(sampling.measured, f"as measured, {net:.2f}x net ({sampling.origin})", net, False)


def _drawn(sampling: Sampling, request: MaskRequest, source: str) -> Kept:
    measured = sampling.measured
    if sampling.has_gaps:
        raise ValueError(
            f"{source} was measured undersampled and has a mask ({sampling.origin}): leave out --mask, which is for"
            " full data"
        )
    assert request.kind is not None
    box = centred_box(np.asarray(measured.any(axis=0))) if measured.any() else (slice(None), slice(None))
    size = measured[0][box].shape
    drawn = make_mask(request.kind, (size[0], size[1]), **request.draw)
    marked = np.zeros(measured.shape[1:], dtype=bool)
    marked[box] = drawn.mask.numpy()
    kept = measured & marked
    net = mean_count(measured) / mean_count(kept)
    rows, cols = measured.shape[1:]
    within = "" if size == (rows, cols) else f", within the {size[0]} x {size[1]} measured of {rows} x {cols}"
    text = replace(drawn, net_acceleration=net).description
    return Kept(kept, f"{text}{within}", net, True)
