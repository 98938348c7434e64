"""File formats: `open_volume` finds the reader of a file by its content; its suffix says what it should have been.

A new format is one file with an `open_*(path, name, how) -> Volume` function and one line in `FORMATS`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import IO, Any

from kdrift.data.formats.bart import open_bart
from kdrift.data.formats.dicom import is_dicom, open_dicom
from kdrift.data.formats.fastmri import open_fastmri
from kdrift.data.formats.hdf5 import Hdf5, keys, open_file
from kdrift.data.formats.hybrid import hybrid_layout, open_calgary, open_skm_tea
from kdrift.data.formats.ismrmrd import open_ismrmrd
from kdrift.data.formats.ismrmrd_table import ismrmrd_groups
from kdrift.data.formats.mat import is_matlab, open_mat, open_matlab_hdf5
from kdrift.data.formats.nifti import is_nifti, open_nifti
from kdrift.data.formats.numpy import open_numpy
from kdrift.data.geometry import unit_doubts
from kdrift.data.paths import beginnings, files_of, halves, is_housekeeping, other_halves, split_series
from kdrift.data.volume import AS_THE_FILE_SAYS, BadVolume, ReadOptions, Volume, VolumeInfo, check_expansion, naming

__all__ = ["FORMATS", "BadVolume", "Volume", "VolumeInfo", "format_of", "open_volume", "recognise", "volume_name"]


def open_hdf5(path: str, name: str, how: ReadOptions, stream: IO[bytes] | None = None) -> Volume:
    """Open HDF5: MATLAB's, ISMRMRD where a group holds what that has, Calgary-Campinas or SKM-TEA by type
    and shape, else the fastMRI layout.
    """
    with contextlib.ExitStack() as resources, naming(path, "not a readable HDF5 file (truncated or damaged)"):
        source = open_file(path, resources, stream)
        if (reader := _layout(source)) is not None:
            volume = reader(source, name, how)
            volume.resources = resources.pop_all()
            return volume
        groups = ismrmrd_groups(source) if "kspace" not in keys(source) else []
        volume = open_ismrmrd(source, name, groups, how) if groups else open_fastmri(source, name, how)
        volume.resources = resources.pop_all()
    return volume


def _layout(source: Hdf5) -> Callable[[Hdf5, str, ReadOptions], Volume] | None:
    """Return the reader of a data set's own layout in HDF5, or None."""
    if is_matlab(source):
        return open_matlab_hdf5
    readers = {"calgary": open_calgary, "skm-tea": open_skm_tea}
    layout = hybrid_layout(source)
    return readers[layout] if layout is not None else None


@dataclass(frozen=True)
class Format:
    """One row of `FORMATS`."""

    suffixes: tuple[str, ...]
    is_content: Callable[[bytes], bool]
    """Whether the first `HEAD_BYTES` of a file belong to this format."""
    open: Callable[[str, str, ReadOptions], Volume]
    """Open a local path under a volume name."""


_HDF5 = b"\x89HDF\r\n\x1a\n"
_GZIP = b"\x1f\x8b"
_EMPTY_ZIP = b"PK\x05\x06"
_ARCHIVES = {
    _GZIP: "gzip: gunzip", b"PK\x03\x04": "ZIP: unzip", b"BZh": "bzip2: bunzip2", b"\xfd7zXZ\0": "xz: unxz",
    b"(\xb5/\xfd": "Zstandard: unzstd", b"7z\xbc\xaf'\x1c": "7-Zip: 7z x", b"Rar!": "RAR: unrar x",
}  # fmt: skip
"""First bytes of archives, and what unpacks them."""
_FRAGMENT = "what follows # names a DICOM series in a folder, and this is no folder: leave it out; --select chooses"
HEAD_BYTES = 1024
"""So many bytes of a file tell its format."""


def _is_numpy(head: bytes) -> bool:
    """Return whether it is .npy, or a ZIP archive whose first member is one: other archives are no .npz."""
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    return head.startswith(b"\x93NUMPY") or (head.startswith(b"PK\x03\x04") and name.endswith(b".npy"))


