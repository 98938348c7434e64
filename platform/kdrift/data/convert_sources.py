"""What to convert: the scans that are found, their fingerprints, and a unique name for each."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrift.data.discover import find_scans
from kdrift.data.formats import FORMATS, volume_name
from kdrift.data.paths import STORE_FILES, files_of, split_series
from kdrift.data.same_scans import same_content, same_series
from kdrift.data.store import normalise_location

HASH_BYTES = 64 * 2**20
"""Sources up to this size are hashed, so that a copy or a touched file is recognised; larger ones go by time."""

LONGEST_NAME = 160
"""Longer names are cut and told apart by a digest: file systems take 255 bytes, of which the store needs some."""


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


def find_all(locations: Iterable[str], say: Callable[[str], None] | None = None) -> list[Source]:
    """Expand files, folders, glob patterns and URLs to sources, each once, in a fixed order.

    `say` gets a sentence on what was left out at each place and why, on files that are the same, and on a DICOM series
    that lies in several folders.

    Raises ValueError if a pattern or folder holds nothing that can be read; a missing file is left for conversion to
    name.
    """
    sources: dict[str, Source] = {}
    series: dict[str, str] = {}
    for location in locations:
        found = find_scans(normalise_location(location))
        left_out = f"; {found.left_out}" if found.left_out else ""
        if not found.sources:
            raise ValueError(f"{location} holds no file of a known format ({', '.join(FORMATS)}){left_out}")
        for path in found.sources:
            sources.setdefault(path, _source(path, found.root))
        series |= found.series
        if left_out and say is not None:
            say(f"{location}: {found.left_out}")
    if say is not None:
        for sentence in (*same_series(series), *same_content(list(sources))):
            say(sentence)
    return list(sources.values())


def fingerprint(path: str, with_hash: bool) -> dict[str, Any]:
    """Return path, bytes, version (modification time or remote version tag) and, where cheap, the SHA-256."""
    if "://" in path:
        from fsspec.core import url_to_fs

        filesystem, remote = url_to_fs(path)
        filesystem.invalidate_cache()
        remote, _ = split_series(remote, filesystem.exists)
        files = filesystem.find(remote) or [remote]
        size = sum(int(filesystem.info(file)["size"] or 0) for file in files)
        version = hashlib.sha256("".join(str(filesystem.ukey(file)) for file in files).encode()).hexdigest()
        return {"path": path, "bytes": size, "version": version, "sha256": None}
    files = files_of(path)
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
    """Give every source a safe name, unique in this run and in the store, in capitals or not: path -> name.

    A source converted before keeps its name. Otherwise the name is the path below the folder that was given, with
    parent folders put in front where two sources would have the same, or a digest of the path as the last resort.
    """
    by_path = {str(source["path"]): name for name, source in stored.items() if "path" in source}
    taken = {name.lower(): name for name in stored}
    names = {source.path: by_path[source.path] for source in sources if source.path in by_path}
    rest = [source for source in sources if source.path not in names]
    depth = {source.path: source.num_own for source in rest}

    def clashes(path: str) -> bool:
        name = proposed[path].lower()
        return count[name] > 1 or (name in taken and not is_same(stored[taken[name]], path))

    while True:
        proposed = {source.path: _join(source.parts[-depth[source.path] :]) for source in rest}
        count = Counter(name.lower() for name in (*proposed.values(), *names.values()))
        longer = [s.path for s in rest if depth[s.path] < len(s.parts) and clashes(s.path)]
        if not longer:
            break
        for path in longer:
            depth[path] += 1
    for path, name in proposed.items():
        if clashes(path) or len(name) > LONGEST_NAME or name.lower() in STORE_FILES:
            name = f"{name[:LONGEST_NAME]}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
        names[path] = name
    return {source.path: names[source.path] for source in sources}


def _source(path: str, root: str) -> Source:
    plain, series = split_series(path, _exists)
    stem = volume_name(plain) + (f"_{series}" if series else "")
    folders = [part for part in plain.partition("://")[2 if "://" in plain else 0].split("/") if part][:-1]
    num_own = plain[len(root) :].count("/") if plain.startswith(f"{root}/") else 1
    return Source(path, (*folders, stem), num_own)


def _exists(path: str) -> bool:
    if "://" not in path:
        return os.path.exists(path)
    from fsspec.core import url_to_fs

    filesystem, remote = url_to_fs(path)
    return bool(filesystem.exists(remote))


def _join(parts: Iterable[str]) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", "_".join(parts)).lstrip("._-")
    return name or "volume"
