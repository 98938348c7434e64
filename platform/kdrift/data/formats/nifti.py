"""NIfTI volumes (.nii, .nii.gz), of magnitudes or complex, as images in radiological display orientation."""

from __future__ import annotations

import os
import re
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from kdrift.data.volume import (
    AS_THE_FILE_SAYS,
    Attr,
    BadVolume,
    ReadOptions,
    Volume,
    check_declared,
    image_volume,
    naming,
)

_CONTRAST = re.compile(r"(?<![A-Za-z])(FLAIR|T1|T2|PD)(?:w|W)?(?![A-Za-z0-9])", re.IGNORECASE)
_SUBJECT = re.compile(r"^(sub|subj|subject|pat|patient)[-_]?\w+$", re.IGNORECASE)
_ORDER = {"S": ("P", "L"), "L": ("I", "P"), "P": ("I", "L")}  # slice axis -> (row, col) directions


def open_nifti(path: str, name: str, how: ReadOptions = AS_THE_FILE_SAYS) -> Volume:
    """Open a NIfTI-1 or NIfTI-2 file as images `(slice, row, col)`.

    Slices run along the through-plane axis: the one with the largest voxel size, else (isotropic voxels) the one
    nearest to the body axis. Axial slices run from inferior to superior with rows anterior to posterior and columns
    right to left, as radiologists look at them; sagittal and coronal slices have rows superior to inferior.

    Raises BadVolume when the file is not NIfTI, truncated, not 3-D, or declares more data than it can hold.
    """
    try:
        import nibabel
        from nibabel.orientations import aff2axcodes
    except ImportError:
        raise ValueError("reading NIfTI needs nibabel: pip install 'kdrift[nifti]'") from None
    with naming(path, "not a readable NIfTI file"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel repairs odd headers and says so
        # An open handle makes reading a .gz slice after slice one pass instead of one pass a slice.
        image: Any = nibabel.load(path, keep_file_open=True)
        shape = tuple(int(n) for n in image.shape)
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) != 3:
            raise BadVolume(path, f"image has shape {image.shape}, expected 3 dimensions (one volume a file)")
        dtype = image.get_data_dtype()
        if dtype.kind not in "iufc":
            raise BadVolume(path, f"data type is {dtype}, expected numbers")
        compressed = path.lower().endswith(".gz")
        check_declared(path, int(np.prod(shape)) * dtype.itemsize, os.path.getsize(path), compressed)
        spacing = [abs(float(z)) for z in image.header.get_zooms()[:3]]
        codes = aff2axcodes(image.affine)
    if None in codes or not np.all(np.isfinite(spacing)):
        raise BadVolume(path, "affine is singular or not finite, expected voxel axes in scanner space")
    axes, flips = _display_axes(codes, spacing)
    num_slices, rows, cols = (shape[axis] for axis in axes)
    tail = (0,) * (len(image.shape) - 3)

    def load(start: int, stop: int) -> npt.NDArray[Any]:
        index: list[slice] = [slice(None)] * 3
        length = shape[axes[0]]
        index[axes[0]] = slice(length - stop, length - start) if flips[0] else slice(start, stop)
        data = np.asarray(image.dataobj[(*index, *tail)]).transpose(axes)
        return data[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]

    depth, height, width = spacing[axes[0]], spacing[axes[1]] * rows, spacing[axes[2]] * cols
    attrs: dict[str, Attr] = {"source_format": "nifti", "fov_mm": f"{height:g} x {width:g} x {depth:g}"}
    if (contrast := _CONTRAST.search(name.replace("_", " "))) is not None:
        attrs["acquisition"] = contrast.group(1).upper()
    folders = os.path.abspath(path).split(os.sep)[:-1]
    if subject := [part for part in (*folders, name.split("_")[0]) if _SUBJECT.match(part)]:
        attrs["patient_id"] = subject[-1]
    return image_volume(path, name, (num_slices, rows, cols), load, attrs, has_phase=dtype.kind == "c")


def _display_axes(codes: tuple[str, ...], spacing: list[float]) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Return the array axes of (slice, row, col) and whether each is to be reversed."""
    plain = [{"R": "L", "A": "P", "I": "S"}.get(code, code) for code in codes]
    through = int(np.argmax(spacing))
    others = max(value for axis, value in enumerate(spacing) if axis != through)
    if spacing[through] < 1.2 * others:
        through = plain.index("S")
    directions = (plain[through], *_ORDER[plain[through]])
    axes = [plain.index("S" if code == "I" else code) for code in directions]
    flips = [codes[axis] != code for axis, code in zip(axes, directions, strict=True)]
    return (axes[0], axes[1], axes[2]), (flips[0], flips[1], flips[2])
