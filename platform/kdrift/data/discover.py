"""Which files are scans: one rule for folders, patterns and URLs, by content and not by name.

Every file is looked at by its first bytes. What belongs to a file system, a version control or a viewer is no scan,
and what is left out is said.
"""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdrift.data.formats import FORMATS, HEAD_BYTES, archive, format_of, recognise
from kdrift.data.formats.dicom import list_series
from kdrift.data.paths import (
    STORE_FILES,
    Tree,
    beginnings,
    halves,
    is_housekeeping,
    is_unfinished,
    second_halves,
    split_series,
)
from kdrift.data.volume import BadVolume

DICOM_HEADER_BYTES = 256 << 10
"""So much of a remote DICOM file is fetched to tell its series."""
_SHOWN = 3


@dataclass
class LeftOut:
    """What was left out and why, to be said in one line."""

    names: dict[str, list[str]] = field(default_factory=dict)
    """Names by reason."""

    def add(self, reason: str, name: str) -> None:
        """Take note of one file or folder."""
        self.names.setdefault(reason, []).append(name)

    def sentence(self) -> str:
        """Return counts by reason with the first few names; empty where nothing was left out."""
        parts = []
        for reason, names in self.names.items():
            shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            parts.append(f"{len(names)} {reason} ({shown})")
        return f"left out: {'; '.join(parts)}" if parts else ""


@dataclass(frozen=True)
class Found:
    """The scans at one place."""

    root: str
    """The file, folder, pattern or URL that was given."""
    sources: tuple[str, ...]
    """What `open_volume` opens, in a fixed order."""
    left_out: str
    """One sentence on what is no scan; empty where nothing was left out."""
    series: Mapping[str, str] = field(default_factory=dict)
    """SeriesInstanceUID of the sources that are DICOM, where it is stated."""


def find_sources(location: str | os.PathLike[str]) -> list[str]:
    """Return what `open_volume` opens at a path, pattern or URL: `find_scans` without its words."""
    return list(find_scans(location).sources)


def find_scans(location: str | os.PathLike[str]) -> Found:
    """Find the scans at a local path, a glob pattern or a URL.

    A file that is named is taken as it is. Below a folder every file is looked at: a DICOM series, a pair of files and
    any other file of a known format is one scan; a file with the suffix of a format and other content is one too, so
    that opening it says what is wrong. Hidden files and folders, those of file systems and viewers, and stores are left
    out. Links are followed inside of the folder (and to the annexed content of the repository that it lies in), and
    each file is found once. A name that exists is no pattern, whatever characters it has.
    """
    root = os.fspath(location)
    if "://" in root:
        return _find_remote(root)
    left_out = LeftOut()
    if os.path.isdir(root):
        found = _below(root, left_out)
    elif _is_named(root) or not glob.has_magic(root):
        found = {root: ""}
    else:
        matches = [match for match in sorted(glob.glob(_pattern(root), recursive=True)) if not _hidden(match, root)]
        folders = [match for match in matches if os.path.isdir(match)]
        files = [match for match in matches if not os.path.isdir(match)]
        found = _scans(files, left_out, _Local(), os.path.dirname(root))
        for folder in folders:
            found |= _below(folder, left_out)
    return _found(root, found, left_out)


def _find_remote(root: str) -> Found:
    from fsspec.core import url_to_fs

    protocol = root.partition("://")[0]
    filesystem, remote = url_to_fs(root)
    filesystem.invalidate_cache()
    left_out = LeftOut()
    folder, series = split_series(remote, filesystem.exists)
    if filesystem.isfile(remote) or (series is not None and filesystem.isdir(folder)):
        return Found(root, (root,), "")
    if filesystem.isdir(remote) or not glob.has_magic(remote):
        base, files = remote, filesystem.find(remote)
    else:
        base, files = remote.partition("*")[0].rpartition("/")[0], []
        for match, info in filesystem.glob(remote, detail=True).items():
            files += filesystem.find(match) if info["type"] == "directory" else [match]
    stores = {file.rpartition("/")[0] for file in files if file.rpartition("/")[2] in STORE_FILES}
    wanted = []
    for file in sorted(files):
        below = file[len(base) :].lstrip("/")
        if any(file.startswith(f"{store}/") for store in stores):
            continue
        if any(is_housekeeping(part) for part in below.split("/")):
            left_out.add("hidden", below)
        else:
            wanted.append(file)
    for store in sorted(stores):
        if not any(store.startswith(f"{other}/") for other in stores):
            left_out.add("zarr folders", store[len(base) :].lstrip("/") or store)
    scans = _scans(wanted, left_out, _Remote(filesystem), base)
    shown = {source if "://" in source else f"{protocol}://{source.lstrip('/')}": uid for source, uid in scans.items()}
    return _found(root, shown, left_out)


def _found(root: str, scans: Mapping[str, str], left_out: LeftOut) -> Found:
    return Found(root, tuple(scans), left_out.sentence(), {source: uid for source, uid in scans.items() if uid})


def _below(root: str, left_out: LeftOut) -> dict[str, str]:
    tree = Tree(root, left_out.add)
    return _scans(list(tree.files()), left_out, _Local(), root, {os.path.dirname(link) for link in tree.left})


