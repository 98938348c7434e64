"""NumPy arrays: .npy memory-mapped, .npz read by slices inside the archive. Pickles are never loaded."""

from __future__ import annotations

import contextlib
import math
import zipfile
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from kdrift.data.formats.kspace import find_mask, is_undersampled, kspace_volume
from kdrift.data.volume import BadVolume, Volume, VolumeInfo, check_declared, check_dims, naming

_SHAPES = "complex (row, col), (coil, row, col) or (slice, coil, row, col), or real (row, col) or (slice, row, col)"


@dataclass(frozen=True)
class _Member:
    """One array inside an .npz archive, its data still unread."""

    name: str
    stream: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int


def open_numpy(path: str, name: str) -> Volume:
    """Open .npy or .npz: complex arrays are k-space, real ones magnitude images.

    K-space is `(row, col)`, `(coil, row, col)` or `(slice, coil, row, col)`; images `(row, col)` or
    `(slice, row, col)`. An .npz holds `kspace` with optional `mask` and `reference`, or a single array.
    Positions that are exactly zero in all coils (and are more than a few scattered ones) are taken as not
    sampled: `mask`.

    Raises
    ------
    BadVolume
        For other shapes, types or keys, pickled objects, and headers that declare more than the file holds.
    """
    if zipfile.is_zipfile(path):
        return _open_npz(path, name)
    with naming(path, "not a readable .npy file"):
        array = np.lib.format.open_memmap(path, mode="r")  # np.load leaves the file of a damaged archive open
        shape = _check_array(path, "array", array.shape, array.dtype)
        if array.dtype.kind == "c":
            return kspace_volume(path, name, array.reshape(shape), "numpy")
    images = array.reshape(shape)
    info = VolumeInfo(name, "image", *_image_dims(shape), attrs={"source_format": "numpy"})
    return Volume(path, info, load_image=lambda start, stop: images[start:stop])


def _open_npz(path: str, name: str) -> Volume:
    resources = contextlib.ExitStack()
    with resources:
        with naming(path, "not a readable .npz archive"):
            archive = resources.enter_context(zipfile.ZipFile(path))
            members = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            key = "kspace" if "kspace" in members else next(iter(members), "")
            if key != "kspace" and len(members) != 1:
                found = ", ".join(members) or "none"
                raise BadVolume(path, f"found arrays {found}, expected kspace (and mask, reference) or a single one")
            main = _open_member(path, archive, members[key], resources)
            mask, reference = (
                _open_member(path, archive, members[extra], resources) if extra in members else None
                for extra in ("mask", "reference")
            )
        volume = _npz_volume(path, name, main, mask, reference)
        volume.resources.push(resources.pop_all())
    return volume


def _npz_volume(path: str, name: str, main: _Member, mask: _Member | None, reference: _Member | None) -> Volume:
    shape = _check_array(path, main.name, main.shape, main.dtype)
    if main.dtype.kind != "c":
        if main.name == "kspace":
            raise BadVolume(path, f"kspace is {main.dtype}, expected complex")
        info = VolumeInfo(name, "image", *_image_dims(shape), attrs={"source_format": "numpy"})
        return Volume(path, info, load_image=lambda start, stop: _read_member(path, main, shape, start, stop))
    num_slices, coils, rows, cols = shape
    images: tuple[int, ...] = ()
    if reference is not None:
        images = _check_array(path, "reference", reference.shape, reference.dtype)
        if images != (num_slices, rows, cols) or reference.dtype.kind == "c":
            found = f"{reference.dtype} {reference.shape}"
            raise BadVolume(path, f"reference is {found}, expected real ({num_slices}, {rows}, {cols})")
    if mask is not None and (mask.dtype.kind not in "biuf" or mask.shape not in ((cols,), (rows, cols))):
        raise BadVolume(path, f"mask is {mask.dtype} {mask.shape}, expected ({cols},) or ({rows}, {cols})")

    def slice_at(index: int) -> npt.NDArray[Any]:
        return np.asarray(_read_member(path, main, shape, index, index + 1)[0])

    with naming(path, "kspace cannot be read"):
        has_mask = mask is not None or is_undersampled([slice_at(0)])

    def load_mask() -> npt.NDArray[Any] | None:
        if mask is not None:
            return np.asarray(_read_member(path, mask, (1, *mask.shape), 0, 1)[0])
        return find_mask(path, num_slices, slice_at) if has_mask else None

    def load_image(start: int, stop: int) -> npt.NDArray[Any]:
        assert reference is not None
        return _read_member(path, reference, images, start, stop)

    info = VolumeInfo(
        name, "kspace", num_slices, coils, rows, cols, rows, cols,
        has_mask=has_mask, has_reference=reference is not None, attrs={"source_format": "numpy"},
    )  # fmt: skip
    return Volume(
        path,
        info,
        load_kspace=lambda start, stop: _read_member(path, main, shape, start, stop),
        load_image=load_image if reference is not None else None,
        load_mask=load_mask,
    )


def _check_array(path: str, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Return the full shape, (slice, coil, row, col) or (slice, row, col)."""
    complex_, ndim = dtype.kind == "c", len(shape)
    if dtype.kind not in "ciuf" or not 2 <= ndim <= (4 if complex_ else 3):
        raise BadVolume(path, f"{key} is {dtype} {shape}, expected {_SHAPES}")
    full = (*(1,) * ((4 if complex_ else 3) - ndim), *shape)
    names = ("slices", "coils", "rows", "columns") if complex_ else ("slices", "rows", "columns")
    check_dims(path, **dict(zip(names, full, strict=True)))
    return full


def _image_dims(shape: tuple[int, ...]) -> tuple[int, int, int, int, int, int]:
    num_slices, rows, cols = shape
    return num_slices, 1, rows, cols, rows, cols


def _open_member(
    path: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, resources: contextlib.ExitStack
) -> _Member:
    stream = resources.enter_context(archive.open(entry))
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise BadVolume(path, f"{entry.filename} holds pickled objects: never loaded")
    check_declared(path, math.prod(shape) * dtype.itemsize, entry.file_size)
    check_declared(path, entry.file_size, entry.compress_size, compressed=True)
    return _Member(entry.filename.removesuffix(".npy"), stream, shape, dtype, fortran, stream.tell())


def _read_member(path: str, member: _Member, shape: tuple[int, ...], start: int, stop: int) -> npt.NDArray[Any]:
    """Read items `start:stop` of the first axis of `shape`; only Fortran order needs the whole array."""
    if member.fortran:
        whole = _read_bytes(path, member, 0, math.prod(shape))
        return whole.reshape(member.shape, order="F").reshape(shape)[start:stop]
    per_item = math.prod(shape[1:])
    return _read_bytes(path, member, start * per_item, stop * per_item).reshape(stop - start, *shape[1:])


def _read_bytes(path: str, member: _Member, start: int, stop: int) -> npt.NDArray[Any]:
    with naming(path, f"{member.name} is damaged"):
        member.stream.seek(member.offset + start * member.dtype.itemsize)
        wanted = (stop - start) * member.dtype.itemsize
        data = member.stream.read(wanted)
        if len(data) != wanted:
            raise BadVolume(path, f"{member.name} is truncated")
    return np.frombuffer(data, dtype=member.dtype)
