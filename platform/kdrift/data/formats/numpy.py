"""NumPy arrays: .npy memory-mapped, .npz read by slices inside the archive. Pickles are never loaded."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import zipfile
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from kdrift.data.formats.kspace import kspace_volume
from kdrift.data.volume import (
    AS_THE_FILE_SAYS,
    SMALL_BYTES,
    BadVolume,
    ImageInfo,
    ReadOptions,
    Volume,
    check_declared,
    check_dims,
    image_volume,
    naming,
)

_SHAPES = "complex (row, col), (coil, row, col) or (slice, coil, row, col), or real (row, col) or (slice, row, col)"


@dataclass(frozen=True)
class _Member:
    """One array inside an .npz archive, its data still unread: slicing it reads."""

    path: str
    name: str
    stream: IO[bytes]
    stored_shape: tuple[int, ...]
    shape: tuple[int, ...]
    """Its shape, with the axes of length 1 that it was stored without."""
    dtype: np.dtype[Any]
    fortran: bool
    offset: int

    @functools.cached_property
    def _held(self) -> npt.NDArray[Any]:
        """All of it, which every slice of an array in Fortran order is spread over."""
        return self.whole()

    def whole(self) -> npt.NDArray[Any]:
        """Read all of it, in the shape that was stored."""
        values = self._read(0, math.prod(self.stored_shape))
        return values.reshape(self.stored_shape, order="F" if self.fortran else "C")

    def __getitem__(self, items: slice) -> npt.NDArray[Any]:
        """Read `start:stop` of the first axis; only Fortran order needs the whole array."""
        if self.fortran:
            return self._held.reshape(self.shape)[items]
        per_item = math.prod(self.shape[1:])
        values = self._read(items.start * per_item, items.stop * per_item)
        return values.reshape(items.stop - items.start, *self.shape[1:])

    def _read(self, start: int, stop: int) -> npt.NDArray[Any]:
        with naming(self.path, f"{self.name} is damaged"):
            self.stream.seek(self.offset + start * self.dtype.itemsize)
            wanted = (stop - start) * self.dtype.itemsize
            data = self.stream.read(wanted)
            if len(data) != wanted:
                raise BadVolume(self.path, f"{self.name} is truncated")
        return np.frombuffer(data, dtype=self.dtype)


def open_numpy(path: str, name: str, how: ReadOptions = AS_THE_FILE_SAYS) -> Volume:
    """Open .npy or .npz: complex arrays are k-space, real ones magnitude images.

    K-space is `(row, col)`, `(coil, row, col)` or `(slice, coil, row, col)`; images `(row, col)` or
    `(slice, row, col)`. An .npz holds `kspace` with optional `mask` and `reference`, or a single array. Positions that
    are exactly zero in all coils (and are more than a few scattered ones) are taken as not sampled: `mask`.

    Raises BadVolume for other shapes, types or keys, pickled objects, and headers that declare more than the file
    holds.
    """
    if zipfile.is_zipfile(path):
        return _open_npz(path, name, how)
    with naming(path, "not a readable .npy file"):
        array = np.lib.format.open_memmap(path, mode="r")  # np.load leaves the file of a damaged archive open
        slices = array.reshape(_full_shape(path, "array", array.shape, array.dtype))
        if array.dtype.kind == "c":
            return kspace_volume(path, name, slices, "numpy")
        return _images(path, name, slices, how)


def _open_npz(path: str, name: str, how: ReadOptions) -> Volume:
    with contextlib.ExitStack() as resources:
        with naming(path, "not a readable .npz archive"):
            archive = resources.enter_context(zipfile.ZipFile(path))
            members = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            key = "kspace" if "kspace" in members else next(iter(members), "")
            if key != "kspace" and len(members) != 1:
                found = ", ".join(members) or "none"
                raise BadVolume(path, f"found arrays {found}, expected kspace (and mask, reference) or a single one")
            main, mask, reference = (
                _open_member(path, archive, members[wanted], resources) if wanted in members else None
                for wanted in (key, "mask", "reference")
            )
            assert main is not None
        volume = _npz_volume(path, name, main, (mask, reference), how)
        volume.resources.push(resources.pop_all())
    return volume


def _npz_volume(
    path: str, name: str, main: _Member, beside: tuple[_Member | None, _Member | None], how: ReadOptions
) -> Volume:
    mask, reference = beside
    main = replace(main, shape=_full_shape(path, main.name, main.shape, main.dtype))
    if main.dtype.kind != "c":
        if main.name == "kspace":
            raise BadVolume(path, f"kspace is {main.dtype}, expected complex")
        return _images(path, name, main, how)
    num_slices, _, rows, cols = main.shape
    if reference is not None:
        reference = replace(reference, shape=_full_shape(path, "reference", reference.shape, reference.dtype))
        if reference.shape != (num_slices, rows, cols) or reference.dtype.kind == "c":
            found = f"{reference.dtype} {reference.stored_shape}"
            raise BadVolume(path, f"reference is {found}, expected real ({num_slices}, {rows}, {cols})")
    if mask is not None and (mask.dtype.kind not in "biuf" or mask.shape not in ((cols,), (rows, cols))):
        raise BadVolume(path, f"mask is {mask.dtype} {mask.shape}, expected ({cols},) or ({rows}, {cols})")
    with naming(path, "kspace cannot be read"):
        return kspace_volume(
            path,
            name,
            main,
            "numpy",
            probes=(0,),
            load_mask=mask.whole if mask is not None else None,
            load_image=(lambda start, stop: reference[start:stop]) if reference is not None else None,
        )


def _images(path: str, name: str, images: Any, how: ReadOptions) -> Volume:
    image = ImageInfo(name, images.shape, {"source_format": "numpy"})
    return image_volume(path, image, lambda start, stop: images[start:stop], any_values=how.any_values)


def _full_shape(path: str, key: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Return the full shape, (slice, coil, row, col) or (slice, row, col)."""
    names = ("slices", "coils", "rows", "columns") if dtype.kind == "c" else ("slices", "rows", "columns")
    if dtype.kind not in "ciuf" or not 2 <= len(shape) <= len(names):
        raise BadVolume(path, f"{key} is {dtype} {shape}, expected {_SHAPES}")
    full = (*(1,) * (len(names) - len(shape)), *shape)
    check_dims(path, **dict(zip(names, full, strict=True)))
    return full


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
    check_declared(path, entry.file_size, min(entry.compress_size, os.path.getsize(path)), compressed=True)
    if fortran and entry.file_size > SMALL_BYTES:
        expected = f"{entry.file_size >> 20} MiB, expected at most {SMALL_BYTES >> 20}"
        raise BadVolume(
            path, f"{entry.filename} is in Fortran order, so read as a whole, and has {expected}: save it in C"
        )
    return _Member(path, entry.filename.removesuffix(".npy"), stream, shape, shape, dtype, fortran, stream.tell())
