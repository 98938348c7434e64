"""Writing one volume into a store: slice by slice, checked, checksummed, and visible only when whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from kdrift import __version__
from kdrift.data.half_precision import EXPONENT, Precision, to_half
from kdrift.data.measured import Sampling, compact_mask
from kdrift.data.store import SAFE_NAME, Store
from kdrift.data.store_check import CHECKSUMS, checksums
from kdrift.data.volume import Volume
from kdrift.runs.files import put_folder

BLOCK_BYTES = 64 * 2**20
"""Slices are read and written in blocks of about this size, which bounds a writer's memory."""
SHARD_SLICE_BYTES = 4 * 2**20
SHARD_VOLUME_BYTES = 512 * 2**20
TEMPORARY = ".tmp-"
DIMENSIONS = {
    "kspace": ("slice", "coil", "row", "col"),
    "calibration": ("slice", "coil", "row", "col"),
    "smaps": ("slice", "coil", "row", "col"),
    "image": ("slice", "row", "col"),
    "complex_image": ("slice", "row", "col"),
    "target": ("slice", "row", "col"),
}
WHOLE = ("mask", "noise_cov")
"""Arrays of a volume, not of its slices."""

Derive = Callable[[np.ndarray], np.ndarray]
"""Compute an array of a block of slices from its k-space (slice, coil, row, col), zero where not measured."""


def write_volume(
    store: Store,
    name: str,
    volume: Volume,
    *,
    source: Mapping[str, Any] | None = None,
    derive: Mapping[str, Derive] | None = None,
    precision: Precision = "float32",
) -> int:
    """Write a whole volume under `name`, replacing one of that name, and return the bytes of its arrays.

    K-space of (slice, coil, row, col) and the reference, or an image series (slice, row, col), with its phase where it
    has one, are copied in blocks of slices; `derive` adds arrays that are computed from the k-space of each slice.
    Locally the volume is built under a temporary name and renamed; on an object store its group metadata is written
    last.
    The mask is what was measured, by what the file states and by what is zero (`kdrift.data.measured`). With
    `precision` float16 images take half the bytes (`kdrift.data.half_precision`), and are read as float32 or complex64
    all the same.

    Raises ValueError if values are not finite, a block has the wrong shape or cannot be k-space (`Volume.doubts`),
    `name` is unsafe, or k-space is to be stored in half precision.
    """
    if store.mode == "r":
        raise ValueError(f"{store.location} is open for reading; open it with mode 'a' to write {name!r}")
    if not SAFE_NAME.match(name):
        raise ValueError(f"volume name {name!r} is unsafe: use letters, digits, '.', '_' and '-'")
    if precision == "float16" and volume.info.kind == "kspace":
        raise ValueError(
            f"{name} is k-space, whose middle is a million times its noise: precision float16 is for images; store"
            " complex images (--complex-images), or leave k-space in float32"
        )
    zarr_store = store.zarr_store(read_only=False)
    writers: dict[str, _SliceWriter] = {}
    said: list[str] = []
    with _destination(store, name) as path:
        for array_name, block in _arrays(volume, derive or {}, said):
            if array_name not in writers:
                writers[array_name] = _SliceWriter(
                    zarr_store, f"{path}/{array_name}", block, volume.info.num_slices, precision
                )
            writers[array_name].append(block)
        arrays = {key: writer.finish() | _seal(store, f"{path}/{key}") for key, writer in writers.items()}
        info = replace(
            volume.info, name=name, has_reference=volume.info.has_reference or "target" in arrays,
            has_mask="mask" in arrays, notes=tuple(dict.fromkeys((*volume.info.notes, *said))),
        )  # fmt: skip
        attrs = {key: _json_value(value) for key, value in info.attrs.items()}
        attributes: dict[str, Any] = {
            "kind": info.kind,
            "info": {key: _json_value(value) for key, value in asdict(info).items()} | {"attrs": attrs},
            "source": dict(source or {}),
            "arrays": arrays,
            "derived": sorted(set(derive or {}) & set(arrays) - ({"target"} if volume.info.has_reference else set())),
            "written_by": f"kdrift {__version__}",
            "complete": True,
        }
        store.write_group(path, attributes)
    return sum(writer.num_bytes for writer in writers.values())


