"""DICOM magnitude series: a folder with one series, or a single (possibly multi-frame) file, as images."""

from __future__ import annotations

import os
import warnings
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from kdrift.data.paths import is_housekeeping
from kdrift.data.volume import (
    AS_THE_FILE_SAYS,
    MAX_EXPANSION,
    SMALL_BYTES,
    Attr,
    BadVolume,
    ReadOptions,
    Volume,
    check_declared,
    check_dims,
    image_volume,
    naming,
)

_TAGS = [
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "ImagePositionPatient",
    "ImageOrientationPatient", "InstanceNumber", "SeriesInstanceUID", "SeriesDescription", "PatientID",
    "MagneticFieldStrength", "PixelSpacing", "SliceThickness", "EchoTime", "RepetitionTime",
]  # fmt: skip
_DIRECTORY = b"1.2.840.10008.1.3.10"  # the class of DICOMDIR
_FIRST = (0x0000, 0x0001, 0x0005, 0x0008, 0x0012, 0x0013, 0x0016, 0x0018)  # what a file without preamble begins with
_ATTRS: dict[str, tuple[str, type[str] | type[float]]] = {
    "acquisition": ("SeriesDescription", str),
    "patient_id": ("PatientID", str),
    "field_T": ("MagneticFieldStrength", float),
    "echo_time_ms": ("EchoTime", float),
    "repetition_time_ms": ("RepetitionTime", float),
}


def is_dicom(head: bytes) -> bool:
    """Return whether a file that begins so is DICOM; older files have no preamble. The index of a disc is no image."""
    if _DIRECTORY in head:
        return False
    if head[128:132] == b"DICM":
        return True
    group, element, length = (int.from_bytes(head[at : at + size], "little") for at, size in ((0, 2), (2, 2), (4, 4)))
    if group not in (0x0002, 0x0008) or len(head) < 132:
        return False
    return head[4:6] in (b"UL", b"OB", b"UI", b"CS", b"SH", b"DA") or (element in _FIRST and 0 < length <= 64)


def list_series(folder: str) -> dict[str, list[str]]:
    """Return the DICOM images directly in `folder`, by SeriesInstanceUID; hidden files and other content are left out.

    Raises BadVolume when a file with the suffix of DICOM is none, or a header cannot be read.
    """
    series: dict[str, list[str]] = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if is_housekeeping(entry.name) or not entry.is_file():
            continue
        with naming(entry.path, "cannot be opened"), open(entry.path, "rb") as file:
            head = file.read(1024)
        if is_dicom(head):
            header = _read(entry.path, headers_only=True)
            if header.get("Rows") is not None:  # reports, presentation states and the like have no image
                series.setdefault(str(header.get("SeriesInstanceUID", "")), []).append(entry.path)
        elif entry.name.lower().endswith((".dcm", ".ima")) and _DIRECTORY not in head:
            raise BadVolume(entry.path, "not a DICOM file: the DICM preamble is missing")
    return series


def open_dicom(path: str, name: str, how: ReadOptions = AS_THE_FILE_SAYS, series_uid: str | None = None) -> Volume:
    """Open a DICOM series as images `(slice, row, col)`, sorted along the slice normal and rescaled.

    Parameters
    ----------
    path
        A file, or a folder that directly holds the files of the series (other files in it are ignored).
    series_uid
        Which series, where the folder holds several.

    Raises
    ------
    BadVolume
        When there is no DICOM file, several series and none chosen, slices of different size, colour
        images, or more declared than stored.
    """
    if os.path.isdir(path):
        series = list_series(path)
        if not series:
            raise BadVolume(path, "folder holds no DICOM files")
        if series_uid is None and len(series) > 1:
            raise BadVolume(path, f"folder holds {len(series)} series: choose one as {path}#{next(iter(series))}")
        if (chosen := series_uid or next(iter(series))) not in series:
            raise BadVolume(path, f"folder holds no series {chosen}, it holds {', '.join(series)}")
        paths = series[chosen]
    else:
        paths = [path]
    with naming(path, "not a readable DICOM series"):
        headers = {file: _header(file) for file in paths}
        files = sorted(headers, key=lambda file: _position(file, headers[file]))
        return _volume(path, name, {file: headers[file] for file in files})


