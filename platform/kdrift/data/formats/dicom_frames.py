"""What DICOM headers say of every frame, of single and multi-frame files: kind of image, place, scale, echo, time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from kdrift.data.formats.mosaic import Mosaic, read_mosaic
from kdrift.data.volume import BadVolume, check_declared, check_dims

GE_IMAGE_TYPE, SIEMENS_B_VALUE = (0x0043, 0x102F), (0x0019, 0x100C)
FRAME_TAGS = (
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PresentationLUTShape",
    "BitsAllocated", "BitsStored", "HighBit", "Modality",
    "SOPInstanceUID", "InstanceNumber", "ImageType", "ComplexImageComponent", "ImagePositionPatient",
    "ImageOrientationPatient", "SliceLocation", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    "RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "EchoTime", "EchoNumbers", "InversionTime", "FlipAngle",
    "TemporalPositionIdentifier", "TriggerTime", "AcquisitionNumber", "DiffusionBValue", "DiffusionGradientOrientation",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", (0x0043, 0x0010), GE_IMAGE_TYPE,
    (0x0019, 0x0010), SIEMENS_B_VALUE, (0x0019, 0x100A), (0x0029, 0x0010), (0x0029, 0x1010),
)  # fmt: skip
DIMENSIONS = {
    "echo": (("EffectiveEchoTime", "EchoTime"), ("EchoNumbers",)),
    "inversion": (("InversionTimes", "InversionTime"),),
    "flip": (("FlipAngle",),),
    "diffusion": (("DiffusionBValue",), ("DiffusionGradientOrientation",)),
    "time": (
        ("TemporalPositionIndex", "TemporalPositionIdentifier"),
        ("NominalCardiacTriggerDelayTime", "TriggerTime"),
        ("FrameAcquisitionNumber", "AcquisitionNumber"),
    ),
}
"""By what frames at one place may differ, and the tags that say so, the first that is there of each group."""
_KINDS = {
    "phase": r"P|P_\w+|PHASE|PHASE[ _]?(MAP|DIFF\w*|SUBTRACT)|VELOCITY.*",
    "real": r"R|R_\w+|REAL",
    "imaginary": r"I|I_\w+|IMAG|IMAGINARY",
    "field map": r".*(B0|B1|FIELD|FREQ\w*)[ _]?MAP.*|B0|B1",
    "derived map": r"E?ADC|EXP|RA|FA|COLFA|TENSOR\w*|TRACE_?MAP|.*[ _]MAP|(T1|T2|R2|T2STAR|FA|ADC)MAP|R?CB[FV].*"
    r"|MTT|TTP|PBP|TMAX"
    r"|STD.*|STANDARD.DEV\w*|SUB|.*SUBTRACT\w*|T-?MAP|PERCENT\w*|QUANTITY|FAT_?FRACTION|(FAT|WATER)_FRAC\w*",
    "projection": r"MIP|MNIP|MINIP|M[AI][XN]_IP|PROJECTION.*",
    "screen shot": r"SCREEN.?SAVE|SCREENSHOT|REPORT",
}
_LETTERS = {"M": "magnitude", "P": "phase", "R": "real", "I": "imaginary"}
COLOUR = "colour"
MOST_FRAMES = 1 << 16
_GE_KINDS = ("magnitude", "phase", "real", "imaginary")
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Frame:
    """One image and what its header says."""

    file: str
    number: int
    """Place in its file."""
    rows: int
    cols: int
    uid: str
    modality: str
    image_type: tuple[str, ...]
    kind: str
    """magnitude, or what the header says that it is instead."""
    instance: float
    position: Numbers = ()
    """Centre of its first pixel (LPS, mm); empty: not stated."""
    orientation: Numbers = ()
    """Directions along which the column and the row number grow; empty: not stated."""
    location: Numbers = ()
    """SliceLocation, where it is stated."""
    spacing: Numbers = ()
    """Distance of rows and of columns, mm; empty: not stated."""
    depth_mm: float = 0.0
    """Distance of slices, else their thickness; 0: not stated."""
    slope: float = 1.0
    intercept: float = 0.0
    padding: Numbers = ()
    """Stored value that marks no data."""
    inverted: bool = False
    """Whether a large stored value means dark."""
    stack: str = ""
    """StackID of an enhanced file; empty: not stated."""
    facts: dict[str, Numbers] = field(default_factory=dict)
    """Values of `DIMENSIONS`."""
    tile: tuple[int, int] = (1, 0)
    """Tiles in a row of a mosaic, and which of them."""

    @property
    def along(self) -> float | None:
        """Place along the slice normal, or SliceLocation; None where neither is stated."""
        if self.position and self.orientation:
            return float(np.dot(np.cross(self.orientation[:3], self.orientation[3:]), self.position))
        return self.location[0] if self.location else None


def frames_of(file: str, header: Any, stored_bytes: int) -> list[Frame]:
    """Return the frames of one file. Raises BadVolume where it is no image, or declares more than it stores."""
    for tag in ("Rows", "Columns", "BitsAllocated"):
        if header.get(tag) is None:
            raise BadVolume(file, f"DICOM tag {tag} is missing: not an image")
    rows, cols, count = int(header.Rows), int(header.Columns), int(header.get("NumberOfFrames") or 1)
    check_dims(file, slices=count, rows=rows, columns=cols)
    if count > MOST_FRAMES:
        raise BadVolume(file, f"header claims {count} frames, expected at most {MOST_FRAMES}")
    declared = count * rows * cols * int(header.get("SamplesPerPixel") or 1) * int(header.BitsAllocated) // 8
    syntax = header.file_meta.TransferSyntaxUID
    check_declared(file, declared, stored_bytes, syntax.is_compressed or syntax.is_deflated)
    own = header.get("PerFrameFunctionalGroupsSequence")
    if own and len(own) != count:
        raise BadVolume(file, f"{count} frames are declared, {len(own)} are described: expected as many")
    beyond, size = header.pixel_bytes - declared, max(declared // count, 2)  # a byte makes the length even
    if not syntax.is_compressed and beyond >= size:
        there = count + beyond // size
        raise BadVolume(file, f"{count} frames are declared, pixel data are those of {there}: expected as many")
    _check_bits(file, header)
    frames = [_frame(file, header, number, several=count > 1) for number in range(count)]
    if "MOSAIC" in frames[0].image_type:
        mosaic = read_mosaic(file, header)
        return [tile for frame in frames for tile in _tiles(frame, mosaic)]
    return frames


def _check_bits(file: str, header: Any) -> None:
    """Raise BadVolume where values stand at the upper end of their words: they are read from the lower end."""
    high, stored = (_numbers(header.get(tag), 1) for tag in ("HighBit", "BitsStored"))
    if high and stored and high[0] > stored[0] - 1:
        raise BadVolume(
            file,
            f"HighBit is {high[0]:g}, BitsStored {stored[0]:g}, expected HighBit {stored[0] - 1:g}: values that stand"
            " at the upper end of their words are not read; store them at the lower end, or mend HighBit",
        )


def _frame(file: str, header: Any, number: int, *, several: bool) -> Frame:
    places = _places(header, number)
    enhanced = len(places) > 1
    kept = places[:-1] if several and not enhanced else places  # one position for all frames is none

    def numbers(*tags: str, length: int = 0) -> Numbers:
        return next((found for tag in tags if (found := _numbers(_find(places, tag), length))), ())

    image_type = _image_type(places)
    spacing = numbers("PixelSpacing", length=2)
    depth = [*numbers("SpacingBetweenSlices", length=1), *numbers("SliceThickness", length=1)]
    facts = {name: tuple(x for group in groups for x in numbers(*group)) for name, groups in DIMENSIONS.items()}
    if not facts["diffusion"] and SIEMENS_B_VALUE in header:
        facts["diffusion"] = _numbers(header[SIEMENS_B_VALUE].value)
    return Frame(
        file=file,
        number=number,
        rows=int(header.Rows),
        cols=int(header.Columns),
        uid=str(header.get("SOPInstanceUID") or file),
        modality=str(header.get("Modality") or "").upper(),
        image_type=image_type,
        kind=_kind(image_type, places, header),
        instance=(*numbers("InstanceNumber"), 0.0)[0],
        position=_numbers(_find(kept, "ImagePositionPatient"), 3),
        orientation=_directions(numbers("ImageOrientationPatient", length=6)),
        location=_numbers(_find(kept, "SliceLocation"), 1),
        spacing=spacing if min(spacing, default=0) > 0 else (),
        depth_mm=next((abs(value) for value in depth if value), 0.0),
        slope=(*numbers("RescaleSlope"), 0.0)[0] or 1.0,
        intercept=(*numbers("RescaleIntercept"), 0.0)[0],
        padding=numbers("PixelPaddingValue", length=1),
        inverted="MONOCHROME1" in str(header.get("PhotometricInterpretation"))
        or str(header.get("PresentationLUTShape")).strip().upper() == "INVERSE",
        stack=str(_find(places[:-1], "StackID") or ""),
        facts=facts,
    )


def _places(header: Any, number: int) -> list[Any]:
    """Return where tags of a frame are looked for: its own functional groups, those of all frames, the header."""
    places = []
    for name, index in (("PerFrameFunctionalGroupsSequence", number), ("SharedFunctionalGroupsSequence", 0)):
        groups = header.get(name)
        for element in groups[index] if groups else ():
            if element.VR == "SQ" and not element.tag.is_private and element.value:
                places.append(element.value[0])
                places += [item[0] for item in (inner.value for inner in element.value[0] if inner.VR == "SQ") if item]
    return [*places, header]


def _find(places: Sequence[Any], tag: str) -> Any:
    return next((value for place in places if (value := place.get(tag)) not in (None, "")), None)


def _numbers(value: Any, length: int = 0) -> Numbers:
    """Return a value as finite numbers; empty where there are none, or not `length` of them."""
    if value is None or isinstance(value, (str, bytes)):
        return ()
    try:
        found = tuple(float(x) for x in (value if hasattr(value, "__iter__") else (value,)))
    except (TypeError, ValueError):
        return ()
    return found if np.isfinite(found).all() and length in (0, len(found)) else ()


def _directions(values: Numbers) -> Numbers:
    """Return two unit vectors, empty where they are none at right angles."""
    if not values:
        return ()
    col, row = np.array(values[:3]), np.array(values[3:])
    lengths = np.linalg.norm(col), np.linalg.norm(row)
    good = all(abs(length - 1) < 0.01 for length in lengths) and abs(col @ row) < 0.01
    return tuple(float(x) for x in (*(col / lengths[0]), *(row / lengths[1]))) if good else ()


def _image_type(places: Sequence[Any]) -> tuple[str, ...]:
    value = _find(places, "FrameType") or _find(places, "ImageType") or ()
    return tuple(str(part).strip().upper() for part in ((value,) if isinstance(value, str) else value))


def _kind(image_type: tuple[str, ...], places: Sequence[Any], header: Any) -> str:
    grey = str(header.get("PhotometricInterpretation") or "MONOCHROME2").startswith("MONOCHROME")
    if not grey or int(header.get("SamplesPerPixel") or 1) != 1:
        return COLOUR
    component = str(_find(places, "ComplexImageComponent") or "").upper()
    if component and component != "MAGNITUDE" and (named := kind_of((component,))) != "magnitude":
        return named
    creator = header.get((0x0043, 0x0010))
    if GE_IMAGE_TYPE in header and creator is not None and str(creator.value).strip() == "GEMS_PARM_01":
        code = (*_numbers(header[GE_IMAGE_TYPE].value), 0.0)[0]
        if code in (1, 2, 3):
            return _GE_KINDS[int(code)]
    return kind_of(image_type[2:])


def kind_of(words: Sequence[str]) -> str:
    """Return what kind of image some words of an image type name, `magnitude` where they name none."""
    named = [kind for word in words for kind, pattern in _KINDS.items() if re.fullmatch(pattern, word)]
    return named[0] if named else "magnitude"


def kind_asked(text: str) -> str:
    """Return the kind that someone means by a letter, a word or a type: P, phase, ADC."""
    word = text.strip()
    known = {*_KINDS, "magnitude"}
    return word.lower() if word.lower() in known else _LETTERS.get(word.upper()) or kind_of((word.upper(),))


def _tiles(frame: Frame, mosaic: Mosaic) -> list[Frame]:
    rows, cols = frame.rows // mosaic.across, frame.cols // mosaic.across
    tiles = []
    for index in range(mosaic.images):
        position: Numbers = ()
        if frame.position and frame.orientation and frame.spacing:
            col, row, normal = np.array(frame.orientation[:3]), np.array(frame.orientation[3:]), np.array(mosaic.normal)
            normal = normal if mosaic.normal else np.cross(col, row)
            first = np.array(frame.position)  # that of the whole mosaic, as if it were one image about the same middle
            first = first + col * frame.spacing[1] * (frame.cols - cols) / 2
            first = first + row * frame.spacing[0] * (frame.rows - rows) / 2
            position = tuple(float(x) for x in first + index * frame.depth_mm * normal)
        tiles.append(replace(frame, rows=rows, cols=cols, position=position, location=(), tile=(mosaic.across, index)))
    return tiles
