"""Names and places of files: halves of a pair, series of a folder, what is hidden, which links are followed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

_HOUSEKEEPING = frozenset((
    "__macosx", "lost+found", "thumbs.db", "desktop.ini", "dicomdir", "$recycle.bin", "system volume information",
    "@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot", "~snapshot",
))  # fmt: skip
_UNFINISHED = (
    ".part",
    ".partial",
    ".filepart",
    ".crdownload",
    ".download",
    ".aria2",
    ".tmp",
    ".temp",
    ".bak",
    ".orig",
    "~",
)
STORE_FILES = ("zarr.json", ".zgroup", ".zarray")
PAIRS = {
    ".cfl": (".hdr",),
    ".hdr": (".cfl", ".img", ".img.gz"),
    ".hdr.gz": (".img.gz", ".img"),
    ".img": (".hdr", ".hdr.gz"),
    ".img.gz": (".hdr.gz", ".hdr"),
}
"""Suffixes of files that are halves of one volume, and of what their other halves can be."""


def split_series(path: str, exists: Callable[[str], bool] = os.path.exists) -> tuple[str, str | None]:
    """Return the folder and the series of `folder#series` or `folder/#series`; a path that exists is all path."""
    if "#" not in path or exists(path):
        return path, None
    folder, _, series = path.rpartition("#")
    return folder.rstrip("/") or folder, series


def files_of(path: str) -> list[str]:
    """Return the files behind a local source: itself, both halves of a pair, all files of a DICOM folder."""
    folder, _ = split_series(path)
    if os.path.isdir(folder):
        names = sorted(name for name in os.listdir(folder) if not is_housekeeping(name))
        return [file for name in names if os.path.isfile(file := os.path.join(folder, name))]
    if others := other_halves(path):
        return [path, *filter(os.path.exists, others)]
    if not os.path.exists(path) and (pair := list(filter(os.path.exists, halves(path, PAIRS)))):
        return pair
    return [path]


def split_suffix(path: str) -> tuple[str, str]:
    """Split `x.img.gz` into `x` and `.img.gz`, the suffix in lower case."""
    stem, suffix = os.path.splitext(path)
    if suffix.lower() == ".gz":
        stem, inner = os.path.splitext(stem)
        suffix = inner + suffix
    return stem, suffix.lower()


def other_halves(path: str) -> list[str]:
    """Return the names that the other half of a pair can have; none where a file is whole."""
    stem, suffix = split_suffix(path)
    return halves(stem, PAIRS.get(suffix, ()))


def halves(stem: str, suffixes: Iterable[str]) -> list[str]:
    """Return the names that files of these suffixes can have beside each other, in lower and in upper case."""
    return [f"{stem}{each}" for suffix in suffixes for each in (suffix, suffix.upper())]


def second_halves(members: dict[str, str | None]) -> set[str]:
    """Return the files of a folder, by name and kind, that belong to others.

    They are the header of a BART pair, the data of a NIfTI pair, the .mat that SPM writes beside an image, and the mask
    beside CMRxRecon's k-space.
    """
    stems: dict[str, dict[str, str | None]] = {}
    for name, kind in members.items():
        stem, suffix = split_suffix(name)
        stems.setdefault(stem, {})[suffix] = kind
    found = set()
    for name, kind in members.items():
        stem, suffix = split_suffix(name)
        others = stems[stem]
        if suffix == ".mat":
            beside_image = not others.keys().isdisjoint({".img", ".hdr", ".nii"})
            second = beside_image or (stem.endswith("_mask") and f"{stem.removesuffix('_mask')}.mat" in members)
        elif suffix == ".hdr":
            second = kind == "bart" and ".cfl" in others
        else:
            second = suffix in (".img", ".img.gz") and "nifti" in (others.get(".hdr"), others.get(".hdr.gz"))
        if second:
            found.add(name)
    return found


def beginnings(filesystem: Any, paths: Sequence[str], stop: int) -> list[bytes]:
    """Return the first `stop` bytes of files of an fsspec file system, nothing of one that cannot be read."""
    found = filesystem.cat_ranges(list(paths), [0] * len(paths), [stop] * len(paths), on_error="return")
    for number, path in enumerate(paths):
        if not isinstance(found[number], bytes):  # some servers refuse a range that is longer than the file
            try:
                found[number] = filesystem.cat_file(path) if filesystem.size(path) <= stop else b""
            except OSError:
                found[number] = b""
    return list(found)


def is_housekeeping(name: str) -> bool:
    """Return whether a name is hidden or belongs to a file system, a version control or a viewer, not to a scan."""
    return name.startswith(".") or name.lower() in _HOUSEKEEPING


def is_unfinished(name: str) -> bool:
    """Return whether a name is that of a download that goes on, or of a copy that an editor left."""
    return name.lower().endswith(_UNFINISHED)


def leads_out(path: str, roots: Iterable[str]) -> bool:
    """Return whether a path, its links resolved, lies in none of the folders."""
    real = os.path.realpath(path)
    return not any(real == root or real.startswith(f"{root.rstrip('/')}/") for root in map(os.path.realpath, roots))


def link_out(path: str, roots: Sequence[str]) -> str | None:
    """Return a file that opening `path` would read though it lies in none of the folders `roots`, links resolved.

    Looked at are the path, its other half, and what is in it: of a folder its files, of a volume of a store all.
    """
    behind = [path, *files_of(path)]
    if os.path.isdir(path):
        behind += [entry.path for entry in os.scandir(path)]
    if any(os.path.exists(os.path.join(path, name)) for name in STORE_FILES):
        behind += [os.path.join(folder, name) for folder, below, names in os.walk(path) for name in (*below, *names)]
    return next((file for file in behind if leads_out(file, roots)), None)


class Tree:
    """The files below a folder, each once, by the names that they have there.

    Hidden names and stores are left out. Links are followed last, so that a file which is reached in two ways has its
    own name, and only to what lies in the folder or in the annex of the repository around it.
    """

    def __init__(self, root: str, leave_out: Callable[[str, str], None]) -> None:
        self.root = root.rstrip("/") or "/"
        self.left: list[str] = []
        """Links that lead out of the tree."""
        self._leave_out = leave_out
        self._seen: set[str] = set()
        self._links: list[str] = []

    def files(self) -> Iterator[str]:
        """Yield the paths of the files."""
        yield from self._walk(self.root)
        allowed = [self.root, *_annexes(self.root)]
        for link in self._links:  # which grows while folders behind links are walked
            real = os.path.realpath(link)
            name = self._shown(link)
            if not os.path.exists(real):
                self._leave_out("links whose content is not there (not fetched, or removed)", name)
            elif leads_out(link, allowed):
                self.left.append(link)
                self._leave_out("links out of the folder", name)
            elif real in self._seen:
                self._leave_out("links to what is found already", name)
            elif not os.path.isdir(real):
                self._seen.add(real)
                yield link
            elif any(is_housekeeping(part) for part in os.path.relpath(real, os.path.realpath(self.root)).split("/")):
                self._leave_out("links to hidden folders", name)
            else:
                yield from self._walk(link)

    def _walk(self, top: str) -> Iterator[str]:
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            real = os.path.realpath(folder)
            self._seen.add(real)
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError:
                self._leave_out("folders that cannot be read", self._shown(folder))
                continue
            if any(entry.name in STORE_FILES for entry in entries):
                self._leave_out("zarr folders", self._shown(folder))
                continue
            folders = []
            for entry in entries:
                if is_housekeeping(entry.name):
                    self._leave_out("hidden", self._shown(entry.path))
                elif entry.is_symlink():
                    self._links.append(entry.path)
                elif entry.is_dir():
                    folders.append(entry.path)
                elif entry.is_file():
                    self._seen.add(os.path.join(real, entry.name))
                    yield entry.path
                else:
                    self._leave_out("neither files nor folders", self._shown(entry.path))
            waiting += reversed(folders)

    def _shown(self, path: str) -> str:
        return os.path.relpath(path, self.root)


def _annexes(root: str) -> list[str]:
    """Return where the repositories around a folder keep annexed content (git-annex, DataLad)."""
    folder, annexes = os.path.abspath(root), []
    while True:
        annex = os.path.join(folder, ".git", "annex", "objects")
        if os.path.isdir(annex):
            annexes.append(annex)
        parent = os.path.dirname(folder)
        if parent == folder:
            return annexes
        folder = parent