def _volume(path: str, name: str, headers: dict[str, Any]) -> Volume:
    first_file, first = next(iter(headers.items()))
    rows, cols = int(first.Rows), int(first.Columns)
    index: list[tuple[str, int]] = []
    for file, header in headers.items():
        if (int(header.Rows), int(header.Columns)) != (rows, cols):
            shape = f"{header.Rows}x{header.Columns}"
            raise BadVolume(file, f"slice is {shape}, but {os.path.basename(first_file)} is {rows}x{cols}")
        if int(header.get("SamplesPerPixel", 1)) != 1:
            raise BadVolume(file, f"image has {header.SamplesPerPixel} samples a pixel, expected 1 (grey)")
        frames = int(header.get("NumberOfFrames", 1) or 1)
        check_dims(file, slices=frames, rows=rows, columns=cols)
        declared = frames * rows * cols * int(header.BitsAllocated) // 8
        syntax = header.file_meta.get("TransferSyntaxUID")
        compressed = syntax is not None and syntax.is_compressed
        check_declared(file, declared, os.path.getsize(file), compressed)
        index += [(file, frame) for frame in range(frames)]

    def load(start: int, stop: int) -> npt.NDArray[Any]:
        wanted = index[start:stop]
        pixels = {file: _pixels(file) for file in dict.fromkeys(file for file, _ in wanted)}
        return np.stack([pixels[file][frame] for file, frame in wanted])

    return image_volume(path, name, (len(index), rows, cols), load, _attrs(first, rows, cols))


def _attrs(header: Any, rows: int, cols: int) -> dict[str, Attr]:
    attrs: dict[str, Attr] = {"source_format": "dicom"}
    for key, (tag, kind) in _ATTRS.items():
        if header.get(tag) not in (None, ""):
            attrs[key] = kind(header.get(tag))
    spacing = header.get("PixelSpacing")
    if spacing is not None and len(spacing) == 2:
        depth = float(header.get("SliceThickness") or 0)
        attrs["fov_mm"] = f"{float(spacing[0]) * rows:g} x {float(spacing[1]) * cols:g} x {depth:g}"
    return attrs


def _header(path: str) -> Any:
    header = _read(path, headers_only=True)
    for tag in ("Rows", "Columns", "BitsAllocated"):
        if header.get(tag) is None:
            raise BadVolume(path, f"DICOM tag {tag} is missing: not an image")
    return header


def _position(path: str, header: Any) -> tuple[float, float, str]:
    """Return what slices are sorted by: place along the slice normal, instance number, file name."""
    place, orientation = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    along = 0.0
    if place is not None and orientation is not None and len(place) == 3 and len(orientation) == 6:
        row, col = np.array(orientation[:3], dtype=float), np.array(orientation[3:], dtype=float)
        along = float(np.dot(np.cross(row, col), np.array(place, dtype=float)))
    instance = header.get("InstanceNumber")
    return along, float(instance) if instance is not None else 0.0, os.path.basename(path)


def _pixels(path: str) -> npt.NDArray[Any]:
    """Return the rescaled frames `(frame, row, col)` of one file."""
    dataset = _read(path, headers_only=False)
    with naming(path, "pixel data cannot be read"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixels: npt.NDArray[np.float32] = dataset.pixel_array.astype(np.float32)
        pixels *= np.float32(dataset.get("RescaleSlope", 1) or 1)
        pixels += np.float32(dataset.get("RescaleIntercept", 0) or 0)
    return pixels if pixels.ndim == 3 else pixels[None]


def _read(path: str, headers_only: bool) -> Any:
    try:
        import pydicom
    except ImportError:
        raise ValueError("reading DICOM needs pydicom: pip install 'kdrift[dicom]'") from None
    with naming(path, "not a readable DICOM file"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values that break the standard are common and harmless here
        _check_inflated(path)
        if headers_only:
            return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS), force=True)
        dataset = pydicom.dcmread(path, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:  # a file without preamble
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
            if not dataset.original_encoding[0]:
                dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        return dataset


def _check_inflated(path: str) -> None:
    """Raise `BadVolume` where a file that is deflated as a whole is too large when inflated: pydicom has no limit."""
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    with open(path, "rb") as file:
        read_preamble(file, force=True)
        meta = read_dataset(file, False, True, stop_when=lambda tag, _, __: tag.group != 2)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return
        content = file.read()
    limit = max(SMALL_BYTES, MAX_EXPANSION * len(content))
    if len(zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, limit + 1)) > limit:
        raise BadVolume(
            path, f"is over {limit >> 20} MiB when inflated, expected at most {MAX_EXPANSION} times its size"
        )
