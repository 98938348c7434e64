"""NIfTI (.nii, .nii.gz, pairs) and Analyze 7.5 volumes as images in radiological display orientation."""

from __future__ import annotations

import os
import re
import struct
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from kdrift.data.formats.nifti_space import Space, space_of
from kdrift.data.formats.selection import check_names, selected_index, taken_note
from kdrift.data.geometry import Geometry, from_affine_ras
from kdrift.data.images import ImageInfo, image_volume
from kdrift.data.volume import (
    AS_THE_FILE_SAYS,
    Attr,
    BadVolume,
    ReadOptions,
    Volume,
    check_declared,
    naming,
)

_CONTRAST = re.compile(r"(?<![A-Za-z])(FLAIR|T1|T2|PD)(?:w|W)?(?![A-Za-z0-9])", re.IGNORECASE)
_SUBJECT = re.compile(r"^(sub|subj|subject|pat|patient)[-_]?\w+$", re.IGNORECASE)
_NO_MAGNITUDE = re.compile(
    r"(?<![a-z])(part-(phase|real|imag)|phase|ph|phasediff|fieldmap|dseg|probseg|seg|mask|labels?|adc|fa)(?![a-z])",
    re.I,
)
_ORDER = {"S": ("P", "L"), "L": ("I", "P"), "P": ("I", "L")}  # slice axis -> (row, col) directions
_FEW = 3
"""An axis with less than one such part of the samples of the others is that of the slices."""
_SELECT = ("volume", "values")
_INTENTS = {1002: "labels", 1007: "vectors", 1003: "names", 1005: "a symmetric matrix", 1006: "displacements"}
_STATISTICS = range(2, 25)
_PAIR = (".img", ".img.gz", ".hdr", ".hdr.gz")


def is_nifti(head: bytes) -> bool:
    """Whether the first bytes of a file are a NIfTI-1, NIfTI-2 or Analyze 7.5 header."""
    if {head[344:347], head[4:7]} & {b"n+1", b"n+2", b"ni1", b"ni2"}:
        return True
    if len(head) < 348:
        return False
    sizes = [struct.unpack_from(f"{order}i36xh", head) for order in "<>"]  # header bytes, number of dimensions
    return any(size == 348 and 1 <= dimensions <= 7 for size, dimensions in sizes)


def open_nifti(path: str, name: str, how: ReadOptions = AS_THE_FILE_SAYS) -> Volume:
    """Open a NIfTI-1 or NIfTI-2 file, or a pair of NIfTI or Analyze 7.5 by either name, as images `(slice, row, col)`.

    Slices run along an axis of one sample, else one with less than a third of the samples of the others, else the one
    with the largest voxels, else (isotropic voxels) the one nearest to the body axis. Axial slices run from inferior to
    superior with rows anterior to posterior and columns right to left, as radiologists look at them; sagittal and
    coronal slices have rows superior to inferior. Of a 4-D image `select volume=N` reads one volume; complex images
    keep their phase.

    Raises BadVolume when the file is not NIfTI, truncated, not 3-D and no volume is chosen, declares more data than it
    can hold, or holds no magnitudes (`values=any` reads them all the same).
    """
    check_names(path, how, _SELECT)
    image, shape, dtype = _load(path)
    tail: tuple[int, ...] = (0,) * (len(image.shape) - 3)
    notes: list[str] = []
    if len(shape) == 4 or "volume" in how.select:
        count = shape[3] if len(shape) == 4 else 1
        if count > 1 and "volume" not in how.select:
            raise BadVolume(
                path,
                f"image has shape {image.shape}, expected 3 dimensions: it holds {count} volumes (echoes, times,"
                f" directions?), choose one with --select volume=N, N from 0 to {count - 1}",
            )
        chosen = selected_index(path, how, "volume", count)
        tail, shape = ((chosen, *tail[1:]) if tail else ()), shape[:3]
        notes.append(taken_note("volume", chosen, count))
    with naming(path, "not a readable NIfTI file"):
        space = space_of(image)
    axes, flips, guessed = _display_axes(space, shape)
    num_slices, rows, cols = (shape[axis] for axis in axes)

    def load(start: int, stop: int) -> npt.NDArray[Any]:
        index: list[slice] = [slice(None)] * 3
        length = shape[axes[0]]
        index[axes[0]] = slice(length - stop, length - start) if flips[0] else slice(start, stop)
        stored: Any = image.dataobj if image.ndim > 2 else np.asarray(image.dataobj)[..., None]
        data = np.asarray(stored[(*index, *tail)]).transpose(axes)
        return data[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]

    geometry = _geometry(space, shape, axes, flips)
    height, width, depth = geometry.voxel_mm[0] * rows, geometry.voxel_mm[1] * cols, geometry.slice_distance_mm
    attrs: dict[str, Attr] = {"source_format": "nifti", "fov_mm": f"{height:g} x {width:g} x {depth:g}"}
    if (contrast := _CONTRAST.search(name.replace("_", " "))) is not None:
        attrs["acquisition"] = contrast.group(1).upper()
    folders = os.path.abspath(path).split(os.sep)[:-1]
    if subject := [part for part in (*folders, name.split("_")[0]) if _SUBJECT.match(part)]:
        attrs["patient_id"] = subject[-1]
    notes += [*space.notes, *geometry.shear_notes, *guessed, *_doubts(path, name, image, how)]
    made = ImageInfo(
        name, (num_slices, rows, cols), attrs, geometry, tuple(notes), has_phase=dtype.kind == "c", axes_known=True
    )
    return image_volume(path, made, load, any_values=how.any_values)


