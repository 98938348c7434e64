"""The kdrift store: one zarr v3 group a volume, schema `kdrift-store` version 1 (docs/store.md).

A store is a folder or an fsspec URL (`s3://...`). A volume is listed only when it is complete, so a killed
writer never leaves a half volume that reads as whole. Writing is in `store_write`.
"""

from __future__ import annotations

import functools
import json
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import fsspec
import numpy as np
import zarr

from kdrift.data.geometry import from_dict
from kdrift.data.volume import Loader, Volume, VolumeInfo

SCHEMA = "kdrift-store"
VERSION = 1
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
Mode = Literal["r", "a"]


class Store:
    """An open store. `close` it, or use it as a context manager; it pickles by its address."""

    def __init__(self, location: str, mode: Mode, storage_options: dict[str, Any] | None = None) -> None:
        self.location = normalise_location(location)
        self.mode, self.storage_options = mode, storage_options
        self.is_local = "://" not in self.location
        self._files: Any = fsspec.filesystem("file")
        self._root: str = self.location
        if not self.is_local:
            self._files, self._root = fsspec.core.url_to_fs(self.location, **(storage_options or {}))
        self._open_root()

    def list_volumes(self) -> list[str]:
        """Return the names of all complete volumes, sorted."""
        return [name for name in self._folders() if self._complete(name) is not None]

    def root_attributes(self) -> dict[str, Any]:
        """Return the attributes of the store itself: schema and version."""
        return self._attributes("") or {}

    def attributes(self, name: str) -> dict[str, Any]:
        """Return the attributes of a complete volume: kind, info, source, arrays with their checksums."""
        attributes = self._complete(name) if SAFE_NAME.match(name) else None
        if attributes is None:
            names = self.list_volumes()
            known = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            held = f"it has {known}" if names else "it is empty"
            raise ValueError(f"{self.location} has no complete volume {name!r}; {held}")
        return attributes

    def read_volume(self, name: str) -> StoredVolume:
        """Open one complete volume for reading; nothing but its attributes is read yet."""
        attributes = self.attributes(name)
        try:
            info = _info(attributes["info"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self.location}/{name}: attributes are not of {SCHEMA} {VERSION}: {error}") from None
        arrays = attributes["arrays"]

        @functools.cache
        def open_array(array_name: str) -> Any:
            return self.array(name, array_name)

        def loader(array_name: str) -> Loader | None:
            return (lambda start, stop: open_array(array_name)[start:stop]) if array_name in arrays else None

        return StoredVolume(
            path=f"{self.location}/{name}",
            info=info,
            load_kspace=loader("kspace"),
            load_image=loader("image" if info.kind == "image" else "target"),
            load_complex_image=loader("complex_image"),
            load_mask=lambda: open_array("mask")[...] if "mask" in arrays else None,
            load_noise_cov=lambda: open_array("noise_cov")[...] if "noise_cov" in arrays else None,
            attributes=attributes,
            open_array=open_array,
        )

    def verify(self, name: str | None = None) -> list[str]:
        """Recompute the checksum of every slice; return one sentence a fault, an empty list if all is well."""
        faults: list[str] = []
        for volume_name in [name] if name is not None else self.list_volumes():
            for array_name, entry in self.attributes(volume_name)["arrays"].items():
                where = f"{self.location}/{volume_name}/{array_name}"
                try:
                    array = self.array(volume_name, array_name)
                    stored = [crc32(array[i]) for i in range(array.shape[0])]
                except Exception as error:  # a broken chunk may raise anything in the codecs
                    faults.append(f"{where}: cannot be read: {type(error).__name__}: {error}")
                    continue
                if len(stored) != len(entry["crc32"]):
                    faults.append(f"{where}: has {len(stored)} rows, expected {len(entry['crc32'])}")
                bad = [i for i, (a, b) in enumerate(zip(stored, entry["crc32"], strict=False)) if a != b]
                if bad:
                    faults.append(f"{where}: checksum differs in row {', '.join(map(str, bad))}")
        return faults

    def delete(self, name: str) -> None:
        """Remove a volume; its group's metadata goes first, so that a killed delete leaves nothing readable."""
        if self.mode == "r":
            raise ValueError(f"{self.location} is open for reading; open it with mode 'a' to delete {name!r}")
        for path in (f"{self._root}/{name}/zarr.json", f"{self._root}/{name}"):
            if self._files.exists(path):
                self._files.rm(path, recursive=True)
        self._files.invalidate_cache()

    def array(self, name: str, array_name: str) -> Any:
        """Open one zarr array of a volume."""
        return zarr.open_array(self.zarr_store(read_only=True), path=f"{name}/{array_name}", mode="r")

    def zarr_store(self, read_only: bool) -> Any:
        """Return the zarr store object behind this store (zarr keeps an event loop: never fork after it)."""
        if self.is_local:
            return zarr.storage.LocalStore(self._root, read_only=read_only)
        return zarr.storage.FsspecStore.from_url(
            self.location, storage_options=self.storage_options, read_only=read_only
        )

    def close(self) -> None:
        """Do nothing: no file stays open between calls; it is there so that stores and volumes are used alike."""

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return (Store, (self.location, self.mode, self.storage_options))

    def _open_root(self) -> None:
        attributes = self._attributes("")
        if attributes is None:
            if self.mode == "r":
                raise ValueError(f"{self.location} is not a kdrift store: it has no zarr.json of a group")
            if self._folders():
                raise ValueError(f"{self.location} exists and is not a kdrift store; choose another folder")
            attributes = {"schema": SCHEMA, "version": VERSION}
            zarr.create_group(self.zarr_store(read_only=False), zarr_format=3, attributes=attributes)
        if attributes.get("schema") != SCHEMA:
            raise ValueError(
                f"{self.location} is a zarr group but not a {SCHEMA} (schema {attributes.get('schema')!r})"
            )
        if attributes.get("version") != VERSION:
            found = attributes.get("version")
            raise ValueError(f"{self.location} has {SCHEMA} version {found!r}, this kdrift reads version {VERSION}")

    def _folders(self) -> list[str]:
        self._files.invalidate_cache()
        try:
            paths = self._files.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        names = [path.rstrip("/").rpartition("/")[2] for path in paths if not self.is_local or os.path.isdir(path)]
        return sorted(name for name in names if SAFE_NAME.match(name) and name != "zarr.json")

    def _complete(self, name: str) -> dict[str, Any] | None:
        attributes = self._attributes(name) or {}
        return attributes if attributes.get("complete") is True else None

    def _attributes(self, name: str) -> dict[str, Any] | None:
        path = f"{self._root}/{name}/zarr.json" if name else f"{self._root}/zarr.json"
        try:
            node = json.loads(self._files.cat_file(path))
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        if not isinstance(node, dict) or node.get("node_type") != "group":
            return None
        return node.get("attributes") or {}


@dataclass(kw_only=True)
class StoredVolume(Volume):
    """One volume of a store: a `Volume` like any file, with the arrays that the conversion computed."""

    attributes: dict[str, Any]
    open_array: Callable[[str], Any]

    @property
    def array_names(self) -> list[str]:
        """Names of the arrays that this volume holds."""
        return list(self.attributes["arrays"])

    def read_smaps(self, start: int, stop: int) -> np.ndarray:
        """Return complex64 coil maps (slice, coil, row, col).

        Raises ValueError if the conversion was not asked to compute them.
        """
        if "smaps" not in self.array_names:
            held = ", ".join(self.array_names)
            raise ValueError(f"{self.path} has no coil maps, it has {held}; convert with --smaps")
        return np.asarray(self.open_array("smaps")[start:stop])


def open_store(location: str | Path, mode: Mode = "r", storage_options: dict[str, Any] | None = None) -> Store:
    """Open a store: mode `r` reads an existing one, `a` also writes and creates it if absent.

    Raises ValueError if there is no store at `location`, or one of another schema or version.
    """
    if mode not in ("r", "a"):
        raise ValueError(f"mode is {mode!r}, expected 'r' or 'a'")
    return Store(str(location), mode, storage_options)


def is_store(location: str | Path) -> bool:
    """Tell whether a kdrift store lies at a path or URL."""
    try:
        Store(str(location), "r")
    except (ValueError, OSError):
        return False
    return True


def open_stored_volume(location: str | Path) -> StoredVolume:
    """Open `STORE/volume`, or the only volume of `STORE`, as a reconstruction input.

    Raises ValueError if the path names no volume of a store, or a store of several volumes.
    """
    text = normalise_location(str(location))
    parent, _, name = text.rpartition("/")
    if is_store(text):
        store = open_store(text)
        names = store.list_volumes()
        if len(names) != 1:
            listed = ", ".join(names[:8]) or "none"
            raise ValueError(f"{text} holds {len(names)} volumes ({listed}); name one as {text}/NAME")
        return store.read_volume(names[0])
    if parent and is_store(parent):
        return open_store(parent).read_volume(name)
    raise ValueError(f"{text} is neither a kdrift store nor a volume in one")


def _info(values: dict[str, Any]) -> VolumeInfo:
    stated = values.get("geometry")
    geometry = from_dict(stated) if stated is not None else None
    return VolumeInfo(**{**values, "geometry": geometry, "notes": tuple(values.get("notes", ()))})


def normalise_location(location: str) -> str:
    """Return a URL without trailing slash, or an absolute local path (`file://` is local)."""
    if location.startswith("file://"):
        location = location[len("file://") :]
    return location.rstrip("/") if "://" in location else os.path.abspath(location)


def crc32(values: Any) -> int:
    """Return the CRC-32 of an array's little-endian bytes in C order."""
    array = np.ascontiguousarray(values)
    return zlib.crc32(array.reshape(-1).view(np.uint8).data)