FORMATS: dict[str, Format] = {
    "hdf5": Format((".h5", ".hdf5", ".mrd"), lambda head: _HDF5 in (head[:8], head[512:520]), open_hdf5),
    "numpy": Format((".npy", ".npz"), _is_numpy, open_numpy),
    "matlab": Format((".mat",), lambda head: head.startswith(b"MATLAB 5.0 MAT-file"), open_mat),
    "nifti": Format((".nii.gz", ".nii", ".img", ".img.gz", ".hdr.gz"), is_nifti, open_nifti),
    "dicom": Format((".dcm", ".ima"), is_dicom, open_dicom),
    "bart": Format((".cfl", ".hdr"), lambda head: head.startswith(b"# Dimensions"), open_bart),
}
"""Every readable format; what is HDF5 (fastMRI, ISMRMRD, MATLAB v7.3, ...) is told apart by its keys."""


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
    volume = _open_url(path, how) if "://" in path else _open_local(path, path, how)
    volume.how = how
    if (info := volume.info).geometry is not None:
        is_dicom_file = info.attrs.get("source_format") == "dicom"  # in mm by its standard, that of animals too
        doubts = unit_doubts(info.geometry, info.recon_rows, info.recon_cols, may_be_small=is_dicom_file)
        volume.info = replace(info, notes=(*info.notes, *doubts))
    return volume


def recognise(head: bytes) -> str | None:
    """Return the key in `FORMATS` that the first `HEAD_BYTES` of a file tell, or None; of gzip, only NIfTI is read."""
    if head.startswith(_GZIP):
        with contextlib.suppress(zlib.error):
            return "nifti" if is_nifti(zlib.decompressobj(31).decompress(head, HEAD_BYTES)) else None
    return next((name for name, row in FORMATS.items() if row.is_content(head)), None)


def archive(head: bytes) -> str | None:
    """Return what archive the first bytes of a file tell and what unpacks it, None for none and for what is read."""
    if recognise(head) is not None:
        return None
    if head[257:262] == b"ustar":
        return "tar: tar -xf"
    return next((what for magic, what in _ARCHIVES.items() if head.startswith(magic)), None)


def volume_name(path_or_url: str) -> str:
    """Return the last part of a path or URL without a known suffix."""
    base = path_or_url.rstrip("/").rsplit("/", 1)[-1]
    for suffix in (suffix for row in FORMATS.values() for suffix in row.suffixes):
        if base.lower().endswith(suffix) and len(base) > len(suffix):
            return base[: -len(suffix)]
    return base


def format_of(path: str) -> str | None:
    """Return the key in `FORMATS` that the suffix of a path or URL tells, or None."""
    return next((name for name, row in FORMATS.items() if path.lower().endswith(row.suffixes)), None)


