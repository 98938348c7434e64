"""Safe access to HDF5 files of unknown origin."""

from __future__ import annotations

import contextlib
import math
from typing import IO, Any

import h5py
import numpy as np

from kdrift.data.formats.header import MAX_HEADER_BYTES
from kdrift.data.volume import MAX_SLICE_BYTES, Attr, BadVolume, check_declared, naming


def open_file(path: str, resources: contextlib.ExitStack, stream: IO[bytes] | None = None) -> h5py.File:
    """Open an HDF5 file for reading, from a path or a seekable binary stream (fsspec)."""
    with naming(path, "not a readable HDF5 file (truncated or damaged)"):
        return resources.enter_context(h5py.File(stream if stream is not None else path, "r", locking=False))


def dataset(path: str, file: h5py.File, key: str) -> h5py.Dataset | None:
    """Return the dataset at `key`, or None where there is none.

    Raises
    ------
    BadVolume
        When it is reached by a link or stored outside of the file (either could make the reader open any
        other file of this machine), is no dataset, or declares more data than the file holds.
    """
    node: Any = file
    with naming(path, f"{key} cannot be opened"):
        for part in key.split("/"):
            if not isinstance(node, h5py.Group) or part not in node:
                return None
            if not isinstance(node.get(part, getlink=True), h5py.HardLink):
                raise BadVolume(path, f"{key} is a soft or external link, expected the data itself")
            node = node[part]
        if not isinstance(node, h5py.Dataset):
            raise BadVolume(path, f"{key} is a {type(node).__name__.lower()}, expected a dataset")
        if node.is_virtual or node.external:
            raise BadVolume(path, f"{key} is stored in other files, expected the data itself")
        if node.shape is None:
            raise BadVolume(path, f"{key} is empty")
        if node.shape and 0 in node.shape:
            raise BadVolume(path, f"{key} has shape {node.shape}: a dimension is 0")
        compressed = node.id.get_create_plist().get_nfilters() > 0
        check_declared(
            path, math.prod(node.shape) * node.dtype.itemsize, node.id.get_storage_size(), compressed
        )
        if node.chunks and math.prod(node.chunks) * node.dtype.itemsize > MAX_SLICE_BYTES:
            raise BadVolume(path, f"{key} has chunks {node.chunks}: too large to read")
    return node


def text(path: str, node: h5py.Dataset, stream: IO[bytes] | None = None) -> bytes:
    """Return a scalar or one-element string dataset as bytes."""
    with naming(path, "XML header cannot be read"):
        if h5py.check_string_dtype(node.dtype) is None or node.size != 1:
            raise BadVolume(path, f"{node.name} is {node.dtype} {node.shape}, expected one text")
        size = node.dtype.itemsize
        if h5py.check_vlen_dtype(node.dtype) is not None:
            size = int(np.frombuffer(raw_table(path, node, stream), "<u4")[0])
        if size > MAX_HEADER_BYTES:
            raise BadVolume(path, f"XML header claims {size} bytes, expected at most {MAX_HEADER_BYTES}")
        value: Any = node[()] if node.shape == () else node[(0,) * node.ndim]
        return value.encode() if isinstance(value, str) else bytes(value)


def raw_table(path: str, node: h5py.Dataset, stream: IO[bytes] | None = None) -> bytes:
    """Return the stored bytes of a dataset with items of variable length, without fetching these items.

    An item is stored as its length (little-endian uint32) and its place. h5py fetches all of them with any field of
    a record, and libhdf5 believes any length it finds, so lengths are checked in these bytes first.

    Raises
    ------
    BadVolume
        When the table is compressed, compact or incomplete.
    """
    total = node.size * node.dtype.itemsize
    if node.id.get_create_plist().get_nfilters() > 0 or node.id.get_storage_size() < total:
        raise BadVolume(
            path, f"{node.name} is compressed or incomplete (h5repack -f NONE removes compression)"
        )
    if node.chunks is not None:
        if node.ndim != 1:
            raise BadVolume(path, f"{node.name} has shape {node.shape}, expected one dimension")
        starts = range(0, node.shape[0], node.chunks[0])
        return b"".join(node.id.read_direct_chunk((start,))[1] for start in starts)[:total]
    offset = node.id.get_offset()
    if offset is None:
        raise BadVolume(path, f"{node.name} has a compact layout (h5repack -l CONTI changes it)")
    with contextlib.ExitStack() as stack:
        file = stream if stream is not None else stack.enter_context(open(path, "rb"))
        file.seek(offset)
        content = file.read(total)
    if len(content) != total:
        raise BadVolume(path, f"{node.name} is truncated")
    return content


def attributes(path: str, file: h5py.File) -> dict[str, Attr]:
    """Return the scalar attributes of a file; arrays and numbers that are not finite are left out."""
    found: dict[str, Attr] = {}
    with naming(path, "attributes cannot be read"):
        for name, value in file.attrs.items():
            scalar = (
                value.item() if isinstance(value, (np.generic, np.ndarray)) and value.size == 1 else value
            )
            if isinstance(scalar, bytes):
                scalar = scalar.decode(errors="replace")
            if isinstance(scalar, (str, int, bool)) or (isinstance(scalar, float) and math.isfinite(scalar)):
                found[str(name)] = scalar
    return found


def keys(path: str, file: h5py.File) -> list[str]:
    """Return the names at the top of a file."""
    with naming(path, "not a readable HDF5 file"):
        return sorted(str(key) for key in file)
