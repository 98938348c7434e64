"""Chunks of HDF5 datasets, bounded by what they are of.

libhdf5 believes what a file says of its chunks: it inflates one until its stream ends, a thousand times its size if
need be, and keeps such buffers in its cache. Here a chunk of gzip is inflated up to its size and no further, other
filters must state that size, and a chain of two that pack is refused. Filters: "HDF5 File Format Specification Version
3.0", section IV.A.2.l, and the sources of libhdf5 and h5py for what their parameters mean.
"""

from __future__ import annotations

import zlib
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from h5py.h5z import FILTER_DEFLATE as GZIP
from h5py.h5z import FILTER_FLETCHER32 as SUMS
from h5py.h5z import FILTER_LZF as LZF
from h5py.h5z import FILTER_NBIT as NBIT
from h5py.h5z import FILTER_SCALEOFFSET as SCALE_OFFSET
from h5py.h5z import FILTER_SHUFFLE as SHUFFLE
from h5py.h5z import FILTER_SZIP as SZIP

from kdrift.data.volume import BadVolume

_PACKERS = (GZIP, SZIP, LZF)
_KNOWN = (SUMS, SHUFFLE, *_PACKERS, SCALE_OFFSET, NBIT)
_REPACK = "h5repack -f GZIP=1 OLD NEW writes a file that can be read"


class Packed(h5py.Dataset):  # type: ignore[misc]
    """A dataset in chunks of gzip, LZF or szip: none is unpacked to more than it is of.

    Chunks of gzip that a selection touches are inflated into a dataset in memory, which libhdf5 then reads: types,
    shuffled bytes, fill values and chunks that were never written stay its own business. Those of LZF and szip are
    measured once before libhdf5 unpacks them.
    """

    def __init__(self, path: str, node: h5py.Dataset, size: int) -> None:
        super().__init__(node.id)
        self._path, self._size = path, size
        self._filters = [code for code, _ in _filters(node)]
        self._offsets = np.array([offset for offset, _, _ in _stored(node)], np.int64).reshape(-1, node.ndim)
        self._measured: set[tuple[int, ...]] = set()

    def __getitem__(self, args: Any, new_dtype: Any = None) -> Any:
        """Read a part. Raises BadVolume for a chunk that does not unpack to its size."""
        if self.dtype.hasobject:  # their values lie elsewhere in the file
            raise BadVolume(self._path, f"{self.name} has items of variable length in packed chunks; {_REPACK}")
        touched = self._touched(args if isinstance(args, tuple) else (args,))
        if GZIP not in self._filters:
            for offset in set(touched) - self._measured:
                self._unpack(*self.id.read_direct_chunk(offset))
                self._measured.add(offset)
            return super().__getitem__(args, new_dtype=new_dtype)
        creation = self.id.get_create_plist()
        creation.set_alloc_time(h5py.h5d.ALLOC_TIME_INCR)
        with h5py.File.in_memory() as memory:
            copy = h5py.h5d.create(memory.id, b"copy", self.id.get_type().copy(), self.id.get_space(), creation)
            for offset in touched:
                skipped, content = self._unpack(*self.id.read_direct_chunk(offset))
                copy.write_direct_chunk(offset, content, skipped)
            del copy  # what is open may still believe that a chunk has all its filters
            return memory["copy"].__getitem__(args, new_dtype=new_dtype)

    def __array__(self, dtype: Any = None, copy: bool = True) -> npt.NDArray[Any]:
        return np.asarray(self[()], dtype=dtype)

    def _touched(self, items: tuple[Any, ...]) -> list[tuple[int, ...]]:
        """Return the places of the stored chunks that a selection lies in; an axis that is indexed by values, whole."""
        items = tuple(item for item in items if not isinstance(item, str))  # names of fields
        rest = next((place for place, item in enumerate(items) if item is Ellipsis), len(items))
        after = items[rest + 1 :]
        items = (*items[:rest], *(slice(None),) * (self.ndim - rest - len(after)), *after)
        near = np.ones(len(self._offsets), bool)
        for axis, (item, length, chunk) in enumerate(zip(items, self.shape, self.chunks, strict=False)):
            if isinstance(item, int | np.integer):
                first = last = range(length)[int(item)]
            elif isinstance(item, slice) and (chosen := range(length)[item]):
                first, last = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1])
            else:
                continue
            offsets = self._offsets[:, axis]
            near &= (offsets <= last) & (offsets + chunk > first)
        return [tuple(offset) for offset in self._offsets[near].tolist()]

    def _unpack(self, skipped: int, content: bytes) -> tuple[int, bytes]:
        """Return which filters are left to be skipped of a chunk, and it without gzip; of another packer, as it is."""
        used = [code for place, code in enumerate(self._filters) if not skipped >> place & 1]
        packer = next((code for code in used if code in _PACKERS), None)
        if packer is None:
            return skipped, content
        least, most = _sizes(used[: used.index(packer)], self._size)
        summed = SUMS in used[used.index(packer) :]
        packed = content[:-4] if summed else content
        if packer == SZIP:
            self._check(int.from_bytes(packed[:4], "little"), least, most)
        elif packer == LZF:
            self._check(_lzf_size(packed, most), least, most)
        else:
            inflater = zlib.decompressobj()
            try:
                inflated = inflater.decompress(packed, most + 1)
            except zlib.error as error:
                raise BadVolume(self._path, f"{self.name} has a damaged chunk: {error}") from None
            self._check(len(inflated), least, most)
            if not inflater.eof:
                raise BadVolume(self._path, f"{self.name} has a damaged chunk: it is cut off")
            skipped |= 1 << self._filters.index(GZIP)
            if summed:  # of what is packed; gzip has a sum of its content
                skipped |= 1 << self._filters.index(SUMS)
            return skipped, inflated
        return skipped, content

    def _check(self, length: int, least: int, most: int) -> None:
        if not least <= length <= most:
            many = f"more than {most}" if length > most else f"{length}"
            raise BadVolume(self._path, f"{self.name} has a chunk that unpacks to {many} bytes, expected {self._size}")


