"""Safe access to HDF5 files of unknown origin.

libhdf5 believes the lengths it finds in a file and can loop for ever in a damaged heap of variable-length
items. What a file claims is therefore checked in its own bytes before libhdf5 reads it. Layout: "HDF5 File
Format Specification Version 3.0", sections III.E (global heap) and IV.A.2.d (datatypes of variable length).
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO, Any

import h5py
import numpy as np
import numpy.typing as npt

from kdrift.data.formats.hdf5_chunks import bounded
from kdrift.data.formats.header import MAX_HEADER_BYTES
from kdrift.data.volume import MAX_SLICE_BYTES, Attr, BadVolume, check_declared, check_expansion, naming

ITEM = np.dtype({"names": ["length", "heap", "index"], "formats": ["<u4", "<u8", "<u4"], "itemsize": 16})
"""How an item of variable length is stored: its length and its place in the global heap."""
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HEAP_MAGIC = b"GCOL\x01\0\0\0"
_BLOCK = 1 << 20
_MOST_NAMES = 10_000
"""So many names a group of a scan has at most."""


@dataclass(frozen=True)
class Hdf5:
    """An open file and its bytes."""

    path: str
    file: h5py.File
    raw: IO[bytes]
    heaps: dict[int, dict[int, int]] = field(default_factory=dict)
    """Sizes of the objects in the heap collections that were checked, by address and number of the object."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`."""
        self.raw.seek(offset)
        return self.raw.read(length)

    def size(self) -> int:
        """Return the size of the file in bytes."""
        return self.raw.seek(0, os.SEEK_END)


def open_file(path: str, resources: contextlib.ExitStack, stream: IO[bytes] | None = None) -> Hdf5:
    """Open an HDF5 file for reading, from a path or a seekable binary stream (fsspec)."""
    raw: IO[bytes] = stream if stream is not None else open(path, "rb")  # noqa: SIM115
    resources.callback(raw.close)
    _check_superblock(path, raw)
    file = resources.enter_context(h5py.File(stream if stream is not None else path, "r", locking=False))
    return Hdf5(path, file, raw)


def _check_superblock(path: str, raw: IO[bytes]) -> None:
    """Raise `BadVolume` where the first block (section II.A) makes libhdf5 read a driver's block, or itself, as more.

    A driver's block states its own size, which libhdf5 takes memory for before it looks at the file's.
    """
    size, place = raw.seek(0, os.SEEK_END), 0
    while place < size:
        raw.seek(place)
        head = raw.read(128)
        if head.startswith(_SIGNATURE):
            break
        place = 2 * place or 512
    else:
        return
    if len(head) < 128 or head[8] > 1:  # later versions have checksums
        return
    width, start = head[13], 28 if head[8] else 24
    addresses = [int.from_bytes(head[start + i * width : start + (i + 1) * width], "little") for i in range(6)]
    if addresses[3] != (1 << 8 * width) - 1 or not 0 < addresses[5] < size:
        raise BadVolume(
            path, "not a readable HDF5 file: it names a block of a driver, or no root; damaged, or in parts"
        )


def is_hard(group: Any, name: str) -> bool:
    """Return whether `name` is an object of the group's own file; asking h5py would follow links to other files."""
    links = getattr(group.id, "links", None)
    stored = os.fsencode(name)
    return links is not None and links.exists(stored) and links.get_info(stored).type == h5py.h5l.TYPE_HARD


def hard_links(group: Any) -> list[str]:
    """Return the names of the objects in a group, without links of other kinds."""
    return [name for name in _names(group.file.filename, group) if is_hard(group, name)]


def find(source: Hdf5, key: str) -> Any:
    """Return the group or dataset at `key`, or None; no link but a hard one is ever followed.

    A soft or external link could make the reader open any other file of this machine, and so could `key in file`.

    Raises BadVolume when `key` is reached by such a link, or an object on the way is damaged.
    """
    node: Any = source.file
    with naming(source.path, f"{key} cannot be opened"):
        for part in key.split("/"):
            if not isinstance(node, h5py.Group) or not node.id.links.exists(os.fsencode(part)):
                return None
            if not is_hard(node, part):
                raise BadVolume(source.path, f"{key} is a soft or external link, expected the data itself")
            node = node[part]
    return node


def contains(source: Hdf5, key: str) -> bool:
    """Return whether there is something at `key`, reached by hard links alone; a link of another kind is not there."""
    try:
        return find(source, key) is not None
    except BadVolume:
        return False


