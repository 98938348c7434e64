"""Numeric arrays of MATLAB v5 files (also saved as -v6 and -v7), read here and nowhere else.

scipy's reader takes types and sizes as a file states them, and a damaged one ends the process; compressed data it
inflates without a limit. Here every type, size and dimension is checked before it is used, and no more is inflated than
an array has. Layout: MathWorks, "MAT-File Format", Level 5.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Types that numbers are stored as, often smaller ones than that of their array."""
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""Types of numeric arrays."""
_SPARSE = 5
_OTHERS = {1: "a cell", 2: "a structure", 3: "an object", 4: "text", 16: "a function", 17: "an object"}
"""What else a variable can be; its values are not read."""
_COMPLEX, _LOGICAL = 0x08, 0x02
_MOST_HEADER, _MOST_SPARSE = 4096, 1 << 30
_BLOCK = 1 << 20


class _Content(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class MatArray:
    """A numeric array of a file: its header; `read` reads its values."""

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """Type of its values, complex where they are."""
    place: int
    """Where in the file it begins."""
    unread: str = ""
    """What it is where it is no array of numbers, which `read` refuses; empty for an array."""
    is_sparse: bool = False
    """Whether its values are stored column by column without zeros."""

    @property
    def num_bytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> npt.NDArray[Any]:
        """Return its values, those of a sparse matrix with its zeros.

        Raises ValueError where they are not as many as its header says, and for what is no array of numbers.
        """
        if self.unread:
            raise ValueError(f"{self.name} is {self.unread}, expected an array of numbers, full or sparse")
        with open(self.path, "rb") as stream:
            order = _byte_order(stream)
            content = _element(stream, self.place, order)
            assert content is not None
            _read_header(self.path, content, order, self.place)
            if self.is_sparse:
                return _sparse_numbers(content, order, self.shape, self.dtype)
            if self.dtype.kind != "c":
                return _numbers(content, order, self.shape).astype(self.dtype, copy=False)
            values: npt.NDArray[Any] = np.empty(self.shape, self.dtype, order="F")
            values.real = _numbers(content, order, self.shape)
            values.imag = _numbers(content, order, self.shape)
            return values


def list_arrays(path: str) -> list[MatArray]:
    """Return the variables of a file, in its order; what is no array of numbers says so (`unread`).

    Raises ValueError for a file that is no MATLAB v5 file, is cut off or damaged.
    """
    found = []
    with open(path, "rb") as stream:
        order = _byte_order(stream)
        for place in _places(stream, order):
            content = _element(stream, place, order)
            array = _read_header(path, content, order, place) if content is not None else None
            found += [array] if array is not None else []
    return found


class _Inflated:
    """The content of a compressed element; no more of it is ever inflated than is asked for."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._size = stream, size
        self._inflater, self._waiting = zlib.decompressobj(), b""

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes, fewer where the content ends."""
        parts, missing = [], size
        while missing and not self._inflater.eof:
            if not self._waiting:
                self._waiting = self._stream.read(min(_BLOCK, self._size))
                self._size -= len(self._waiting)
            part = self._inflater.decompress(self._waiting, missing)
            if not part and not self._waiting:
                break
            self._waiting = self._inflater.unconsumed_tail
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)


def _byte_order(stream: IO[bytes]) -> str:
    head = stream.read(128)
    order = {b"IM": "<", b"MI": ">"}.get(head[126:128])
    if len(head) < 128 or order is None:
        raise ValueError("expected a MATLAB v5 file; save it in MATLAB with -v7")
    return order


def _places(stream: IO[bytes], order: str) -> Iterator[int]:
    """Yield where the elements of a file begin."""
    place, end = 128, os.fstat(stream.fileno()).st_size
    while place < end:
        stream.seek(place)
        tag = stream.read(8)
        size = struct.unpack(f"{order}I", tag[4:])[0] if len(tag) == 8 else 0
        if place + 8 + size > end or size == 0:
            raise ValueError(f"the variable at byte {place} claims {size} bytes, the file ends at {end}: truncated?")
        yield place
        place += 8 + size


def _element(stream: IO[bytes], place: int, order: str) -> _Content | None:
    """Return the content of the matrix at a place, None where there is something else."""
    stream.seek(place)
    kind, size = struct.unpack(f"{order}2I", stream.read(8))
    if kind == _MATRIX:
        return stream
    if kind != _COMPRESSED:
        return None
    content = _Inflated(stream, size)
    return content if struct.unpack(f"{order}2I", _exactly(content, 8))[0] == _MATRIX else None


def _read_header(path: str, content: _Content, order: str, place: int) -> MatArray | None:
    """Read the header of a matrix; None for what has no name."""
    flags = _small_part(content, order, 6)
    if len(flags) != 8:
        raise ValueError(f"the variable at byte {place} has {len(flags)} bytes of flags, expected 8")
    word = struct.unpack(f"{order}I", flags[:4])[0]
    kind, is_sparse = word & 0xFF, word & 0xFF == _SPARSE
    if kind == 17:  # no shape, and a name that its class follows
        name = _small_part(content, order, 1).decode("ascii", errors="replace")
        return MatArray(path, name, (0, 0), np.dtype("f8"), place, _OTHERS[kind]) if name else None
    shape = tuple(np.frombuffer(_small_part(content, order, 5), f"{order}i4").tolist())
    name = _small_part(content, order, 1).decode("ascii", errors="replace")
    if len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"{name} has shape {shape}, expected at least two axes")
    if is_sparse and len(shape) != 2:
        raise ValueError(f"{name} has shape {shape}, a sparse matrix has two axes")
    dtype = np.dtype(_CLASSES.get(kind, "f8"))
    if word >> 8 & _COMPLEX:
        dtype = np.dtype(np.complex64 if dtype == np.float32 else np.complex128)
    elif word >> 8 & _LOGICAL:
        dtype = np.dtype(bool)
    unread = "" if is_sparse or kind in _CLASSES else _OTHERS.get(kind, f"of class {kind}")
    return MatArray(path, name, shape, dtype, place, unread, is_sparse) if name else None


def from_columns(
    shape: tuple[int, ...], rows: npt.NDArray[Any], begins: npt.NDArray[Any], values: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Return a sparse matrix `(row, col)` with its zeros.

    `rows` says of each of `values` in which row it stands, `begins` where each column begins among them, and where the
    last one ends. Raises ValueError where these do not agree.
    """
    stops = begins.astype(np.int64)
    counts = stops[1:] - stops[:-1]
    count = int(begins[-1]) if len(begins) else -1
    fits = len(begins) == shape[1] + 1 and begins[0] == 0 and (counts >= 0).all()
    if not fits or not 0 <= count <= min(len(rows), len(values)) or (rows[:count] >= shape[0]).any():
        raise ValueError(f"the places of values do not fit a sparse matrix of shape {shape}: the file is damaged")
    full = np.zeros(shape, values.dtype)
    full[rows[:count].astype(np.int64), np.repeat(np.arange(shape[1]), counts)] = values[:count]
    return full


