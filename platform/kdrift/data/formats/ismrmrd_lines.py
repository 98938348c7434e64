"""Which ISMRMRD lines make the image, which the coil maps, and where each lies on the encoded grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdrift.data.formats.field_of_view import same_field
from kdrift.data.formats.header import Encoding
from kdrift.data.formats.ismrmrd_table import CALIBRATION, IMAGE, PHASE_CORRECTION, REVERSE_FLAG, Table, has_flag
from kdrift.data.formats.selection import ranges, taken_note
from kdrift.data.volume import BadVolume, BoolArray

DIMENSIONS = ("encoding", "contrast", "phase", "repetition", "set", "average", "channels")
"""What one of several can be taken of; of averages all are, of numbers of channels the most frequent."""
CHOICES = ("group", "calibration", *DIMENSIONS)
"""What `select` may name in an ISMRMRD file."""
_MOST_CUT = 0.25
"""A line that loses a larger part of its samples at the edge of the matrix is misplaced."""


@dataclass(frozen=True)
class Roles:
    """The acquisitions that are used, by their numbers in the table, and how they were chosen."""

    image: npt.NDArray[np.int64]
    """Those of the image, embedded calibration among them."""
    calibration: npt.NDArray[np.int64]
    """Those for the coil maps alone."""
    taken: Mapping[str, int]
    """The value of each dimension; average is missing where all are taken."""
    there: Mapping[str, npt.NDArray[np.int64]]
    """The values of each dimension among image lines."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """The encoded matrix that lines are placed on, and the slices that there are."""

    rows: int
    cols: int
    partitions: int
    slices: npt.NDArray[np.int64]
    """Numbers (`idx.slice`) of the slices with lines of the image, in the order of their places: slab i is the i-th."""


@dataclass(frozen=True)
class Lines:
    """Acquisitions, one entry each, placed on a grid."""

    index: npt.NDArray[np.int64]
    slab: npt.NDArray[np.int64]
    partition: npt.NDArray[np.int64]
    col: npt.NDArray[np.int64]
    first_row: npt.NDArray[np.int64]
    skipped: npt.NDArray[np.int64]
    """Samples to drop at the start of each line, in the order of acquisition."""
    kept: npt.NDArray[np.int64]
    """Samples after those; what remains is dropped too."""
    reverse: BoolArray

    def place(self, line: int) -> tuple[int, slice, int]:
        """Return partition, rows and column of one line."""
        first = int(self.first_row[line])
        return int(self.partition[line]), slice(first, first + int(self.kept[line])), int(self.col[line])


def choose_lines(table: Table, select: Mapping[str, str]) -> Roles:
    """Return the lines of one image and of its coil maps, the first of each dimension unless `select` says otherwise.

    Calibration lines (flag 20 alone) are part of the image where calibrationMode is embedded, and for the maps alone
    where it is separate or external. Where it says neither, they are part of the image if they fill its gaps: a scan
    of its own is contiguous, so it meets lines of the image.

    Raises BadVolume for a value that is not there, and where there is no image line.
    """
    path, heads = table.source.path, table.heads
    chosen = table.is_role(IMAGE)
    there = {name: np.unique(values_of(heads, name)[chosen]) for name in DIMENSIONS}
    taken: dict[str, int] = {}
    for name in sorted(DIMENSIONS, key=lambda name: name not in select):
        values, counts = np.unique(values_of(heads, name)[chosen], return_counts=True)
        if name in select:
            found = [int(value) for value in values if str(value) == select[name]]
            if not found:
                raise BadVolume(path, f"{name} {select[name]} is not there: image lines have {name} {ranges(values)}")
            taken[name] = found[0]
        elif name != "average" and len(values):
            taken[name] = int(values[np.argmax(counts)] if name == "channels" else values[0])
        chosen = are(heads, chosen, {name: taken[name]} if name in taken else {})
    notes = [taken_note(name, taken[name], ranges(there[name])) for name in taken if len(there[name]) > 1]
    calibration = table.is_role(CALIBRATION)
    mode = select.get("calibration") or encoding_of(table, taken["encoding"]).calibration
    if "calibration" in select and mode not in ("embedded", "separate"):
        raise BadVolume(path, f"select has calibration={mode}, expected embedded or separate")
    embedded, alone = _split_calibration(heads, chosen, calibration, taken, mode)
    if embedded.any():
        notes.append(_told(embedded, mode, "are part of the image"))
    elif alone.any():
        alone = _nearest(table, alone, taken)
        notes.append(_told(alone, mode, "are used for the coil maps alone") if alone.any() else _UNFIT)
    return Roles(
        np.flatnonzero(chosen | embedded),
        np.flatnonzero(alone),
        taken,
        there,
        tuple(notes),
    )


def like_image(table: Table, lines: BoolArray, taken: Mapping[str, int]) -> BoolArray:
    """Return those of `lines` that belong to the image: of its encoding and channels, of its value in each dimension
    where they have it, else of their first.
    """
    lines = are(table.heads, lines, {name: taken[name] for name in ("encoding", "channels")})
    for name in ("contrast", "phase", "repetition", "set"):
        values = np.unique(values_of(table.heads, name)[lines])
        if len(values):
            value = taken[name] if taken[name] in values else int(values[0])
            lines = are(table.heads, lines, {name: value})
    return lines


def place_lines(
    table: Table, index: npt.NDArray[np.int64], encoding: Encoding, grid: Grid, role: str = IMAGE
) -> tuple[Lines, list[str]]:
    """Place acquisitions on a grid by `center_sample` and the centre of the encoding limits; notes say what is odd.

    `encoding` is that of the lines. The centre counts in a reversed line after it was turned round, unless it mirrors
    that of the lines which are not reversed.

    Lines of phase correction have no column, since they are read without phase encoding.

    Raises BadVolume for lines of the image outside of the grid; those of another `role` are left out, with a note.
    """
    heads = table.heads[index]
    own = encoding.encoded or (grid.rows, grid.cols, grid.partitions)

    def along(step: str, size: int, own_size: int, centre: int | None) -> npt.NDArray[np.int64]:
        steps = heads["idx"][step].astype(np.int64)
        return np.asarray(steps + size // 2 - (own_size // 2 if centre is None else centre))

    col = along("kspace_encode_step_1", grid.cols, own[1], encoding.centre[0])
    partition = along("kspace_encode_step_2", grid.partitions, own[2], encoding.centre[1])
    if grid.partitions == 1 or role == PHASE_CORRECTION:
        partition[:] = 0
    if role == PHASE_CORRECTION:
        col[:] = 0
    samples, skipped, skipped_at_end = (
        heads[name].astype(np.int64) for name in ("number_of_samples", "discard_pre", "discard_post")
    )
    reverse = has_flag(heads, REVERSE_FLAG)
    centre, notes = _centres(heads, reverse, grid.rows)
    kept = samples - skipped - skipped_at_end
    first_row = grid.rows // 2 - centre + np.where(reverse, skipped_at_end, skipped)
    over_start = np.clip(-first_row, 0, None)
    over_end = np.clip(first_row + kept - grid.rows, 0, None)
    cut = over_start + over_end
    outside = (col < 0) | (col >= grid.cols) | (partition < 0) | (partition >= grid.partitions)
    outside |= (kept < 1) | (cut > _MOST_CUT * kept if role == IMAGE else cut >= kept)
    if role == IMAGE and outside.any():
        bad = int(np.argmax(outside))
        raise BadVolume(
            table.source.path,
            f"acquisition {index[bad]} (row {first_row[bad]} on, {kept[bad]} samples, column {col[bad]}, partition"
            f" {partition[bad]}) lies outside of the encoded matrix {grid.rows} x {grid.cols} x {grid.partitions}: it"
            f" is placed by its center_sample {heads['center_sample'][bad]} and by the centres of the encoding limits,"
            f" {_centre_text(encoding.centre[0])} of kspace_encoding_step_1 and {_centre_text(encoding.centre[1])} of"
            f" kspace_encoding_step_2, which are {own[1] // 2} and {own[2] // 2} where all steps were acquired",
        )
    if outside.any():
        notes.append(
            f"{outside.sum()} of {len(index)} {role} lines lie outside of the encoded matrix, and are not used"
        )
    if role == IMAGE and (cut > 0).any():
        notes.append(f"up to {cut.max()} samples of {(cut > 0).sum()} lines reach over the encoded matrix and are cut")
    skipped = skipped + np.where(reverse, over_end, over_start)
    kept, first_row = kept - cut, first_row + over_start
    number = heads["idx"]["slice"].astype(np.int64)
    order = np.argsort(grid.slices)
    slab = order[np.searchsorted(grid.slices[order], number).clip(max=len(order) - 1)]
    elsewhere = ~np.isin(number, grid.slices)
    if elsewhere.any():
        notes.append(f"{elsewhere.sum()} of {len(index)} {role} lines are of slices without image, and are not used")
    i = ~(outside | elsewhere)
    lines = Lines(index[i], slab[i], partition[i], col[i], first_row[i], skipped[i], kept[i], reverse[i])
    return lines, notes


def encoding_of(table: Table, number: int) -> Encoding:
    """Return the encoding space that acquisitions call by a number; raise BadVolume where the header has none."""
    encodings = table.header.encodings
    if number >= len(encodings):
        raise BadVolume(table.source.path, f"lines refer to encoding {number}, the header has {len(encodings)}")
    return encodings[number]


def _centre_text(centre: int | None) -> str:
    return "not stated" if centre is None else str(centre)


_UNFIT = "calibration lines are not used: their channels or fields of view differ from those of the image"


def _told(lines: BoolArray, mode: str | None, what: str) -> str:
    stated = f"calibrationMode {mode}" if mode in ("embedded", "separate", "external") else "mode guessed"
    return f"{lines.sum()} calibration lines {what} ({stated}; select calibration=embedded or separate says otherwise)"


def values_of(heads: Any, name: str) -> npt.NDArray[np.int64]:
    """Return the values of one of `DIMENSIONS`."""
    own = {"encoding": "encoding_space_ref", "channels": "active_channels"}
    return np.asarray(heads[own[name]] if name in own else heads["idx"][name]).astype(np.int64)


def are(heads: Any, lines: BoolArray, values: Mapping[str, int]) -> BoolArray:
    """Return which of `lines` have these values of `DIMENSIONS`."""
    for name, value in values.items():
        lines = lines & (values_of(heads, name) == value)
    return lines


def _split_calibration(
    heads: Any, image: BoolArray, calibration: BoolArray, taken: Mapping[str, int], mode: str | None
) -> tuple[BoolArray, BoolArray]:
    """Return the calibration lines that are part of the image, and those for the coil maps alone."""
    none = np.zeros(len(heads), dtype=bool)
    same = are(heads, calibration, taken)
    if mode in ("separate", "external"):
        return none, calibration
    if mode != "embedded":
        steps = [heads["idx"][name] for name in ("slice", "kspace_encode_step_1", "kspace_encode_step_2")]
        place = np.stack([step.astype(np.int64) for step in steps]).T @ np.array([1 << 32, 1 << 16, 1])
        if np.isin(place[same], place[image]).any():
            return none, calibration
    return (same, none) if same.any() else (none, calibration)


def _nearest(table: Table, calibration: BoolArray, taken: Mapping[str, int]) -> BoolArray:
    """Return the calibration lines that fit the image best: same channels, its encoding space or one of its field."""
    encodings = table.header.encodings
    lines = are(table.heads, calibration, {"channels": taken["channels"]})
    for encoding in sorted(
        set(values_of(table.heads, "encoding")[lines].tolist()), key=lambda x: x != taken["encoding"]
    ):
        fits = encoding == taken["encoding"] or (
            encoding < len(encodings) and same_field(encodings[taken["encoding"]], encodings[encoding])
        )
        if fits:
            return like_image(table, lines, {**taken, "encoding": encoding})
    return np.zeros(len(table.heads), dtype=bool)


def _centres(heads: Any, reverse: BoolArray, rows: int) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return the sample of zero frequency of each line, counted after turning reversed ones round."""
    notes = []
    samples, centre = (heads[name].astype(np.int64) for name in ("number_of_samples", "center_sample"))
    unset = (samples == rows) & ((centre == 0) | (centre >= samples)) & (rows > 1)
    if unset.any():
        what = "0" if not centre[unset].any() else "0, or past the end,"
        notes.append(f"center_sample is {what} in {unset.sum()} full lines: their middle is taken")
    centre[unset] = rows // 2
    forward_centre = np.full(1 << 16, -1, dtype=np.int64)  # by number of samples, which is 16 bits long
    forward_centre[samples[~reverse]] = centre[~reverse]
    forward = forward_centre[samples]
    mirrored = reverse & ~unset & (forward >= 0) & (centre != forward) & (centre == samples - 1 - forward)
    if mirrored.any():
        notes.append(f"center_sample of {mirrored.sum()} reversed lines is taken to count in the order of acquisition")
    centre[mirrored] = forward[mirrored]
    return centre, notes