def dataset(source: Hdf5, key: str) -> h5py.Dataset | None:
    """Return the dataset at `key`, or None.

    Raises BadVolume when it is reached by a link or stored outside of the file (either could make the reader open any
    other file of this machine), is no dataset, or declares more data than the file holds.
    """
    path = source.path
    node = find(source, key)
    if node is None:
        return None
    with naming(path, f"{key} cannot be opened"):
        if not isinstance(node, h5py.Dataset):
            raise BadVolume(path, f"{key} is a {type(node).__name__.lower()}, expected a dataset")
        if node.is_virtual or node.external:
            raise BadVolume(path, f"{key} is stored in other files, expected the data itself")
        if node.shape is None:
            raise BadVolume(path, f"{key} is empty")
        if node.shape and 0 in node.shape:
            raise BadVolume(path, f"{key} has shape {node.shape}: a dimension is 0")
        if not _has_its_sizes(node.id.get_type(), node.dtype):
            raise BadVolume(
                path, f"{key} has records of numbers of no usual type: damaged, or write them as IEEE floats"
            )
        compressed = node.id.get_create_plist().get_nfilters() > 0
        check_declared(path, node.size * node.dtype.itemsize, node.id.get_storage_size(), compressed)
        if node.chunks:
            item = node.dtype.itemsize if h5py.check_vlen_dtype(node.dtype) is None else ITEM.itemsize
            chunk = math.prod(node.chunks) * item
            if chunk > MAX_SLICE_BYTES:
                raise BadVolume(path, f"{key} has chunks {node.chunks}: too large to read")
            check_expansion(path, chunk, node.id.get_storage_size())
            return bounded(path, key, node, chunk)
    return node


def _has_its_sizes(stored: Any, dtype: np.dtype[Any]) -> bool:
    """Return whether the fields of records are as large in memory as in the file: h5py lets larger ones overlap."""
    if not isinstance(stored, h5py.h5t.TypeCompoundID) or dtype.names is None or dtype.hasobject:
        return True
    members = [(stored.get_member_type(i), dtype[i]) for i in range(stored.get_nmembers())]
    return all(each.get_size() == field.itemsize and _has_its_sizes(each, field) for each, field in members)


def text(source: Hdf5, node: h5py.Dataset) -> bytes:
    """Return a scalar or one-element string dataset as bytes."""
    with naming(source.path, "XML header cannot be read"):
        if h5py.check_string_dtype(node.dtype) is None or node.size != 1:
            raise BadVolume(source.path, f"{node.name} is {node.dtype} {node.shape}, expected one text")
        size = node.dtype.itemsize
        if h5py.check_vlen_dtype(node.dtype) is not None:
            item = np.frombuffer(raw_table(source, node), ITEM)[0]
            size = int(item["length"])
            check_items(source, np.array([item]), 1)
        if size > MAX_HEADER_BYTES:
            expected = f"expected at most {MAX_HEADER_BYTES}"
            raise BadVolume(source.path, f"XML header claims {size} bytes, {expected}")
        value: Any = node[()] if node.shape == () else node[(0,) * node.ndim]
        return value.encode() if isinstance(value, str) else bytes(value)


def raw_table(source: Hdf5, node: h5py.Dataset) -> bytes:
    """Return the stored bytes of a dataset with items of variable length (`ITEM`), without fetching these.

    h5py would fetch all of them with any field of a record.

    Raises BadVolume when the table is compressed, compact or incomplete, or its type is damaged.
    """
    path = source.path
    stored = node.id.get_type()
    members = [stored.get_member_type(i) for i in range(stored.get_nmembers())] if node.dtype.names else []
    if any(isinstance(member, h5py.h5t.TypeVlenID) and any(member.encode()[3:6]) for member in members):
        raise BadVolume(path, f"{node.name} has a damaged type: sequences have no flags")  # libhdf5 crashes on them
    total = node.size * (node.dtype.itemsize if node.dtype.names else ITEM.itemsize)
    if node.id.get_create_plist().get_nfilters() > 0 or node.id.get_storage_size() < total:
        raise BadVolume(path, f"{node.name} is compressed or incomplete (h5repack -f NONE decompresses)")
    if node.chunks is not None:
        if node.ndim != 1:
            raise BadVolume(path, f"{node.name} has shape {node.shape}, expected one dimension")
        starts = range(0, node.shape[0], node.chunks[0])
        return b"".join(node.id.read_direct_chunk((start,))[1] for start in starts)[:total]
    offset = node.id.get_offset()
    if offset is None:
        raise BadVolume(path, f"{node.name} has a compact layout (h5repack -l CONTI changes it)")
    content = source.read_at(offset, total)
    if len(content) != total:
        raise BadVolume(path, f"{node.name} is truncated")
    return content


def check_heaps(source: Hdf5, addresses: Iterable[int]) -> None:
    """Raise `BadVolume` unless the heap collections at these addresses are sound; each is walked once."""
    for address in addresses:
        if address and address not in source.heaps:
            source.heaps[address], _ = _check_heap(source, address + source.file.userblock_size)