def bounded(path: str, key: str, node: h5py.Dataset, size: int) -> h5py.Dataset:
    """Return a dataset whose chunks, of `size` bytes, unpack to no more than that; nothing of them is read yet.

    Raises BadVolume for a chunk that is too short or too long to hold what it is of, two at one place, and filters that
    unpack to any size.
    """
    filters = _filters(node)
    codes = [code for code, _ in filters]
    if unknown := [str(code) for code in codes if code not in _KNOWN]:
        raise BadVolume(path, f"{key} is packed by HDF5 filter {', '.join(unknown)}, which is not known; {_REPACK}")
    if len(set(codes)) != len(codes) or sum(code in _PACKERS for code in codes) > 1:
        raise BadVolume(path, f"{key} is packed more than once (HDF5 filters {codes}); {_REPACK}")
    stated = [_stated(code, values) for code, values in filters]
    if any(states is not None and states != size for states in stated):
        raise BadVolume(path, f"{key} has a filter for chunks of other sizes than its own, {size} bytes: it is damaged")
    stored = _stored(node)
    for _, skipped, length in stored:
        least, most = _sizes([code for place, code in enumerate(codes) if not skipped >> place & 1], size)
        if not least <= length <= most:
            raise BadVolume(path, f"{key} has a chunk of {length} bytes, which cannot be one of {size}: it is damaged")
    if len({place for place, _, _ in stored}) != len(stored):
        raise BadVolume(path, f"{key} has two chunks at one place: its index is damaged")
    return Packed(path, node, size) if set(_PACKERS) & set(codes) else node


def _filters(node: h5py.Dataset) -> list[tuple[int, tuple[int, ...]]]:
    """Return code and parameters of the filters of a dataset, in the order in which they were applied."""
    creation = node.id.get_create_plist()
    return [(each[0], each[2]) for each in map(creation.get_filter, range(creation.get_nfilters()))]


def _stored(node: h5py.Dataset) -> list[tuple[tuple[int, ...], int, int]]:
    """Return place, skipped filters (a bit each) and bytes of the chunks that are in the file."""
    stored: list[tuple[tuple[int, ...], int, int]] = []
    node.id.chunk_iter(lambda info: stored.append((info.chunk_offset, info.filter_mask, info.size)))
    return stored


def _sizes(used: list[int], size: int) -> tuple[int, int]:
    """Return the least and the most bytes that a chunk of `size` has after these filters."""
    sums = 4 * used.count(SUMS)
    packed = bool(set(used) - {SUMS, SHUFFLE})
    return (sums + 1, sums + size + size // 100 + 1024) if packed else (sums + size, sums + size)


def _lzf_size(content: bytes, most: int) -> int:
    """Return the bytes that LZF unpacks to, or more than `most`: runs of up to 32 bytes, references of up to 264.

    h5py's filter begins anew with a little more room until they fit, for minutes if a chunk is made so.
    """
    place = size = 0
    while place < len(content) and size <= most:
        control = content[place]
        if control < 32:
            size, place = size + control + 1, place + control + 2
        else:
            size, place = size + (control >> 5) + 2, place + 2
            if control >= 224:  # a long one has another byte of its length
                size, place = size + int.from_bytes(content[place - 1 : place]), place + 1
    return size


def _stated(code: int, values: tuple[int, ...]) -> int | None:
    """Return the size of chunks that the parameters of a filter state, None for one without; -1: they are damaged."""
    if code == LZF:
        return values[2] if len(values) > 2 else -1
    if code in (SCALE_OFFSET, NBIT):  # number of values, class (1 of n-bit: plain numbers), size of a value
        is_plain = len(values) > 4 and (code == SCALE_OFFSET or values[3] == 1)
        return values[2] * values[4] if is_plain else -1
    return None
