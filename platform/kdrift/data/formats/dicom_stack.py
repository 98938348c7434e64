"""Which frames of a DICOM series are a volume: one kind of image, one echo, one time, one frame at each place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kdrift.data.formats.dicom_frames import COLOUR, DIMENSIONS, Frame, kind_asked
from kdrift.data.formats.selection import check_names, ranges, selected_index, taken_note
from kdrift.data.geometry import Geometry, from_slices
from kdrift.data.volume import BadVolume, ReadOptions

_SELECT = ("image_type", "modality", "stack", *DIMENSIONS, "repeat", "patient", "study", "values")
_SAME_DIRECTION = 0.01
_SAME_PLACE_MM = 0.05
_SAME_PIXEL = 0.01
_UNITS = {"echo": "ms", "inversion": "ms", "flip": "degrees"}
_EVEN = 0.05


def choose_frames(path: str, frames: Sequence[Frame], how: ReadOptions) -> tuple[list[Frame], list[str]]:
    """Return the frames of one volume in the order of its slices, and notes on what was taken and left out.

    Raises BadVolume for what is no MR magnitude and is not asked for, images of several sizes or directions of which
    none is chosen, and a choice that there is not.
    """
    check_names(path, how, _SELECT)
    notes: list[str] = []
    kept = _each_once(frames, notes)
    notes += _missing_numbers(kept)
    kept = _of_modality(path, kept, how)
    kept = _of_kind(path, kept, how, notes)
    kept = _of_stack(path, kept, how, notes)
    kept = _by_location(kept, notes)
    placed = [frame for frame in kept if frame.along is not None]
    if placed and len(placed) < len(kept):
        notes.append(f"{len(kept) - len(placed)} images state no position and are left out")
    if not placed:
        if len(kept) > 1:
            notes.append("its images state no position: they are ordered by their numbers")
        return _unplaced(path, kept, how, notes), notes
    places = _places(placed)
    for name in ("image_type", *DIMENSIONS, "repeat"):
        places = _chosen(path, places, name, how, notes)
    notes += _gaps([frame for frame, *_ in places])
    return [frame for frame, *_ in places], notes


def geometry_of(frames: Sequence[Frame]) -> Geometry | None:
    """Return where the frames of a volume lie; None where they state no pixel size."""
    first = frames[0]
    if not first.spacing:
        return None
    voxel = (first.spacing[0], first.spacing[1], first.depth_mm or 1.0)
    if not (first.orientation and all(frame.position for frame in frames)):
        return Geometry(voxel)
    col, row = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    middle = row * voxel[0] * (first.rows // 2) + col * voxel[1] * (first.cols // 2)
    positions = [tuple(np.array(frame.position) + middle) for frame in frames]
    return from_slices(positions, tuple(row), tuple(col), voxel)


def _each_once(frames: Sequence[Frame], notes: list[str]) -> list[Frame]:
    """Return frames without copies; the same UID alone, as some programs write it for all files, makes none."""
    kept: dict[tuple[Any, ...], Frame] = {}
    for frame in frames:
        what = (frame.position, frame.orientation, frame.location, frame.instance, frame.image_type, frame.kind)
        kept[(frame.uid, frame.number, frame.tile, *what, *frame.facts.values())] = frame
    if len(kept) < len(frames):
        notes.append(f"{len(frames) - len(kept)} images are there twice (same UID): each is read once")
    if shared := len(kept) - len({(frame.uid, frame.number, frame.tile) for frame in kept.values()}):
        notes.append(f"{shared} images have the UID of another, but not its place, number or kind: all are read")
    return list(kept.values())


def _missing_numbers(frames: Sequence[Frame]) -> list[str]:
    """Return a note where files lack in the numbers of a series; numbers that are scattered or repeated say nothing."""
    files = {frame.file: frame.instance for frame in frames}
    numbers = {int(number) for number in files.values() if number >= 0 and number == int(number)}
    most = 2 * len(files)
    if len(numbers) < len(files) or len(files) < 2 or max(numbers) - min(numbers) >= most:
        return []
    begin = min(1, *numbers) if max(numbers) <= most else min(numbers)  # a part of a series may begin anywhere
    missing = np.setdiff1d(np.arange(begin, max(numbers) + 1), list(numbers))
    told = f"images number {ranges(missing)} of the series are not among these {len(files)}: files may be missing"
    return [told] if len(missing) else []


def _of_modality(path: str, frames: list[Frame], how: ReadOptions) -> list[Frame]:
    """Return the frames of the modality asked for, of MR by default."""
    there = Counter(frame.modality for frame in frames)
    asked = how.select.get("modality", "MR").upper()
    kept = [frame for frame in frames if frame.modality in (asked, "")]
    if not kept:
        found = ", ".join(there)
        hint = "" if "modality" in how.select else f"; --select modality={next(iter(there))} reads them all the same"
        raise BadVolume(path, f"images are of modality {found}, expected {asked}{hint}")
    return kept


def _of_kind(path: str, frames: list[Frame], how: ReadOptions, notes: list[str]) -> list[Frame]:
    """Return the frames of one kind of image: that asked for, else magnitudes."""
    kinds = Counter(frame.kind for frame in frames)
    word = how.select.get("image_type")
    if set(kinds) == {COLOUR}:
        raise BadVolume(path, "images are in colour, expected 1 sample a pixel (grey): colours are no data")
    if COLOUR in kinds:
        notes.append(f"{kinds[COLOUR]} images in colour are left out")
        frames = [frame for frame in frames if frame.kind != COLOUR]
    if word is not None:
        typed = [frame for frame in frames if word.upper() in frame.image_type]
        kept = typed or [frame for frame in frames if frame.kind == kind_asked(word)]
        if not kept:
            raise BadVolume(path, f"select image_type={word}: there are {_types(frames)}")
        if kept[0].kind != "magnitude":
            notes.append(f"these are {kept[0].kind} images as asked for, no magnitudes")
    else:
        kept = [frame for frame in frames if frame.kind == "magnitude"]
        if not kept:
            kind = frames[0].kind
            raise BadVolume(
                path,
                f"there is no magnitude image, but {_types(frames)}: --select image_type={_word(frames[0])} reads the"
                f" {kind} images all the same",
            )
        if any(not frame.image_type for frame in kept):
            notes.append("its image type is not stated: it is read as magnitude")
        if not any(frame.modality for frame in kept):
            notes.append("its modality is not stated: it is read as MR")
    taken = set(map(id, kept))
    left = [frame for frame in frames if id(frame) not in taken]
    if left:
        notes.append(f"left out: {_types(left)}; --select image_type={_word(left[0])} reads these")
    return kept


def _of_stack(path: str, frames: list[Frame], how: ReadOptions, notes: list[str]) -> list[Frame]:
    """Return the frames of one direction, size and pixel size, of several stacks of an enhanced file of the first."""
    alike: list[list[Frame]] = []
    for frame in frames:
        for stack in alike:
            if _same_grid(frame, stack[0]):
                stack.append(frame)
                break
        else:
            alike.append([frame])
    stacks = [part for stack in alike for part in _by_id(stack)]
    if len(alike) > 1 and "stack" not in how.select:
        pixels = len({stack[0].spacing for stack in stacks}) > 1
        raise BadVolume(
            path,
            f"images are of {len(stacks)} sizes or directions (a localizer?), expected one: "
            + "; ".join(f"stack {n} has {_stack_text(stack, pixels)}" for n, stack in enumerate(stacks[:6]))
            + "; choose one with --select stack=N",
        )
    chosen = selected_index(path, how, "stack", len(stacks))
    if len(alike) == 1 and len(stacks) > 1:
        ids = ", ".join(f"{stack[0].stack or 'none'}: {len(stack)}" for stack in stacks)
        notes.append(taken_note("stack", chosen, len(stacks), f" (StackID {ids} images)"))
    return stacks[chosen]


def _same_grid(frame: Frame, other: Frame) -> bool:
    """Return whether two frames have one size, direction and, where both state it, pixel size."""
    same = (frame.rows, frame.cols, len(frame.orientation)) == (other.rows, other.cols, len(other.orientation))
    if not same or not np.allclose(frame.orientation, other.orientation, atol=_SAME_DIRECTION):
        return False
    return not (frame.spacing and other.spacing) or np.allclose(frame.spacing, other.spacing, rtol=_SAME_PIXEL)


def _by_id(frames: list[Frame]) -> list[list[Frame]]:
    """Return the frames of each StackID; where each frame has one of its own, or all share it, they are one stack."""
    ids = list(dict.fromkeys(frame.stack for frame in frames))
    if len(ids) in (1, len(frames)):
        return [frames]
    return [[frame for frame in frames if frame.stack == which] for which in ids]


def _by_location(frames: list[Frame], notes: list[str]) -> list[Frame]:
    """Return frames of one ImagePositionPatient with several SliceLocations without their position."""
    same = len({frame.position for frame in frames}) == 1 and frames[0].position
    locations = [frame.location[0] for frame in frames if frame.location]
    if not same or len(locations) < len(frames) or max(locations) - min(locations) < _SAME_PLACE_MM:
        return frames
    notes.append("all images state one position, but several SliceLocations: these are taken, their place is unknown")
    return [replace(frame, position=()) for frame in frames]


def _stack_text(stack: list[Frame], pixels: bool) -> str:
    first = stack[0]
    normal = np.cross(first.orientation[:3], first.orientation[3:]) if first.orientation else None
    plane = "" if normal is None else f" {('sagittal', 'coronal', 'axial')[int(np.argmax(np.abs(normal)))]}"
    size = f" ({first.spacing[0]:g} x {first.spacing[1]:g} mm)" if pixels and first.spacing else ""
    return f"{len(stack)}{plane} of {first.rows}x{first.cols}{size}"


def _places(frames: list[Frame]) -> list[list[Frame]]:
    """Return the frames of each place, places in order along the slice normal."""
    places: list[list[Frame]] = []
    for frame in sorted(frames, key=lambda frame: (frame.along or 0.0, frame.instance, frame.file, frame.number)):
        if places and abs((frame.along or 0.0) - (places[-1][0].along or 0.0)) < _SAME_PLACE_MM:
            places[-1].append(frame)
        else:
            places.append([frame])
    return [sorted(place, key=_order) for place in places]


def _order(frame: Frame) -> tuple[float, str, int]:
    return frame.instance, frame.file, frame.number


def _chosen(path: str, places: list[list[Frame]], name: str, how: ReadOptions, notes: list[str]) -> list[list[Frame]]:
    """Return the places with the frames of one value of a dimension; places that lack it are left out and counted."""
    if name == "image_type":  # two magnitudes at one place, such as water and fat: the first type
        mixed = [place for place in places if len({frame.image_type for frame in place}) > 1]
        if not mixed:
            return places
        types = list(dict.fromkeys(frame.image_type for place in places for frame in place))
        kept = [[frame for frame in place if frame.image_type == types[0]] for place in places]
        there = f"{len(types)} ({', '.join(map(_name, types))})"
        notes.append(taken_note(name, _name(types[0]), there, value="WORD"))
        label = _name(types[0])
    else:
        values: list[list[Any]] = [
            list(range(len(place))) if name == "repeat" else sorted({frame.facts[name] for frame in place})
            for place in places
        ]
        most = max(map(len, values))
        index = selected_index(path, how, name, most)
        if most == 1:
            return places
        kept = [_with(place, name, own[index : index + 1]) for place, own in zip(places, values, strict=True)]
        label = f"{name} {index}"
        first = next(place[0] for place in kept if place)
        why = " (nothing in their headers tells them apart)" if name == "repeat" else _value(name, first)
        notes.append(taken_note(name, index, most, why))
    filled = [place for place in kept if place]
    if len(filled) < len(places):
        notes.append(f"{len(places) - len(filled)} of {len(places)} places have no {label} and are left out")
    return filled


def _with(place: list[Frame], name: str, wanted: list[Any]) -> list[Frame]:
    """Return the frames of a place that have one of the values wanted."""
    if name == "repeat":
        return [place[index] for index in wanted]
    return [frame for frame in place if frame.facts[name] in wanted]


def _unplaced(path: str, frames: list[Frame], how: ReadOptions, notes: list[str]) -> list[Frame]:
    """Return frames without positions in the order of their numbers, those of one echo, as far as headers tell."""
    for name in DIMENSIONS:
        counts = Counter(frame.facts[name] for frame in frames)
        even = len(counts) > 1 and len(set(counts.values())) == 1 and len(counts) < len(frames)
        index = selected_index(path, how, name, len(counts) if even else 1)
        if even:
            frames = [frame for frame in frames if frame.facts[name] == sorted(counts)[index]]
            notes.append(taken_note(name, index, len(counts), _value(name, frames[0])))
    return sorted(frames, key=_order)


def _gaps(frames: Sequence[Frame]) -> list[str]:
    """Return notes on slices that are not evenly apart."""
    if len(frames) < 3:
        return []
    apart = np.diff([frame.along or 0.0 for frame in frames])
    step = float(np.median(apart))
    wide = np.flatnonzero(apart > 1.5 * step)
    if len(wide):
        missing = int(np.round(apart[wide] / step - 1).sum())
        where = ", ".join(str(index) for index in wide[:5])
        return [
            f"slices are {step:.3g} mm apart, but {missing} are missing after slice {where}: distances are wrong there"
        ]
    if np.abs(apart - step).max() > _EVEN * step + _SAME_PLACE_MM:
        return [f"slices are unevenly apart, {apart.min():.3g} to {apart.max():.3g} mm: their mean distance is taken"]
    return []


def _value(name: str, frame: Frame) -> str:
    values = frame.facts.get(name, ())
    return (
        f" ({' '.join(f'{value:g}' for value in values)}{' ' + _UNITS[name] if name in _UNITS else ''})"
        if values
        else ""
    )


def _name(image_type: Iterable[str]) -> str:
    return "\\".join(image_type) or "no type"


def _types(frames: Sequence[Frame]) -> str:
    counts = Counter((frame.kind, frame.image_type) for frame in frames)
    return ", ".join(f"{count} {kind} ({_name(types)})" for (kind, types), count in counts.most_common(6))


def _word(frame: Frame) -> str:
    """Return a word that selects the kind of a frame."""
    return {"phase": "P", "real": "R", "imaginary": "I", "magnitude": "M"}.get(frame.kind, f"'{frame.kind}'")