def check_items(source: Hdf5, items: npt.NDArray[Any], width: int) -> None:
    """Raise `BadVolume` unless every item (`ITEM`, of values `width` bytes wide) is as long in its heap as it says."""
    used = items[items["length"] > 0]
    if int(used["length"].sum(dtype=np.int64)) * width > source.size():
        raise BadVolume(source.path, "items of variable length claim more values together than the file holds")
    check_heaps(source, np.unique(used["heap"]).tolist())
    for length, address, index in used.tolist():
        if length * width > source.heaps.get(address, {}).get(index, 0):
            raise BadVolume(source.path, f"an item of variable length claims {length} values, its heap holds fewer")


def attributes(source: Hdf5) -> dict[str, Attr]:
    """Return the scalar attributes of a file; arrays and numbers that are not finite are left out."""
    found: dict[str, Attr] = {}
    with naming(source.path, "attributes cannot be read"):
        if len(source.file.attrs) == 0:
            return found
        _check_heaps_between(source)
        for name in source.file.attrs:
            if not _is_scalar(source.file.attrs.get_id(name)):
                continue
            value = source.file.attrs[name]
            scalar = value.item() if isinstance(value, (np.generic, np.ndarray)) and value.size == 1 else value
            if isinstance(scalar, bytes):
                scalar = scalar.decode(errors="replace")
            if isinstance(scalar, (str, int, bool)) or (isinstance(scalar, float) and math.isfinite(scalar)):
                found[str(name)] = scalar
    return found


def _is_scalar(attribute: Any) -> bool:
    """Return whether an attribute is one number or text: others are not read, they may name one heap object often."""
    kind, numbers = attribute.get_type(), (h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID, h5py.h5t.TypeStringID)
    is_truth = isinstance(kind, h5py.h5t.TypeEnumID) and kind.dtype.kind == "b"
    return attribute.shape is not None and math.prod(attribute.shape) == 1 and (isinstance(kind, numbers) or is_truth)


def keys(source: Hdf5) -> list[str]:
    """Return the names at the top of a file. Raises BadVolume for far more than a scan has."""
    return _names(source.path, source.file)


def _names(path: str, group: Any) -> list[str]:
    if len(group) > _MOST_NAMES:
        raise BadVolume(path, f"holds {len(group)} objects in one group, expected at most {_MOST_NAMES}")
    return sorted(map(str, group))


def _check_heap(source: Hdf5, start: int) -> tuple[dict[int, int], int]:
    """Walk the objects of one collection as libhdf5 will; return the size of each, and where the collection ends."""
    damaged = BadVolume(source.path, f"heap of variable-length items at byte {start} is damaged")
    head = source.read_at(start, 16)
    if len(head) < 16 or head[:8] != _HEAP_MAGIC:
        raise damaged
    end: int = start + struct.unpack("<Q", head[8:])[0]
    if not start + 16 <= end <= source.size():
        raise damaged
    place, sizes = start + 16, dict[int, int]()
    while end - place >= 16:
        index, _, _, size = struct.unpack("<HHIQ", source.read_at(place, 16))
        step = size if index == 0 else 16 + (size + 7) // 8 * 8  # index 0 is the free space, header included
        if not 16 <= step <= end - place:
            raise damaged
        sizes[index] = size
        place += step
    return sizes, end


def _check_heaps_between(source: Hdf5) -> None:
    """Check all heap collections outside of the data: attributes do not tell which ones they use."""
    place, size = 0, source.size()
    for start, stop in [*_data_extents(source), (size, size)]:
        while place < start:
            block = source.read_at(place, min(_BLOCK, start - place) + len(_HEAP_MAGIC) - 1)
            found = block.find(_HEAP_MAGIC)
            place = _check_heap(source, place + found)[1] if found >= 0 else place + min(_BLOCK, start - place)
        place = max(place, stop)


def _data_extents(source: Hdf5) -> list[tuple[int, int]]:
    """Return the byte ranges of the top-level datasets, sorted."""
    extents: list[tuple[int, int]] = []
    for key in keys(source):
        if not is_hard(source.file, key):
            continue
        node = source.file[key]
        if not isinstance(node, h5py.Dataset):
            continue
        if node.chunks is not None:
            chunks = (node.id.get_chunk_info(index) for index in range(node.id.get_num_chunks()))
            extents += [(chunk.byte_offset, chunk.byte_offset + chunk.size) for chunk in chunks]
        elif (offset := node.id.get_offset()) is not None:
            extents.append((offset, offset + node.id.get_storage_size()))
    return sorted(extents)