class _Local:
    """Reads the beginnings of local files."""

    def heads(self, files: Sequence[str]) -> Iterator[bytes | None]:
        """Yield the first bytes of each file, None where it cannot be read."""
        for file in files:
            try:
                with open(file, "rb") as stream:
                    yield stream.read(HEAD_BYTES)
            except OSError:
                yield None

    def series(self, folder: str, files: Sequence[str]) -> Iterable[str]:
        """Return the DICOM series of a folder."""
        return list_series(folder)

    def exists(self, path: str) -> bool:
        """Return whether there is something of this name."""
        return os.path.exists(path)


class _Remote:
    """Reads the beginnings of files of an fsspec file system."""

    def __init__(self, filesystem: Any) -> None:
        self.filesystem = filesystem

    def heads(self, files: Sequence[str]) -> Iterator[bytes | None]:
        """Yield the first bytes of each file, None where it cannot be read."""
        for first in range(0, len(files), 256):
            yield from beginnings(self.filesystem, files[first : first + 256], HEAD_BYTES)

    def series(self, folder: str, files: Sequence[str]) -> Iterable[str]:
        """Return the DICOM series of a folder, from the beginnings of its files."""
        with tempfile.TemporaryDirectory(prefix="kdrift-") as copies:
            for number, file in enumerate(files):
                with open(os.path.join(copies, f"{number:06d}"), "wb") as stream:
                    stream.writelines(beginnings(self.filesystem, [file], DICOM_HEADER_BYTES))
            return list_series(copies)

    def exists(self, path: str) -> bool:
        """Return whether there is something of this name."""
        return bool(self.filesystem.exists(path))


def _scans(
    files: Sequence[str], left_out: LeftOut, reader: _Local | _Remote, root: str, unfollowed: Iterable[str] = ()
) -> dict[str, str]:
    """Return the scans among files with the UID of their series, empty for those that are no DICOM or state none.

    Those of a folder stand together; `unfollowed` are folders with links out of the tree.
    """
    kinds: dict[str, dict[str, str | None]] = {}
    words: dict[str, dict[str, str]] = {}
    for file, head in zip(files, reader.heads(files), strict=True):
        folder, _, name = file.rpartition("/")
        kind = (recognise(head) if head else None) or format_of(name)
        if head == b"" and kind == "dicom":
            kind = None  # one that is empty does not make its folder a series
        kinds.setdefault(folder, {})[name] = kind
        if head == b"" or (head and (what := archive(head)) is not None):
            words.setdefault(folder, {})[name] = "empty" if not head else f"archives ({what}), which are not unpacked"
    found: dict[str, str] = {}
    for folder, members in sorted(kinds.items()):
        packed = words.get(folder, {})
        place = folder + "/" if folder or files[0].startswith("/") else ""

        def shown(name: str, place: str = place) -> str:
            return f"{place}{name}"[len(root) :].lstrip("/") if root else f"{place}{name}"

        images = [name for name, kind in members.items() if kind == "dicom"]
        if images and folder in unfollowed:
            left_out.add("DICOM folders with links out of the tree", shown("").rstrip("/") or folder)
        elif images:
            series = _series(folder, [f"{place}{name}" for name in images], reader)
            if not series:
                left_out.add("DICOM without images", shown("").rstrip("/") or folder)
            found |= series
        seconds = second_halves(members)
        for name, kind in members.items():
            if kind == "dicom" or name in seconds:
                continue
            if kind is None:
                left_out.add(packed.get(name) or "of no known format", shown(name))
            elif is_unfinished(name):
                left_out.add("unfinished or older copies by their names", shown(name))
            else:
                found[f"{place}{name}"] = ""
    return found


def _series(folder: str, files: Sequence[str], reader: _Local | _Remote) -> dict[str, str]:
    """Return the sources of a folder that has DICOM files with the UIDs of their series: itself, or each of these."""
    try:
        series = list(reader.series(folder, files))
    except BadVolume:  # opening the folder names the file
        return {folder: ""}
    if len(series) < 2:
        return {folder: series[0]} if series else {}
    names = {f"{folder}#{uid}": uid for uid in series}
    # a file may have that very name
    return {f"{folder}/#{uid}" if reader.exists(name) else name: uid for name, uid in names.items()}


def _is_named(path: str) -> bool:
    """Return whether a text is the name of something: a file, a series of a folder, the stem of a pair."""
    return any(map(os.path.exists, (path, split_series(path)[0], *halves(path, FORMATS["bart"].suffixes))))


def _pattern(root: str) -> str:
    """Return a pattern whose leading folders, where they exist, are taken by their names."""
    head, tail = root, ""
    while head and not os.path.isdir(head):
        head, _, part = head.rpartition("/")
        tail = f"/{part}{tail}"
        if not head:
            return tail if root.startswith("/") else tail[1:]
    return glob.escape(head) + tail


def _hidden(path: str, pattern: str) -> bool:
    """Return whether a match lies in what is hidden and not named by the pattern; glob knows names with a dot."""
    named = {"", *pattern.split("/")}
    return any(is_housekeeping(part) and part[:1] != "." and part not in named for part in path.split("/"))