def _seal(store: Store, path: str) -> dict[str, str]:
    """Return the checksum of an array's metadata, as its volume has it."""
    return {"metadata": hashlib.sha256(store.read_bytes(f"{path}/zarr.json")).hexdigest()}


def remove_leftovers(store: Store, names: set[str] | None = None) -> list[str]:
    """Remove what killed writers left of the named volumes (of all if None); return the folders removed."""
    if not store.is_local or not os.path.isdir(store.location):
        return []
    removed = []
    for entry in os.scandir(store.location):
        volume_name = entry.name.removeprefix(TEMPORARY).rpartition("-")[0]
        if entry.name.startswith(TEMPORARY) and (names is None or volume_name in names):
            shutil.rmtree(entry.path, ignore_errors=True)
            removed.append(entry.name)
    return removed


@contextlib.contextmanager
def _destination(store: Store, name: str) -> Iterator[str]:
    """Yield the path to write a volume under; it is readable as `name` only after the block ended well."""
    if not store.is_local:
        store.delete(name)
        try:
            yield name
        except BaseException:
            store.delete(name)
            raise
        return
    temporary = f"{TEMPORARY}{name}-{uuid.uuid4().hex[:12]}"
    root = Path(store.location)
    try:
        yield temporary
        # not `whole_folder`: leftovers are found again by names of our own, and checksums tell of what a power cut took
        aside = root / f"{TEMPORARY}{name}-{uuid.uuid4().hex[:12]}"
        put_folder(root / temporary, root / name, replace=True, aside=aside)
    except BaseException:
        shutil.rmtree(root / temporary, ignore_errors=True)
        raise


