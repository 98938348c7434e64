"""File formats: `open_volume` finds the reader of a file by its content, then by its suffix.

A new format is one file with an `open_*(path, name, how) -> Volume` function and one line in `FORMATS`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from kdrift.data.formats.bart import open_bart
from kdrift.data.formats.dicom import list_series, open_dicom
from kdrift.data.formats.fastmri import open_fastmri
from kdrift.data.formats.hdf5 import keys, open_file
from kdrift.data.formats.ismrmrd import open_ismrmrd
from kdrift.data.formats.nifti import is_nifti, open_nifti
from kdrift.data.formats.numpy import open_numpy
from kdrift.data.volume import AS_THE_FILE_SAYS, BadVolume, ReadOptions, Volume, VolumeInfo, naming

__all__ = ["FORMATS", "BadVolume", "Volume", "VolumeInfo", "find_sources", "format_of", "open_volume", "volume_name"]


def open_hdf5(path: str, name: str, how: ReadOptions, stream: IO[bytes] | None = None) -> Volume:
    """Open HDF5: ISMRMRD raw data where a group holds `data` and `xml`, else the fastMRI layout."""
    with contextlib.ExitStack() as resources, naming(path, "not a readable HDF5 file (truncated or damaged)"):
        source = open_file(path, resources, stream)
        names = keys(source)
        groups = [key for key in names if f"{key}/xml" in source.file]
        raw_data = groups and "kspace" not in names
        volume = open_ismrmrd(source, name, groups[0], how) if raw_data else open_fastmri(source, name, how)
        volume.resources = resources.pop_all()
    return volume


@dataclass(frozen=True)
class Format:
    """One row of `FORMATS`."""

    suffixes: tuple[str, ...]
    is_content: Callable[[bytes], bool]
    """Whether the first 1024 bytes of a file belong to this format."""
    open: Callable[[str, str, ReadOptions], Volume]
    """Open a local path under a volume name."""


_HDF5 = b"\x89HDF\r\n\x1a\n"

FORMATS: dict[str, Format] = {
    "hdf5": Format((".h5", ".hdf5", ".mrd"), lambda head: _HDF5 in (head[:8], head[512:520]), open_hdf5),
    "numpy": Format((".npy", ".npz"), lambda head: head.startswith((b"\x93NUMPY", b"PK\x03\x04")), open_numpy),
    "nifti": Format((".nii.gz", ".nii", ".img", ".img.gz", ".hdr.gz"), is_nifti, open_nifti),
    "dicom": Format((".dcm", ".ima"), lambda head: head[128:132] == b"DICM", open_dicom),
    "bart": Format((".cfl", ".hdr"), lambda head: head.startswith(b"# Dimensions"), open_bart),
}
"""Every readable format: fastMRI and ISMRMRD files are both HDF5 and told apart by their keys."""


_BY_SUFFIX = (".cfl", ".img", ".img.gz")


def open_volume(path_or_url: str | os.PathLike[str], how: ReadOptions = AS_THE_FILE_SAYS) -> Volume:
    """Open a scan of any known format; nothing but its header is read.

    Parameters
    ----------
    path_or_url
        A file, a BART pair by either name or without suffix, a folder with one DICOM series,
        `folder#SeriesUID`, or any of them as an fsspec URL (`s3://bucket/scan.h5`). HDF5 is read in place;
        the others are copied to a temporary folder first, which `Volume.close` removes.
    how
        What the file cannot say, or leaves to choose.

    Raises
    ------
    BadVolume
        When it does not exist, is of no known format, or its header is wrong.
    """
    path = os.fspath(path_or_url)
    if "://" in path:
        return _open_url(path, how)
    return _open_local(path, path, how)


def volume_name(path_or_url: str) -> str:
    """Return the last part of a path or URL without a known suffix."""
    base = path_or_url.partition("#")[0].rstrip("/").rsplit("/", 1)[-1]
    for suffix in (suffix for row in FORMATS.values() for suffix in row.suffixes):
        if base.lower().endswith(suffix) and len(base) > len(suffix):
            return base[: -len(suffix)]
    return base


def format_of(path: str) -> str | None:
    """Return the key in `FORMATS` that the suffix of a path or URL tells, or None."""
    return next((name for name, row in FORMATS.items() if path.lower().endswith(row.suffixes)), None)


def find_sources(path: str | os.PathLike[str]) -> list[str]:
    """Return what `open_volume` opens under a local path: a file itself, else all volumes in the folder tree.

    A DICOM series is one volume, a BART pair one, every other file with a known suffix one.
    """
    path = os.fspath(path)
    if "://" in path or not os.path.isdir(path):
        return [path]
    found: list[str] = []
    for folder, subfolders, names in os.walk(path):
        subfolders.sort()
        names = sorted(name for name in names if not name.startswith("."))  # hidden: being written, or not data
        kinds = {name: format_of(name) for name in names}
        if "dicom" in kinds.values():
            try:
                series = list_series(folder)
            except BadVolume:  # opening the folder names the file
                series = {}
            found += [f"{folder}#{uid}" for uid in series] if len(series) > 1 else [folder]
        for name, kind in kinds.items():
            stem, suffix = os.path.splitext(name.lower().removesuffix(".gz"))
            mates = {".hdr": (".cfl",), ".img": (".hdr", ".hdr.gz")}.get(suffix, ())
            paired = any(f"{stem}{mate}" == other.lower() for mate in mates for other in names)
            if kind not in (None, "dicom") and not paired:
                found.append(os.path.join(folder, name))
    return found


def _open_local(path: str, shown: str, how: ReadOptions) -> Volume:
    series_uid: str | None = None
    if not os.path.exists(path) and "#" in path:
        path, series_uid = path.rsplit("#", 1)
    name = volume_name(shown)
    if os.path.isdir(path):
        return open_dicom(path, name, how, series_uid)
    if not os.path.exists(path):
        if os.path.exists(f"{path}.cfl") or os.path.exists(f"{path}.hdr"):
            return open_bart(path, name, how)
        raise BadVolume(shown, "no such file")
    with naming(shown, "cannot be opened"), open(path, "rb") as file:
        head = file.read(1024)
    if not head:
        raise BadVolume(shown, "file is empty")
    by_suffix = format_of(path)
    if path.lower().endswith(_BY_SUFFIX) or (by_suffix == "nifti" and head[:2] == b"\x1f\x8b"):
        return FORMATS[str(by_suffix)].open(path, name, how)  # raw numbers and compressed files: the suffix decides
    for row in FORMATS.values():
        if row.is_content(head):
            return row.open(path, name, how)
    expected = f"expected {by_suffix} content" if by_suffix else f"expected one of {', '.join(FORMATS)}"
    raise BadVolume(shown, f"unknown format: {expected}, file begins with {head[:8]!r}")


def _open_url(url: str, how: ReadOptions) -> Volume:
    import fsspec

    with contextlib.ExitStack() as resources:
        try:
            with naming(url, "cannot be reached"):
                filesystem, remote = fsspec.core.url_to_fs(url)
                if format_of(url) == "hdf5":
                    stream: Any = resources.enter_context(filesystem.open(remote, "rb"))
                    volume = open_hdf5(url, volume_name(url), how, stream)
                else:
                    folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="kdrift-"))
                    volume = _open_local(_download(filesystem, remote, folder), url, how)
        except BadVolume as error:
            raise BadVolume(url, error.reason) from None  # not of its temporary copy
        volume.path = url
        volume.resources.push(resources.pop_all())
    return volume


def _download(filesystem: Any, remote: str, folder: str) -> str:
    """Copy a remote file, BART pair or DICOM folder into `folder` and return its local path."""
    remote, _, series_uid = remote.partition("#")
    if filesystem.isdir(remote):
        filesystem.get(remote.rstrip("/") + "/", folder + "/", recursive=True)
        return f"{folder}#{series_uid}" if series_uid else folder
    stem, suffix = os.path.splitext(remote)
    mates = {".cfl": (".hdr",), ".hdr": (".cfl", ".img"), ".img": (".hdr",)}.get(suffix.lower(), ())
    remotes = [remote, *(found for mate in mates if filesystem.exists(found := f"{stem}{mate}"))]
    for source in remotes:
        filesystem.get_file(source, os.path.join(folder, os.path.basename(source)))
    return os.path.join(folder, os.path.basename(remote))
