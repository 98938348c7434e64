"""What an ISMRMRD header states and no acquisition brings: slices, lines, repetitions of a scan that was cut short.

Nothing is put in place of what is missing: lines are no part of the mask, slices are left out, and notes say which.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kdrift.data.formats.header import Encoding
from kdrift.data.formats.ismrmrd_doubts import ordered_slices
from kdrift.data.formats.ismrmrd_lines import Grid, Lines, Roles, are, values_of
from kdrift.data.formats.ismrmrd_table import IMAGE, Table
from kdrift.data.formats.selection import ranges
from kdrift.data.volume import BadVolume

_COUNTED = ("contrast", "phase", "repetition", "set", "average")
_PLACE = ("slice", "kspace_encode_step_1", "kspace_encode_step_2")
_STEPS = (("kspace_encode_step_1", "phase encoding"), ("kspace_encode_step_2", "second phase encoding"))
Numbers = npt.NDArray[np.int64]


def present_slices(table: Table, image: Numbers, encoding: Encoding) -> tuple[Numbers, list[str]]:
    """Return the numbers of the slices that have lines of the image, in the order of their places (`ordered_slices`),
    and notes on that and on those that are missing.

    A slice is missing where the encoding limits or image lines of another repetition, echo, ... state it. Raises
    BadVolume where nothing states the slices in between: then the numbers themselves are doubtful.
    """
    there = np.unique(table.heads["idx"]["slice"][image]).astype(np.int64)
    same = table.is_role(IMAGE) & (table.heads["encoding_space_ref"] == table.heads["encoding_space_ref"][image[0]])
    stated = np.union1d(_stated(encoding, "slice"), table.heads["idx"]["slice"][same].astype(np.int64))
    begin = int(stated[0]) if "slice" in encoding.limits else 0
    if len(gap := np.setdiff1d(np.arange(begin, there[-1] + 1), stated)):
        reason = f"slice {gap[0]} of {there[-1] + 1} has no acquisitions, and the header does not state it"
        raise BadVolume(table.source.path, reason)
    ordered, notes = ordered_slices(table, image, there)
    if len(missing := np.setdiff1d(stated, there)) == 0:
        return ordered, notes
    note = f"{_slices(missing)} of {len(stated)} ({ranges(stated)}) {_have(missing)} no acquisitions and"
    note += f" {'is' if len(missing) == 1 else 'are'} left out: the scan was cut short, or lost data"
    if there[-1] >= len(there) and not notes:
        note += f"; slices 0-{len(there) - 1} here are {ranges(there)} of the scan"
    return ordered, [note, *notes]


def missing_values(table: Table, roles: Roles, encoding: Encoding) -> list[str]:
    """Return notes on repetitions, averages, contrasts, ... that the header states and nothing was acquired of, and on
    those with fewer lines than others.
    """
    notes, heads, image = [], table.heads, table.is_role(IMAGE)
    places = np.stack([heads["idx"][name].astype(np.int64) for name in _PLACE], axis=1)
    for name in _COUNTED:
        there, stated = roles.there[name], _stated(encoding, name)
        if len(missing := np.setdiff1d(stated, there)):
            notes.append(
                f"{name} {ranges(missing)} of the {ranges(stated)} that the header states {_have(missing)} no lines"
            )
        others = are(heads, image, {other: value for other, value in roles.taken.items() if other != name})
        own = values_of(heads, name)
        counts = np.array([len(np.unique(places[others & (own == value)], axis=0)) for value in there])
        if len(few := there[(counts > 0) & (counts < counts.max(initial=0))]):
            least = counts[counts > 0].min()
            notes.append(
                f"{name} {ranges(few)} {_have(few)} fewer lines (at least {least}) than others ({counts.max()})"
            )
    return notes


def missing_lines(table: Table, roles: Roles, encoding: Encoding, grid: Grid, lines: Lines) -> list[str]:
    """Return notes on slices with fewer lines than others, and on lines and partitions within the encoding limits that
    were not acquired, but for those that the stated acceleration leaves out.
    """
    notes = []
    placed = np.unique(np.stack([lines.slab, lines.partition, lines.col]), axis=1)
    counts = np.bincount(placed[0], minlength=len(grid.slices))
    if len(few := np.sort(grid.slices[counts < counts.max()])):
        notes.append(
            f"{_slices(few)} {_have(few)} fewer lines (at least {counts.min()}) than others ({counts.max()}): acquired"
            " in part, unless they are meant to differ"
        )
    for (counter, words), factor in zip(_STEPS, encoding.acceleration, strict=True):
        stated = _stated(encoding, counter.replace("encode", "encoding"))
        acquired = np.unique(table.heads["idx"][counter][roles.image]).astype(np.int64)
        if len(acquired) == 1 and len(stated) <= max(len(_stated(encoding, "slice")), len(grid.slices)):
            continue  # the number of slices, which some headers count here
        missing = np.setdiff1d(stated, acquired)
        runs = np.split(missing, np.flatnonzero(np.diff(missing) != 1) + 1)
        unexpected = [run for run in runs if len(run) >= max(factor, 1)]
        if len(missing) == 0 or not unexpected:
            continue
        lost = np.concatenate(unexpected)
        how = f", {factor} times accelerated," if factor > 1 else ""
        notes.append(
            f"{len(lost)} of the {len(stated)} steps of {words} that the header states ({ranges(stated)}){how} were not"
            f" acquired: {ranges(lost)}; undersampling or partial Fourier that it does not tell, or a scan cut short"
        )
    return notes


def _stated(encoding: Encoding, counter: str) -> Numbers:
    """Return the values of a counter within its limits, none where the header has no limits."""
    first, last = encoding.limits.get(counter, (0, -1))
    return np.arange(first, last + 1)


def _slices(numbers: Numbers) -> str:
    return f"slice{'s' if len(numbers) > 1 else ''} {ranges(numbers)}"


def _have(numbers: Numbers) -> str:
    return "have" if len(numbers) > 1 else "has"