def _open_local(path: str, shown: str, how: ReadOptions) -> Volume:
    path, series = split_series(path)
    if series is not None and not os.path.isdir(path) and (os.path.exists(path) or len(files_of(path)) > 1):
        raise BadVolume(shown, _FRAGMENT)
    name = volume_name(shown if series is None else shown.removesuffix(f"#{series}"))
    if os.path.isdir(path):
        return _checked(open_dicom(path, name, how, series), sum(map(os.path.getsize, files_of(path))))
    if not os.path.exists(path):
        if any(map(os.path.exists, halves(path, FORMATS["bart"].suffixes))):
            return open_bart(path, name, how)
        raise BadVolume(shown, "no such file")
    if not os.path.isfile(path):
        raise BadVolume(shown, "neither a file nor a folder")
    with naming(shown, "cannot be opened"), open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise BadVolume(shown, "file is empty")
    by_suffix = format_of(path)
    kind = recognise(head)
    half = by_suffix == "nifti" and (head.startswith(_GZIP) or bool(other_halves(path)))
    if kind is None and (by_suffix == "bart" or half):
        kind = by_suffix  # .cfl and .img are raw numbers; what is damaged says so itself
    if head.startswith(_EMPTY_ZIP):
        raise BadVolume(shown, "it is an archive with nothing in it, as an .npz without arrays is: write it again")
    if kind is None and (what := archive(head)) is not None:
        name_of, _, command = what.partition(": ")
        raise BadVolume(shown, f"it is packed ({name_of}) and not unpacked here: run {command} first")
    if kind is None:
        expected = f"expected {by_suffix} content" if by_suffix else f"expected one of {', '.join(FORMATS)}"
        raise BadVolume(shown, f"unknown format: {expected}, file begins with {head[:8]!r}")
    stored = sum(map(os.path.getsize, files_of(path)))
    suffix = ".nii.gz" if head.startswith(_GZIP) else ".nii"
    misnamed = path.lower().endswith((".nii", ".nii.gz")) and not path.lower().endswith(suffix)
    if kind == "nifti" and (by_suffix not in ("nifti", "bart") or misnamed):
        return _checked(_open_renamed(path, suffix, name, how), stored)
    return _checked(FORMATS[kind].open(path, name, how), stored)


def _open_renamed(path: str, suffix: str, name: str, how: ReadOptions) -> Volume:
    """Open a NIfTI file whose name does not say that it is one, or that it is compressed, by a link: its reader goes
    by suffixes.
    """
    with contextlib.ExitStack() as resources:
        folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="kdrift-"))
        link = os.path.join(folder, f"scan{suffix}")
        os.symlink(os.path.abspath(path), link)
        try:
            volume = open_nifti(link, name, how)
        except BadVolume as error:
            raise BadVolume(path, error.reason) from None
        volume.path = path
        volume.resources.push(resources.pop_all())
    return volume


def _checked(volume: Volume, stored: int) -> Volume:
    """Return an opened volume; raise `BadVolume` where it claims to be much more than its files can hold."""
    info = volume.info
    values = info.num_slices * info.num_coils * info.rows * info.cols
    try:
        check_expansion(volume.path, values * (8 if info.kind == "kspace" else 4), stored)
    except BadVolume:
        volume.close()
        raise
    return volume


def _open_url(url: str, how: ReadOptions) -> Volume:
    import fsspec

    with contextlib.ExitStack() as resources:
        try:
            with naming(url, "cannot be reached"):
                filesystem, remote = fsspec.core.url_to_fs(url)
                remote, series = split_series(remote, filesystem.exists)
                if series is not None and filesystem.isfile(remote):
                    raise BadVolume(url, _FRAGMENT)
                if filesystem.isfile(remote) and recognise(*beginnings(filesystem, [remote], HEAD_BYTES)) == "hdf5":
                    stream: Any = resources.enter_context(filesystem.open(remote, "rb"))
                    volume = _checked(open_hdf5(url, volume_name(url), how, stream), filesystem.size(remote))
                else:
                    folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="kdrift-"))
                    copy = _download(filesystem, remote, folder)
                    volume = _open_local(copy if series is None else f"{copy}#{series}", url, how)
        except BadVolume as error:
            raise BadVolume(url, error.reason) from None  # not of its temporary copy
        volume.path = url
        volume.resources.push(resources.pop_all())
    return volume


def _download(filesystem: Any, remote: str, folder: str) -> str:
    """Copy a remote file, pair (`.hdr` with its data), or the files of a folder into `folder`; return its path there.

    Names are taken as they are, never as patterns.
    """
    if filesystem.isdir(remote):
        names = filesystem.ls(remote, detail=False)
        wanted = [name for name in names if not is_housekeeping(os.path.basename(name)) and filesystem.isfile(name)]
    else:
        others = other_halves(remote)
        wanted = [remote, *(other for other in others if filesystem.exists(other))]
    for source in wanted:
        filesystem.get_file(source, os.path.join(folder, os.path.basename(source)))
    return folder if filesystem.isdir(remote) else os.path.join(folder, os.path.basename(remote))
