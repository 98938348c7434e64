"""The kdrift store: one zarr v3 group a volume, schema `kdrift-store` version 2 (docs/store.md).

A store is a folder or an fsspec URL (`s3://...`). A volume is listed only when it is complete, so a killed
writer never leaves a half volume that reads as whole. Writing is in `store_write`, what is checked in `store_check`.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import fsspec
import numpy as np
import zarr

from kdrift.data.geometry import from_dict
from kdrift.data.store_check import AGAIN, CHECKSUMS, CheckedArray, checked_array, read_sealed, sealed
from kdrift.data.volume import BadVolume, Loader, ReadOptions, Volume, VolumeInfo, naming

SCHEMA = "kdrift-store"
VERSION = 2
READABLE = (1, VERSION)
"""Version 1 has no digest of attributes, and CRC-32 as checksums."""
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

    def list_volumes(self, on_damage: Callable[[BadVolume], None] | None = None) -> list[str]:
        """Return the names of all complete volumes, sorted; a damaged one goes to `on_damage`, or raises BadVolume."""
        names = []
        for name in self._folders():
            try:
                names += [name] if self._complete(name) is not None else []
            except BadVolume as error:
                if on_damage is None:
                    raise
                on_damage(error)
        return names

    def root_attributes(self) -> dict[str, Any]:
        """Return the attributes of the store itself: schema and version."""
        return self._attributes("") or {}

    def attributes(self, name: str) -> dict[str, Any]:
        """Return the attributes of a complete volume: kind, info, source, arrays with their checksums.

        Raises ValueError where there is none of this name, BadVolume where they are damaged.
        """
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
            arrays = dict(attributes["arrays"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadVolume(f"{self.location}/{name}", f"attributes are not of {SCHEMA} {VERSION}: {error}") from None

        @functools.cache
        def open_array(array_name: str) -> CheckedArray:
            return self.checked_array(name, array_name, arrays[array_name])

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
            load_calibration=loader("calibration"),
            how=_how(attributes),
            known_finite=True,
            attributes=attributes,
            open_array=open_array,
        )

    def verify(self, name: str | None = None) -> list[str]:
        """Check every slice; return one sentence a fault, an empty list if all is well."""
        faults: list[str] = []

        def note(error: BadVolume) -> None:
            faults.append(str(error))

        for volume_name in [name] if name is not None else self.list_volumes(note):
            for array_name, entry in self.attributes(volume_name)["arrays"].items():
                try:
                    array = self.checked_array(volume_name, array_name, entry)
                    bad = [row for i in range(array.shape[0]) for row in array.read(i, i + 1)[1]]
                except BadVolume as error:
                    note(error)
                    continue
                if bad:
                    where = f"{self.location}/{volume_name}/{array_name}"
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
        """Open one zarr array of a volume; what is read of it is not checked."""
        return zarr.open_array(self.zarr_store(read_only=True), path=f"{name}/{array_name}", mode="r")

    def checked_array(self, name: str, array_name: str, entry: dict[str, Any]) -> CheckedArray:
        """Open one array of a volume by what its attributes say of it; what is read of it is checked."""
        volume = f"{self.location}/{name}"
        with naming(volume, f"{array_name} is damaged or missing"):
            array = self.array(name, array_name)
            metadata = self.read_bytes(f"{name}/{array_name}/zarr.json")
            folder = Path(self._root, name, array_name) if self.is_local else None
            return checked_array(volume, array_name, array, entry, metadata, folder)

    def read_bytes(self, path: str) -> bytes:
        """Return the content of a file of the store."""
        content: bytes = self._files.cat_file(f"{self._root}/{path}")
        return content

    def write_group(self, path: str, attributes: Mapping[str, Any]) -> None:
        """Write the metadata of a group with the digest of its attributes; "" is the store itself."""
        self._files.pipe_file(f"{self._root}/{path}/zarr.json".replace("//zarr", "/zarr"), sealed(attributes))

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
                if not self._files.exists(self._root):
                    raise ValueError(f"there is no store at {self.location}: kdrift convert makes one")
                raise ValueError(f"{self.location} is not a kdrift store: it has no zarr.json of a group")
            if self._folders():
                raise ValueError(f"{self.location} exists and is not a kdrift store; choose another folder")
            attributes = {"schema": SCHEMA, "version": VERSION}
            self._files.makedirs(self._root, exist_ok=True)
            self.write_group("", attributes)
        if attributes.get("schema") != SCHEMA:
            raise ValueError(
                f"{self.location} is a zarr group but not a {SCHEMA} (schema {attributes.get('schema')!r})"
            )
        if attributes.get("version") not in READABLE:
            found, known = attributes.get("version"), " and ".join(map(str, READABLE))
            raise ValueError(f"{self.location} has {SCHEMA} version {found!r}, this kdrift reads versions {known}")

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
        """Return the attributes of a volume, or of the store itself (""); None where there is no group.

        Raises BadVolume where its metadata is damaged, or is missing of a volume on disk, which appears as a whole.
        """
        where = f"{self.location}/{name}".rstrip("/")
        try:
            content = self.read_bytes(f"{name}/zarr.json" if name else "zarr.json")
        except (FileNotFoundError, NotADirectoryError):
            if name and self.is_local and any(Path(self._root, name).glob("*/zarr.json")):
                raise BadVolume(where, f"zarr.json is missing; {AGAIN}") from None
            return None
        new = f'"{next(iter(CHECKSUMS))}"' if name else f'"version": {VERSION}'
        return read_sealed(where, content, new.encode())


@dataclass(kw_only=True)
class StoredVolume(Volume):
    """One volume of a store: a `Volume` like any file, with the arrays that the conversion computed."""

    attributes: dict[str, Any]
    open_array: Callable[[str], CheckedArray]
    """Open an array by its name; what is read of it is checked."""

    @property
    def array_names(self) -> list[str]:
        """Names of the arrays that this volume holds."""
        return list(self.attributes["arrays"])

    @property
    def is_truth_stored(self) -> bool:
        """Whether the source came with a reference: a target that the conversion computed says no more than k-space."""
        return super().is_truth_stored and "target" not in self.attributes.get("derived", ())

    def read_smaps(self, start: int, stop: int) -> np.ndarray:
        """Return complex64 coil maps (slice, coil, row, col).

        Raises ValueError if the conversion was not asked to compute them.
        """
        if "smaps" not in self.array_names:
            held = ", ".join(self.array_names)
            raise ValueError(f"{self.path} has no coil maps, it has {held}; convert with --smaps")
        return self.open_array("smaps")[start:stop]


def open_store(location: str | Path, mode: Mode = "r", storage_options: dict[str, Any] | None = None) -> Store:
    """Open a store: mode `r` reads an existing one, `a` also writes and creates it if absent.

    Raises ValueError if there is no store at `location`, or one of another schema or version.
    """
    if mode not in ("r", "a"):
        raise ValueError(f"mode is {mode!r}, expected 'r' or 'a'")
    return Store(str(location), mode, storage_options)


def find_store(location: str | Path) -> Store | None:
    """Open the store at a path or URL for reading, None where there is none; raise BadVolume for a damaged one."""
    try:
        return open_store(location)
    except BadVolume:
        raise
    except (ValueError, OSError):
        return None


def find_stored_volume(location: str | Path) -> StoredVolume | None:
    """Open `STORE/volume`, or the only volume of `STORE`; None where the path lies in no store.

    Raises ValueError for a store of several volumes or without this one, BadVolume for a damaged one.
    """
    text = normalise_location(str(location))
    if (store := find_store(text)) is not None:
        names = store.list_volumes()
        if len(names) != 1:
            listed = ", ".join(names[:8]) or "none"
            raise ValueError(f"{text} holds {len(names)} volumes ({listed}); name one as {text}/NAME")
        return store.read_volume(names[0])
    parent, _, name = text.rpartition("/")
    store = find_store(parent) if parent else None
    return None if store is None else store.read_volume(name)


def open_stored_volume(location: str | Path) -> StoredVolume:
    """Open a volume as `find_stored_volume` does; raise ValueError where the path lies in no store."""
    volume = find_stored_volume(location)
    if volume is None:
        raise ValueError(f"{normalise_location(str(location))} is neither a kdrift store nor a volume in one")
    return volume


def _how(attributes: Mapping[str, Any]) -> ReadOptions:
    """Return what was said of axes and centring when a volume was converted; its arrays have the usual order."""
    said = attributes.get("source", {}).get("how") or {}
    axes = said.get("axes")
    return ReadOptions(axes=None if axes is None else tuple(axes), centred=said.get("centred"))


def _info(values: dict[str, Any]) -> VolumeInfo:
    stated = values.get("geometry")
    geometry = from_dict(stated) if stated is not None else None
    return VolumeInfo(**{**values, "geometry": geometry, "notes": tuple(values.get("notes", ()))})


def normalise_location(location: str) -> str:
    """Return a URL without trailing slash, or an absolute local path (`file://` is local)."""
    if location.startswith("file://"):
        location = location[len("file://") :]
    return location.rstrip("/") if "://" in location else os.path.abspath(location)
