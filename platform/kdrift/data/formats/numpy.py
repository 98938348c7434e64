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

from kdrift.data.formats.arrange import IMAGE_AXES, Arranged, arrange, arrange_image
from kdrift.data.formats.beside import check_beside
from kdrift.data.formats.kspace import kspace_volume
from kdrift.data.formats.selection import check_names
from kdrift.data.images import ImageInfo, image_volume
from kdrift.data.measured import mask_shape
from kdrift.data.volume import (
    AS_THE_FILE_SAYS,
    AXES,
    SMALL_BYTES,
    BadVolume,
    ReadOptions,
    Volume,
    check_declared,
    naming,
)

_SHAPES = "complex (row, col), (coil, row, col) or (slice, coil, row, col), or real (row, col) or (slice, row, col)"


@dataclass(frozen=True)
class _Member:
    """One array inside an .npz archive, its data still unread: slicing it reads."""

    path: str
    name: str
    stream: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int

    @functools.cached_property
    def _held(self) -> npt.NDArray[Any]:
        """All of it, which every slice of an array in Fortran order is spread over."""
        return self.whole()

    def whole(self) -> npt.NDArray[Any]:
        """Read all of it."""
        values = self._read(0, math.prod(self.shape))
        return values.reshape(self.shape, order="F" if self.fortran else "C")

    def __getitem__(self, index: tuple[slice, ...]) -> npt.NDArray[Any]:
        """Read `start:stop` of one axis; only of the first one, in C order, is nothing else read."""
        first = index[0]
        if self.fortran or first.start is None:
            return self._held[index]
        per_item = math.prod(self.shape[1:])
        values = self._read(first.start * per_item, first.stop * per_item)
        return values.reshape(first.stop - first.start, *self.shape[1:])

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
    `(slice, row, col)`; `how.axes` states another order, `how.centred` that zero frequency is at the corner. An .npz
    holds `kspace` with optional `mask` and `reference`, or a single array.

    Raises BadVolume for other shapes, types or keys, pickled objects, and headers that declare more than the file
    holds.
    """
    check_names(path, how, ("values",))
    if zipfile.is_zipfile(path):
        return _open_npz(path, name, how)
    with naming(path, "not a readable .npy file"):
        array = map_npy(path)
        found = _arranged(path, "array", array, how)
        if array.dtype.kind == "c":
            return kspace_volume(path, name, found, "numpy")
        return _images(path, name, found, how)


def map_npy(path: str) -> npt.NDArray[Any]:
    """Return the array of a .npy file, mapped. Raises BadVolume where bytes follow it that its header does not say."""
    array = np.lib.format.open_memmap(path, mode="r")  # np.load leaves the file of a damaged archive open
    _check_end(path, os.path.basename(path), os.path.getsize(path) - array.offset, array.nbytes)
    return array


def _check_end(path: str, name: str, stored: int, declared: int) -> None:
    if stored > declared:
        raise BadVolume(
            path,
            f"{name} declares {declared} bytes of data, and {stored - declared} bytes follow them: expected one array"
            " (several belong in an .npz), or its header is wrong",
        )


def _open_npz(path: str, name: str, how: ReadOptions) -> Volume:
    with contextlib.ExitStack() as resources:
        with naming(path, "not a readable .npz archive"):
            archive = resources.enter_context(zipfile.ZipFile(path))
            members = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            key = "kspace" if "kspace" in members else next(iter(members), "")
            if key != "kspace" and len(members) != 1:
                found = ", ".join(members) or "none"
                raise BadVolume(path, f"found arrays {found}, expected kspace (and mask, reference) or a single one")
            notes = check_beside(path, members, (key, "mask", "reference"))
            main, mask, reference = (
                _open_member(path, archive, members[wanted], resources) if wanted in members else None
                for wanted in (key, "mask", "reference")
            )
            assert main is not None
        volume = _npz_volume(path, name, _arranged(path, main.name, main, how), (mask, reference), how)
        volume.info = replace(volume.info, notes=(*volume.info.notes, *notes))
        volume.resources.push(resources.pop_all())
    return volume


def _npz_volume(
    path: str, name: str, main: Arranged, beside: tuple[_Member | None, _Member | None], how: ReadOptions
) -> Volume:
    mask, reference = beside
    if main.source.dtype.kind != "c":
        if main.source.name == "kspace":
            raise BadVolume(path, f"kspace is {main.source.dtype}, expected complex")
        return _images(path, name, main, how)
    num_slices, _, rows, cols = main.shape
    with naming(path, "kspace cannot be read"):
        images = None
        if reference is not None:
            images = arrange_image(reference, main)
            if reference.dtype.kind not in "iuf":
                raise BadVolume(path, f"reference is {reference.dtype}, expected real ({num_slices}, {rows}, {cols})")
        if mask is not None and math.prod(mask.shape) > num_slices * rows * cols:
            mask_shape(mask.shape, num_slices, rows, cols)  # raises, before it is read
        return kspace_volume(
            path,
            name,
            main,
            "numpy",
            load_mask=mask.whole if mask is not None else None,
            load_image=None if images is None else lambda start, stop: images[start:stop],
        )


def _images(path: str, name: str, images: Arranged, how: ReadOptions) -> Volume:
    image = ImageInfo(name, images.shape, {"source_format": "numpy"}, axes_known=how.axes is not None)
    return image_volume(path, image, lambda start, stop: images[start:stop], any_values=how.any_values)


def _arranged(path: str, key: str, source: Any, how: ReadOptions) -> Arranged:
    """Return an array with its axes in our order."""
    default = AXES if source.dtype.kind == "c" else IMAGE_AXES
    fits = how.axes is not None or 2 <= len(source.shape) <= len(default)
    if source.dtype.kind not in "ciuf" or not fits:
        raise BadVolume(
            path, f"{key} is {source.dtype} {source.shape}, expected {_SHAPES}; --axes states another order"
        )
    return arrange(path, key, source, default, how)


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
    _check_end(path, entry.filename, entry.file_size - stream.tell(), math.prod(shape) * dtype.itemsize)
    check_declared(path, entry.file_size, min(entry.compress_size, os.path.getsize(path)), compressed=True)
    if fortran and entry.file_size > SMALL_BYTES:
        expected = f"{entry.file_size >> 20} MiB, expected at most {SMALL_BYTES >> 20}"
        raise BadVolume(
            path, f"{entry.filename} is in Fortran order, so read as a whole, and has {expected}: save it in C"
        )
    return _Member(path, entry.filename.removesuffix(".npy"), stream, shape, dtype, fortran, stream.tell())
