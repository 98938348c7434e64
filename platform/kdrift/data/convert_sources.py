"""What to convert: sources found under folders, globs and URLs, their fingerprints, and a unique name for each."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrift.data.formats import FORMATS, find_sources, format_of, volume_name
from kdrift.data.store import normalise_location

HASH_BYTES = 64 * 2**20
"""Sources up to this size are hashed, so that a copy or a touched file is recognised; larger ones go by time."""


_PAIRED = (".cfl", ".hdr", ".img")


@dataclass(frozen=True)
class Source:
    """One volume to convert."""

    path: str
    """Absolute path or URL, as `open_volume` takes it."""
    parts: tuple[str, ...]
    """Folders and stem from which its name is made, the outermost folder first."""
    num_own: int
    """How many of the last parts always belong to the name (below the folder that was given)."""


def find_all(locations: Iterable[str]) -> list[Source]:
    """Expand files, folders, glob patterns and URLs to sources, each once, in a fixed order.

    Raises ValueError if a pattern or folder holds nothing that can be read; a missing file is left for conversion to
    name.
    """
    found: dict[str, Source] = {}
    for location in locations:
        root = normalise_location(location)
        paths = _remote_sources(root) if "://" in root else _local_sources(root)
        if not paths:
            raise ValueError(f"{location} holds no file of a known format ({', '.join(FORMATS)})")
        for path in paths:
            found.setdefault(path, _source(path, root))
    return list(found.values())


def fingerprint(path: str, with_hash: bool) -> dict[str, Any]:
    """Return path, bytes, version (modification time or remote version tag) and, where cheap, the SHA-256."""
    if "://" in path:
        from fsspec.core import url_to_fs

        filesystem, remote = url_to_fs(path.partition("#")[0])
        filesystem.invalidate_cache()
        files = filesystem.find(remote) or [remote]
        size = sum(int(filesystem.info(file)["size"] or 0) for file in files)
        version = hashlib.sha256("".join(str(filesystem.ukey(file)) for file in files).encode()).hexdigest()
        return {"path": path, "bytes": size, "version": version, "sha256": None}
    files = _files_of(path)
    stats = [os.stat(file) for file in files]
    size = sum(stat.st_size for stat in stats)
    version = str(max((stat.st_mtime_ns for stat in stats), default=0))
    digest = None
    if with_hash and 0 < size <= HASH_BYTES:
        digest = hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()
    return {"path": path, "bytes": size, "version": version, "sha256": digest}


def is_same(stored: Mapping[str, Any], path: str) -> bool:
    """Tell whether a source is what a stored volume was converted from: by size and time, else by content."""
    try:
        now = fingerprint(path, with_hash=False)
        if stored.get("bytes") != now["bytes"]:
            return False
        if stored.get("path") == path and stored.get("version") == now["version"]:
            return True
        return stored.get("sha256") is not None and fingerprint(path, with_hash=True)["sha256"] == stored["sha256"]
    except OSError:
        return False


def assign_names(sources: Sequence[Source], stored: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Give every source a safe name, unique in this run and in the store: path -> name.

    A source converted before keeps its name. Otherwise the name is the path below the folder that was given, with
    parent folders put in front where two sources would have the same, or a digest of the path as the last resort.
    """
    by_path = {str(source["path"]): name for name, source in stored.items() if "path" in source}
    names = {source.path: by_path[source.path] for source in sources if source.path in by_path}
    rest = [source for source in sources if source.path not in names]
    depth = {source.path: source.num_own for source in rest}

    def clashes(path: str) -> bool:
        name = proposed[path]
        return count[name] > 1 or (name in stored and not is_same(stored[name], path))

    while True:
        proposed = {source.path: _join(source.parts[-depth[source.path] :]) for source in rest}
        count = Counter([*proposed.values(), *names.values()])
        longer = [s.path for s in rest if depth[s.path] < len(s.parts) and clashes(s.path)]
        if not longer:
            break
        for path in longer:
            depth[path] += 1
    for path, name in proposed.items():
        names[path] = f"{name}-{hashlib.sha256(path.encode()).hexdigest()[:8]}" if clashes(path) else name
    return {source.path: names[source.path] for source in sources}


def _local_sources(root: str) -> list[str]:
    if not os.path.exists(root) and glob.has_magic(root):
        return [path for match in sorted(glob.glob(root, recursive=True)) for path in find_sources(match)]
    return find_sources(root)


def _remote_sources(root: str) -> list[str]:
    """Expand a URL: a pattern or a folder of files with known suffixes (a folder of DICOM files is one series)."""
    from fsspec.core import url_to_fs

    protocol = root.partition("://")[0]
    filesystem, remote = url_to_fs(root)
    filesystem.invalidate_cache()
    if filesystem.isfile(remote):
        return [root]
    files = filesystem.glob(remote) if glob.has_magic(remote) else filesystem.find(remote)
    found: dict[str, None] = {}
    for file in sorted(files):
        kind = format_of(file)
        if kind == "dicom":
            file = file.rpartition("/")[0]
        if kind is not None and not (kind == "bart" and file.lower().endswith(".hdr")):
            found[f"{protocol}://{file.lstrip('/')}"] = None
    return list(found)


def _source(path: str, root: str) -> Source:
    plain, _, series = path.partition("#") if not os.path.exists(path) else (path, "", "")
    stem = volume_name(plain) + (f"_{series}" if series else "")
    folders = [part for part in plain.partition("://")[2 if "://" in plain else 0].split("/") if part][:-1]
    num_own = plain[len(root) :].count("/") if plain.startswith(f"{root}/") else 1
    return Source(path, (*folders, stem), num_own)


def _files_of(path: str) -> list[str]:
    """Return the files behind a local source: itself, a BART or NIfTI pair, all files of a DICOM folder."""
    folder = path if os.path.exists(path) else path.rpartition("#")[0] or path
    if os.path.isdir(folder):
        return sorted(entry.path for entry in os.scandir(folder) if entry.is_file())
    stem = os.path.splitext(path)[0] if path.endswith(_PAIRED) else path
    pair = [f"{stem}{suffix}" for suffix in _PAIRED if os.path.exists(f"{stem}{suffix}")]
    return pair if pair and (path.endswith(_PAIRED) or not os.path.exists(path)) else [path]


def _join(parts: Iterable[str]) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", "_".join(parts)).lstrip("._-")
    return name or "volume"