def _arrays(volume: Volume, derive: Mapping[str, Derive], said: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield all arrays of a volume by name, those with slices block by block; `said` gets notes on what is read."""
    found: list[Sampling] = []
    for start, stop, block, target in _read_ahead(volume):
        if volume.info.kind == "image":
            yield "complex_image" if volume.info.has_phase else "image", block
            continue
        said += volume.doubts(block, start)
        found.append(volume.sampling(block, start))
        said += found[-1].notes
        yield "kspace", block
        if (calibration := volume.read_calibration(start, stop)) is not None:
            yield "calibration", calibration
        if target is not None:
            yield "target", target
        measured = found[-1].measured[:, None]
        held = block if measured.all() else np.where(measured, block, 0)
        for name, function in derive.items():
            if name != "target" or target is None:
                computed = function(held)
                if not np.isfinite(computed).all():
                    raise ValueError(f"{name} computed of slices {start}:{stop} holds NaN or infinite values")
                yield name, computed
    if volume.info.has_mask or any(each.has_gaps for each in found):
        yield "mask", compact_mask(np.concatenate([each.measured for each in found]))
    noise_cov = volume.noise_cov()
    if noise_cov is not None:
        yield "noise_cov", np.asarray(noise_cov)


def _read_ahead(volume: Volume) -> Iterator[tuple[int, int, np.ndarray, np.ndarray | None]]:
    """Yield (start, stop, k-space or images, reference or None); the next block is read meanwhile."""
    info = volume.info
    is_kspace = info.kind == "kspace"
    read_images = volume.read_complex_image if info.has_phase else volume.read_image
    value_bytes = 8 if is_kspace or info.has_phase else 4
    slice_bytes = value_bytes * info.num_coils * info.rows * info.cols
    step = max(1, BLOCK_BYTES // max(1, slice_bytes))

    def read(start: int) -> tuple[int, int, np.ndarray, np.ndarray | None]:
        stop = min(start + step, info.num_slices)
        if not is_kspace:
            return start, stop, read_images(start, stop), None
        reference = volume.read_image(start, stop) if info.has_reference else None
        return start, stop, volume.read_kspace(start, stop), reference

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, 0)
        for start in range(0, info.num_slices, step):
            block = ahead.result()
            if start + step < info.num_slices:
                ahead = reader.submit(read, start + step)
            yield block


class _SliceWriter:
    """Write one array in order of slices, made to fit its first block, with a checksum a slice.

    Chunk = one slice, but for `WHOLE` arrays, which are one chunk. Small slices are gathered into one shard a volume,
    which is then written at once, since a shard that is written in parts is read and written again for every part.
    """

    def __init__(self, zarr_store: Any, path: str, block: np.ndarray, num_slices: int, precision: Precision) -> None:
        name = path.rpartition("/")[2]
        has_slices = name not in WHOLE
        self._exponents: list[int] | None = [] if precision == "float16" and has_slices else None
        first = block if self._exponents is None else to_half(block[:1])[0]
        shape = (num_slices, *first.shape[1:]) if has_slices else first.shape
        slice_bytes = first.nbytes // len(first)
        small = slice_bytes <= SHARD_SLICE_BYTES and slice_bytes * num_slices <= SHARD_VOLUME_BYTES
        sharded = small and has_slices and num_slices > 1
        self._name, self._checksums = name, list[int | str]()
        self._held: list[np.ndarray] | None = [] if sharded else None
        self.num_bytes = 0
        # Float k-space shrinks by 8 % and reads at half the speed; magnitudes come from integers and shrink well.
        # A flipped bit in what is compressed, or in a truth value, need not change a value: these have a CRC-32C too.
        compressors: list[BloscCodec | Crc32cCodec] = [Crc32cCodec()] if name == "image" or not has_slices else []
        if name == "image":
            compressors.insert(0, BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"))
        self._array: Any = zarr.create_array(
            zarr_store,
            name=path,
            shape=shape,
            dtype=first.dtype,
            chunks=(1, *shape[1:]) if has_slices else shape,
            shards=shape if sharded else None,
            compressors=compressors or None,
            dimension_names=_dimensions(name, len(shape)),
            config={"write_empty_chunks": True},  # else zeros are left out, and -0 comes back as 0: other bytes
            overwrite=True,
        )

    def append(self, block: np.ndarray) -> None:
        """Write or hold the next slices."""
        block = np.ascontiguousarray(block)
        if self._exponents is not None:
            block, exponents = to_half(block)
            self._exponents += exponents
        position = len(self._checksums)
        self._checksums += checksums(block)
        self.num_bytes += block.nbytes
        if self._held is not None:
            self._held.append(block)
        else:
            self._array[position : position + len(block)] = block

    def finish(self) -> dict[str, Any]:
        """Write what is held; return what the volume says of the slices: checksums, and exponents of half precision."""
        if len(self._checksums) != self._array.shape[0]:
            raise ValueError(f"{self._name} has {len(self._checksums)} slices, expected {self._array.shape[0]}")
        if self._held is not None:
            held, self._held = self._held, None
            self._array[:] = held[0] if len(held) == 1 else np.concatenate(held)
        exponents = {} if self._exponents is None else {EXPONENT: self._exponents}
        return {next(iter(CHECKSUMS)): self._checksums} | exponents


def _dimensions(name: str, count: int) -> tuple[str, ...] | None:
    """Return the names of an array's axes; complex values in half precision have their parts last."""
    known = DIMENSIONS.get(name)
    return known if known is None or len(known) == count else (*known, "part")


def _json_value(value: Any) -> Any:
    """Return a NumPy scalar as Python's; a non-finite number, which JSON lacks, becomes a string."""
    value = value.item() if isinstance(value, np.generic) else value
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value
