"""DICOM magnitude series: a folder with one series, or a single (possibly multi-frame) file, as images."""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from kdrift.data.formats.dicom_frames import FRAME_TAGS, Frame, frames_of
from kdrift.data.formats.dicom_stack import choose_frames, geometry_of
from kdrift.data.formats.selection import selected_index, taken_note
from kdrift.data.images import ImageInfo, image_volume
from kdrift.data.paths import is_housekeeping
from kdrift.data.volume import (
    AS_THE_FILE_SAYS,
    MAX_EXPANSION,
    SMALL_BYTES,
    Attr,
    BadVolume,
    ReadOptions,
    Volume,
    naming,
)

_PIXELS = 0x7FE0
"""The group of elements with pixels."""
_DIRECTORY = b"1.2.840.10008.1.3.10"  # the class of DICOMDIR
_FIRST = (0x0000, 0x0001, 0x0005, 0x0008, 0x0012, 0x0013, 0x0016, 0x0018)  # what a file without preamble begins with

_ATTRS: dict[str, tuple[str, type[str] | type[float]]] = {
    "acquisition": ("SeriesDescription", str),
    "patient_id": ("PatientID", str),
    "field_T": ("MagneticFieldStrength", float),
    "echo_time_ms": ("EchoTime", float),
    "repetition_time_ms": ("RepetitionTime", float),
    "study_uid": ("StudyInstanceUID", str),
    "frame_of_reference_uid": ("FrameOfReferenceUID", str),
}
_TAGS: list[Any] = ["SeriesInstanceUID", *(tag for tag, _ in _ATTRS.values()), *FRAME_TAGS]


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
            header = _read_header(entry.path)
            if header.get("Rows") is not None:  # reports, presentation states and the like have no image
                series.setdefault(str(header.get("SeriesInstanceUID", "")), []).append(entry.path)
        elif entry.name.lower().endswith((".dcm", ".ima")) and _DIRECTORY not in head:
            raise BadVolume(entry.path, "not a DICOM file: the DICM preamble is missing")
    return series