def _sparse_numbers(content: _Content, order: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    rows, begins = _numbers(content, order), _numbers(content, order)
    values = _numbers(content, order).astype(dtype)
    if dtype.kind == "c":
        values = values + 1j * _numbers(content, order)
    if (rows < 0).any():
        raise ValueError("a sparse matrix has values in rows below 0: the file is damaged")
    return from_columns(shape, rows, begins, values)


def _numbers(content: _Content, order: str, shape: tuple[int, ...] | None = None) -> npt.NDArray[Any]:
    """Read one part of a matrix, real or imaginary, axes as MATLAB has them; without a shape as many as there are."""
    kind, size, small = _tag(content, order)
    if kind not in _STORED:
        raise ValueError(f"values are of type {kind}, expected numbers: the file is damaged")
    stored = np.dtype(f"{order}{_STORED[kind]}")
    if shape is None:
        shape = (min(size, _MOST_SPARSE) // stored.itemsize,)
    if size != math.prod(shape) * stored.itemsize:
        raise ValueError(f"{size} bytes of {stored} do not make the shape {shape}: the file is damaged")
    values = small[:size] if small else _padded(content, size)
    return np.frombuffer(values, stored).reshape(shape, order="F")


def _small_part(content: _Content, order: str, expected: int) -> bytes:
    kind, size, small = _tag(content, order)
    if kind != expected or size > _MOST_HEADER:
        raise ValueError(f"a header has {size} bytes of type {kind}, expected type {expected}: the file is damaged")
    return small[:size] if small else _padded(content, size)


def _tag(content: _Content, order: str) -> tuple[int, int, bytes]:
    """Return type and size of what follows, and itself where it is so small that it stands in its tag."""
    tag = _exactly(content, 8)
    first, size = struct.unpack(f"{order}2I", tag)
    if not first >> 16:
        return first, size, b""
    if first >> 16 > 4:
        raise ValueError(f"a tag claims {first >> 16} bytes in 4: the file is damaged")
    return first & 0xFFFF, first >> 16, tag[4:]


def _padded(content: _Content, size: int) -> bytes:
    """Read values, and the bytes that fill them up to a multiple of 8, which the last ones may lack."""
    values = _exactly(content, size)
    content.read(-size % 8)
    return values


def _exactly(content: _Content, size: int) -> bytes:
    values = content.read(size)
    if len(values) != size:
        raise ValueError(f"it ends after {len(values)} of {size} bytes: truncated?")
    return values
