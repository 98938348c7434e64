"""Checks of what a store holds: a checksum for every slice, a digest of what is said of them.

A slice is checked whenever it is read: XXH3 of its bytes, or CRC-32 in volumes that older versions wrote. A chunk that
is missing reads as zeros in zarr, and differs as well. Attributes have a digest of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from kdrift.data.half_precision import EXPONENT, from_half
from kdrift.data.volume import BadVolume, naming

CHECKSUMS: dict[str, Callable[[Any], int | str]] = {"xxh3_64": xxhash.xxh3_64_hexdigest, "crc32": zlib.crc32}
"""Checksums of a slice by the name that its volume has them under, the one that is written first."""
AGAIN = "restore it from a copy, or convert its source again (--overwrite)"


@dataclass(frozen=True)
class CheckedArray:
    """An array of a store that compares what it reads with its checksums."""

    volume: str
    """Path of the volume."""
    name: str
    array: Any
    """The zarr array `(row, ...)`; a row is a slice, or one of a mask or covariance."""
    entry: Mapping[str, Any]
    """What the volume's attributes say of it."""
    folder: Path | None = None
    """Where its files are, each of them the values of one row as they are; None: zarr reads them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.array.shape)

    def __getitem__(self, items: Any) -> np.ndarray:
        """Read rows `start:stop`, or all of them (`...`); what is stored in half precision comes as what it stands for.

        Raises BadVolume, naming array and rows, where one differs from what was written, is missing or cannot be read.
        """
        rows = range(self.shape[0])[slice(None) if items is Ellipsis else items]
        block, bad = self.read(rows.start, rows.stop)
        if bad:
            listed = ", ".join(map(str, bad[:8])) + (", ..." if len(bad) > 8 else "")
            missing = "is missing" if not block[bad[0] - rows.start].any() else "differs from what was written"
            raise BadVolume(self.volume, f"{self.name} is damaged: slice {listed} {missing}; {AGAIN}")
        exponents = self.entry.get(EXPONENT)
        return block if exponents is None else from_half(block, exponents[rows.start : rows.stop])

    def read(self, start: int, stop: int) -> tuple[np.ndarray, list[int]]:
        """Read rows `start:stop` as they are stored, and return those that are not what was written."""
        kind = next(kind for kind in CHECKSUMS if kind in self.entry)
        with naming(self.volume, f"{self.name} is damaged"):
            if self.folder is None:
                block = np.asarray(self.array[start:stop])
                found = checksums(block, kind)
            else:
                block, found = np.empty((stop - start, *self.shape[1:]), self.array.dtype), []
                for row in range(start, stop):
                    self._read_plain(row, block[row - start])
                    found += checksums(block[row - start : row - start + 1], kind)  # while it is in the cache
        expected = self.entry[kind][start:stop]
        return block, [start + i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b]

    def _read_plain(self, row: int, values: np.ndarray) -> None:
        """Read the file of a row; one that is missing is zeros, as in zarr."""
        assert self.folder is not None
        path = self.folder / self.array.metadata.encode_chunk_key((row, *(0 for _ in self.shape[1:])))
        try:
            with path.open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                if size != values.nbytes or stream.readinto(values.reshape(-1).view(np.uint8)) != size:
                    raise ValueError(f"the file of slice {row} has {size} bytes, expected {values.nbytes}")
        except FileNotFoundError:
            values[...] = 0


def is_plain(array: Any) -> bool:
    """Return whether every chunk of a zarr array is a file with the values of one row, in C order and little-endian."""
    codecs = [codec.to_dict() for codec in array.metadata.codecs]
    plain = {"name": "bytes", "configuration": {"endian": "little"}}
    return codecs == [plain] and array.chunks == (1, *array.shape[1:]) and sys.byteorder == "little"


def checked_array(
    volume: str, name: str, array: Any, entry: Mapping[str, Any], metadata: bytes, folder: Path | None
) -> CheckedArray:
    """Return an array of a volume with its checks; `metadata` is the content of its `zarr.json`, `folder` its folder.

    Raises BadVolume where the metadata is not what was written, or does not fit the checksums.
    """
    if entry.get("metadata") not in (None, hashlib.sha256(metadata).hexdigest()):
        raise BadVolume(volume, f"{name}/zarr.json is damaged; {AGAIN}")
    _, rows = recorded(entry)
    if array.shape[0] != len(rows):
        raise BadVolume(volume, f"{name} has {array.shape[0]} slices, expected {len(rows)}; {AGAIN}")
    return CheckedArray(volume, name, array, entry, folder if is_plain(array) else None)


def recorded(entry: Mapping[str, Any]) -> tuple[str, list[int | str]]:
    """Return kind and values of the checksums that a volume's attributes have of an array.

    Raises ValueError where there are none.
    """
    for kind in CHECKSUMS:
        if kind in entry:
            return kind, entry[kind]
    raise ValueError(f"no checksums: expected {' or '.join(CHECKSUMS)}")


def array_digest(entry: Mapping[str, Any]) -> str:
    """Return a digest of the checksums that a volume's attributes have of an array. Raises ValueError without any."""
    return hashlib.sha256(json.dumps(recorded(entry)[1]).encode()).hexdigest()


def checksums(block: np.ndarray, kind: str = next(iter(CHECKSUMS))) -> list[int | str]:
    """Return the checksum of each row of a block: of its bytes in C order, little-endian."""
    function = CHECKSUMS[kind]
    return [function(np.ascontiguousarray(row).reshape(-1).view(np.uint8).data) for row in block]


def sealed(attributes: Mapping[str, Any]) -> bytes:
    """Return the `zarr.json` of a group with these attributes and their digest."""
    return json.dumps(_group({**attributes, "digest": _digest(attributes)}), indent=2, allow_nan=False).encode()


def read_sealed(path: str, content: bytes, new: bytes) -> dict[str, Any]:
    """Return the attributes of a group from its `zarr.json`, checked by their digest.

    Groups of older versions have none and are not checked; those with the text `new` in them must have one.

    Raises BadVolume where the file is no metadata, or not what was written.
    """
    try:
        node = json.loads(content)
        attributes = dict(node.get("attributes") or {})
    except (ValueError, TypeError, AttributeError):
        raise BadVolume(path, f"zarr.json is damaged; {AGAIN}") from None
    digest = attributes.pop("digest", None)
    has_digest = digest is not None or new in content
    if has_digest and (digest != _digest(attributes) or {**node, "attributes": attributes} != _group(attributes)):
        raise BadVolume(path, f"zarr.json is damaged; {AGAIN}")
    return attributes if node.get("node_type") == "group" else {}


def _group(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def _digest(attributes: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(attributes, sort_keys=True).encode()).hexdigest()