def _load(path: str) -> tuple[Any, tuple[int, ...], np.dtype[Any]]:
    """Return the image, its shape without trailing axes of length 1, and the type of its numbers."""
    try:
        import nibabel
    except ImportError:
        raise ValueError("reading NIfTI needs nibabel: pip install 'kdrift[nifti]'") from None
    with naming(path, "not a readable NIfTI file"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel repairs odd headers and says so
        data = _data_file(path)
        # An open handle makes reading a .gz slice after slice one pass instead of one pass a slice.
        image: Any = nibabel.load(path, keep_file_open=True)
        shape = tuple(int(n) for n in image.shape)
        shape += (1,) * (3 - len(shape)) if len(shape) == 2 else ()
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) not in (3, 4) or 0 in shape:
            raise BadVolume(path, f"image has shape {image.shape}, expected 3 dimensions (one volume a file)")
        dtype = image.get_data_dtype()
        if dtype.kind not in "iufc":
            raise BadVolume(path, f"data type is {dtype}, expected numbers")
        compressed = data.lower().endswith(".gz")
        check_declared(path, int(np.prod(shape)) * dtype.itemsize, os.path.getsize(data), compressed)
    return image, shape, dtype


def _data_file(path: str) -> str:
    """Return the file with the numbers: `path` itself, or the .img of a pair."""
    suffix = next((suffix for suffix in _PAIR if path.lower().endswith(suffix)), None)
    if suffix is None:
        return path
    stem, gz = path[: -len(suffix)], ".gz" if suffix.endswith(".gz") else ""
    upper = path[len(stem) :].isupper()
    for part in (".hdr", ".img"):
        if not os.path.isfile(pair := stem + (f"{part}{gz}".upper() if upper else f"{part}{gz}")):
            raise BadVolume(path, f"{os.path.basename(pair)} is missing: a pair of NIfTI or Analyze is .hdr and .img")
    return pair


def _doubts(path: str, name: str, image: Any, how: ReadOptions) -> list[str]:
    """Return notes on what header and name say against a magnitude image; raise BadVolume where the header is clear."""
    code = int(image.header["intent_code"]) if "intent_code" in image.header else 0
    holds = _INTENTS.get(code) or ("a statistic" if code in _STATISTICS else None)
    if holds and not how.any_values:
        raise BadVolume(
            path,
            f"its header says that it holds {holds} (intent {code}): no magnitude image; --select values=any reads it",
        )
    notes = [f"its header says that it holds {holds}: no magnitude image"] if holds else []
    if (found := _NO_MAGNITUDE.search(name.replace("_", " "))) is not None:
        notes.append(f"its name says {found.group(1)!r}: is it a magnitude image?")
    return notes


def _display_axes(
    space: Space, shape: tuple[int, ...]
) -> tuple[tuple[int, int, int], tuple[bool, bool, bool], tuple[str, ...]]:
    """Return the array axes of (slice, row, col), whether each is to be reversed, and a note on what was guessed."""
    codes = space.codes
    plain = [{"R": "L", "A": "P", "I": "S"}.get(code, code) for code in codes]
    through, notes = _through_plane(space, shape, plain.index("S"))
    directions = (plain[through], *_ORDER[plain[through]])
    axes = [plain.index("S" if code == "I" else code) for code in directions]
    flips = [codes[axis] != code for axis, code in zip(axes, directions, strict=True)]
    return (axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2]), notes


def _through_plane(space: Space, shape: tuple[int, ...], body: int) -> tuple[int, tuple[str, ...]]:
    """Return the array axis along which slices run; `body` is that nearest to the body axis."""
    spacing = space.voxel_mm
    thick = int(np.argmax(spacing))
    others = max(value for axis, value in enumerate(spacing) if axis != thick)
    thickest = thick if spacing[thick] >= 1.2 * others else body
    few, next_fewest, _ = sorted(range(3), key=lambda axis: (shape[axis], axis != thickest))
    if shape[few] == 1:
        return few, ()
    if _FEW * shape[few] >= shape[next_fewest] or few == thickest:
        return thickest, ()
    sizes = " x ".join(f"{size:g}" for size in spacing)
    return few, (
        f"slices are taken along axis {few}, which has {shape[few]} of {' x '.join(map(str, shape))} samples; by its"
        f" voxels ({sizes} mm) it would be axis {thickest}",
    )


def _geometry(
    space: Space, shape: tuple[int, ...], axes: tuple[int, int, int], flips: tuple[bool, bool, bool]
) -> Geometry:
    """Return the geometry of (slice, row, col) that were taken from the array's `axes`, some reversed."""
    turned = np.zeros((4, 4))  # from (row, col, slice) to the array's own indices
    turned[3, 3] = 1
    for place, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        turned[axis, (2, 0, 1)[place]] = -1 if flip else 1
        turned[axis, 3] = shape[axis] - 1 if flip else 0
    return from_affine_ras(space.affine @ turned, shape[axes[1]], shape[axes[2]], stated=space.stated)
