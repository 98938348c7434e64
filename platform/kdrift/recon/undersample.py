"""Which of the measured positions a reconstruction gets: all, those of a drawn mask, or those of a mask file."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

import numpy as np

from kdrift.data.array_file import MOST_OF_A_MASK, read_array_file
from kdrift.data.formats.arrange import arrange_mask
from kdrift.data.measured import BoolArray, Sampling, centred_box, is_by_columns, mean_count
from kdrift.data.volume import AXES, VolumeInfo
from kdrift.mri.masks import make_mask
from kdrift.recon.request import AcquisitionRequest, MaskRequest


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
    notes: tuple[str, ...] = ()
    """Sentences on what of the mask is doubtful."""


def given_mask(request: AcquisitionRequest, info: VolumeInfo) -> BoolArray | None:
    """Return the mask of the file that a request names, None where it names none.

    Its axes have the order that the request states of the k-space, its zero frequency lies in the middle; it may have
    the rows before or after readout oversampling is removed. Raises ValueError for a file that holds no mask, or one
    that does not fit.
    """
    if request.mask is None or request.mask.file is None:
        return None
    values, how = read_array_file(request.mask.file, "mask", most=MOST_OF_A_MASK), request.how

    def read(rows: int) -> BoolArray:
        shape = (info.num_slices, info.num_coils, rows, info.cols)
        return arrange_mask(values, how.axes or AXES, shape)

    if info.recon_rows < info.rows:
        with contextlib.suppress(ValueError):
            return read(info.rows)
    try:
        return read(info.recon_rows)
    except ValueError as error:
        raise ValueError(f"{request.mask.file}: {error}") from None


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
    notes = _mask_notes(measured, np.broadcast_to(given, measured.shape), request.file)
    if sampling.has_gaps or not left_out:
        net = sampling.positions / mean_count(kept)
        return Kept(kept, f"as measured, mask of {request.file}, {net:.2f}x net", net, False, notes)
    net = mean_count(measured) / mean_count(kept)
    return Kept(kept, f"mask of {request.file}, {net:.2f}x net", net, True, notes)


def _mask_notes(measured: BoolArray, given: BoolArray, file: str | None) -> tuple[str, ...]:
    """Return what of a given mask does not fit what was measured `(slice, row, col)`."""
    filled, notes = measured.any((1, 2)), []
    never = (given & ~measured)[filled]
    if never.any():
        unit, counted, marked = "positions", never, given[filled]
        if is_by_columns(never) and is_by_columns(marked):
            unit, counted, marked = "columns", never[:, 0], marked[:, 0]
        most = int(counted.reshape(len(never), -1).sum(1).argmax())
        notes.append(
            f"the mask {file} marks {int(marked[most].sum())} {unit}, of which {int(counted[most].sum())} were never"
            " measured: they are left out; likely causes are another scan's mask, or one along the other axis"
        )
    return tuple(notes)


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