def open_dicom(path: str, name: str, how: ReadOptions = AS_THE_FILE_SAYS, series_uid: str | None = None) -> Volume:
    """Open a DICOM series as images `(slice, row, col)`, sorted along the slice normal, each frame rescaled by its own.

    A volume is one kind of image at one place each: of a series with magnitude and phase the magnitude is read, of
    several echoes, inversion or acquisition times, flip angles and diffusion weightings the first, and notes say what
    there is. `select` chooses others: `image_type=P` (or any word of the image type), `echo=1`, `time=3`, `stack=0`,
    `repeat=1`, `modality=CT`, and `patient=0` or `study=0` where one series mixes several; numbers count from 0.
    Siemens mosaics are divided into their slices, values that are stored inverted (MONOCHROME1) are turned, for which
    all are read once. Real-world value maps are not applied.

    Parameters
    ----------
    path
        A file, or a folder that directly holds the files of the series (other files in it are ignored).
    series_uid
        Which series, where the folder holds several.

    Raises
    ------
    BadVolume
        When there is no DICOM file, several series, patients or studies and none chosen, no MR magnitude, slices of
        several sizes or directions and none chosen, colour images, or more declared than stored.
    """
    if os.path.isdir(path):
        series = list_series(path)
        if not series:
            raise BadVolume(path, "folder holds no DICOM files with images")
        if series_uid is None and len(series) > 1:
            raise BadVolume(path, f"folder holds {len(series)} series: choose one as {path}#{next(iter(series))}")
        if (chosen := series_uid or next(iter(series))) not in series:
            raise BadVolume(path, f"folder holds no series {chosen}, it holds {', '.join(series)}")
        paths = series[chosen]
    else:
        paths = [path]
    with naming(path, "not a readable DICOM series"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values that break the standard are common and harmless here
        headers = {file: _read_header(file) for file in paths}
        headers, notes = _of_one(path, headers, how)
        found = [frame for file, header in headers.items() for frame in frames_of(file, header, os.path.getsize(file))]
        frames, chosen_notes = choose_frames(path, found, how)
        notes += chosen_notes
        attrs = _attrs(headers[frames[0].file], frames[0])
        geometry = geometry_of(frames)
        notes += geometry.shear_notes if geometry is not None else ()
    if geometry is None:
        notes.append("its pixel size is not stated")
    if any(frame.padding for frame in frames):
        notes.append("pixels that its header marks as padding are read as 0")

    brightest = 0.0
    if any(frame.inverted for frame in frames):
        brightest = _largest_stored(frames)
        notes.append(
            f"its values are stored inverted (MONOCHROME1 or INVERSE): they are read as {brightest:g}, the largest one"
            " that is stored, less the stored value"
        )

    def load(start: int, stop: int) -> npt.NDArray[Any]:
        return _pixels(frames[start:stop], brightest)

    asked = "modality" in how.select or frames[0].kind != "magnitude"
    image = ImageInfo(
        name, (len(frames), frames[0].rows, frames[0].cols), attrs, geometry, tuple(notes), axes_known=True
    )
    return image_volume(path, image, load, any_values=how.any_values or asked)


def _of_one(path: str, headers: dict[str, Any], how: ReadOptions) -> tuple[dict[str, Any], list[str]]:
    """Return the headers of one patient and study, that asked for where a series mixes several, and notes.

    Files that do not say whose they are go with the others. Raises BadVolume where there are several and none is asked
    for: programs that give new UIDs badly, or copy folders together, make such a series.
    """
    notes: list[str] = []
    for name, tag in (("patient", "PatientID"), ("study", "StudyInstanceUID")):
        values = {file: str(header.get(tag) or "") for file, header in headers.items()}
        there = sorted({value for value in values.values() if value}) or [""]
        if len(there) > 1 and name not in how.select:
            counts = "; ".join(
                f"{name} {n} ({value}) has {list(values.values()).count(value)}" for n, value in enumerate(there[:6])
            )
            raise BadVolume(
                path,
                f"one series has files of {len(there)} {tag}, expected one: {counts}; give each a folder of its own, or"
                f" choose one with --select {name}=N",
            )
        chosen = selected_index(path, how, name, len(there))
        notes += [taken_note(name, chosen, len(there))] if len(there) > 1 else []
        wanted = there[chosen]
        headers = {file: header for file, header in headers.items() if values[file] in ("", wanted)}
    frames = {
        str(header.get("FrameOfReferenceUID")) for header in headers.values() if header.get("FrameOfReferenceUID")
    }
    if len(frames) > 1:
        notes.append(
            f"its files have {len(frames)} frames of reference: whether their places fit together is not known"
        )
    return headers, notes


def _attrs(header: Any, frame: Frame) -> dict[str, Attr]:
    attrs: dict[str, Attr] = {"source_format": "dicom"}
    for key, (tag, kind) in _ATTRS.items():
        if header.get(tag) not in (None, ""):
            attrs[key] = kind(header.get(tag))
    if frame.facts["echo"]:
        attrs["echo_time_ms"] = frame.facts["echo"][0]
    if frame.spacing:
        rows, cols = frame.spacing[0] * frame.rows, frame.spacing[1] * frame.cols
        attrs["fov_mm"] = f"{rows:g} x {cols:g} x {frame.depth_mm:g}"
    return attrs


def _pixels(frames: list[Frame], brightest: float) -> npt.NDArray[np.float32]:
    """Return rescaled frames `(frame, row, col)`, inverted ones from the `brightest` stored value."""
    images = np.empty((len(frames), frames[0].rows, frames[0].cols), dtype=np.float32)
    for place, stored in _stored(frames):
        images[place] = _rescaled(stored, frames[place], brightest)
    return images


def _largest_stored(frames: list[Frame]) -> float:
    """Return the largest stored value of all inverted frames but for padding, for which all are read."""
    inverted = [frame for frame in frames if frame.inverted]
    return max(
        float(np.where(np.isin(stored, inverted[place].padding), stored.min(), stored).max())
        for place, stored in _stored(inverted)
    )


def _stored(frames: list[Frame]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield the place and the stored values of each frame; a file is opened once, each of its images decoded once."""
    from pydicom.pixels.utils import iter_pixels

    for file in dict.fromkeys(frame.file for frame in frames):
        wanted = [(place, frame) for place, frame in enumerate(frames) if frame.file == file]
        numbers = list(dict.fromkeys(frame.number for _, frame in wanted))
        with naming(file, "pixel data cannot be read"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for number, pixels in zip(numbers, iter_pixels(_source(file), indices=numbers), strict=True):
                for place, frame in wanted:
                    if frame.number == number:
                        across, index = frame.tile
                        top, left = (index // across) * frame.rows, (index % across) * frame.cols
                        yield place, pixels[top : top + frame.rows, left : left + frame.cols]


def _rescaled(stored: npt.NDArray[Any], frame: Frame, brightest: float) -> npt.NDArray[np.float32]:
    upright = stored.astype(np.float32)
    values = (np.float32(brightest) - upright if frame.inverted else upright) * np.float32(frame.slope) + np.float32(
        frame.intercept
    )
    return np.where(stored == frame.padding[0], np.float32(0), values) if frame.padding else values


def _read_header(path: str) -> Any:
    """Return the header; a file without preamble gets the transfer syntax that its own bytes show."""
    try:
        import pydicom
    except ImportError:
        raise ValueError("reading DICOM needs pydicom: pip install 'kdrift[dicom]'") from None
    with naming(path, "not a readable DICOM file"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _check_inflated(path)
        with open(path, "rb") as file:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS, force=True)
            header.pixel_bytes = _pixel_bytes(header, file.read(12))
        return _with_syntax(header)


def _pixel_bytes(header: Any, element: bytes) -> int:
    """Return the length of the pixel data from the beginning of their element; 0 where it is not stated there."""
    implicit, little = header.original_encoding
    order: Any = "little" if little else "big"
    group, length = element[:2], element[4:8] if implicit else element[8:12]
    stated = int.from_bytes(length, order)
    return stated if int.from_bytes(group, order) == _PIXELS and stated != 0xFFFFFFFF else 0


def _with_syntax(dataset: Any) -> Any:
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit = dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return dataset


def _source(path: str) -> Any:
    """Return what pixels are read from: the file, or of one without preamble or deflated its whole content."""
    import pydicom

    with open(path, "rb") as file:
        whole = file.read(132)[128:] == b"DICM"
    syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID") if whole else None
    return path if syntax is not None and not syntax.is_deflated else _with_syntax(pydicom.dcmread(path, force=True))


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
