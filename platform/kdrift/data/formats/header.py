"""The ISMRMRD XML header, which fastMRI files and ISMRMRD raw data share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape

from kdrift.data.geometry import Vector
from kdrift.data.volume import Attr, BadVolume, naming

MAX_HEADER_BYTES = 8 << 20
_MAX_DEPTH = 64
_STEP = "encodingLimits/kspace_encoding_step_"
_COUNTERS = (
    "kspace_encoding_step_1", "kspace_encoding_step_2", "slice", "contrast", "phase", "repetition", "set", "average",
)  # fmt: skip
_MOST_COUNTED = (1 << 16) - 1
"""Counters of acquisitions have 16 bits; a limit beyond them, or below 0, is none."""
_NAMES: tuple[tuple[str, str, type[int] | type[float] | None], ...] = (
    ("field_T", "acquisitionSystemInformation/systemFieldStrength_T", float),
    ("receiver_channels", "acquisitionSystemInformation/receiverChannels", int),
    ("vendor", "acquisitionSystemInformation/systemVendor", None),
    ("model", "acquisitionSystemInformation/systemModel", None),
    ("protocol", "measurementInformation/protocolName", None),
    ("patient_id", "subjectInformation/patientID", None),
    ("study_uid", "studyInformation/studyInstanceUID", None),
    ("frame_of_reference_uid", "measurementInformation/frameOfReferenceUID", None),
    ("trajectory", "encoding/trajectory", None),
    ("calibration_mode", "encoding/parallelImaging/calibrationMode", None),
    ("resonance_Hz", "experimentalConditions/H1resonanceFrequency_Hz", float),
)


@dataclass(frozen=True)
class Encoding:
    """What kdrift uses of one encoding space. Sizes are (x = readout, y = phase, z), fields of view in mm."""

    encoded: tuple[int, int, int] | None = None
    recon: tuple[int, int, int] | None = None
    encoded_fov_mm: Vector | None = None
    """As written, which may be zero or senseless; NaN where no number stands; None where there is none."""
    recon_fov_mm: Vector | None = None
    centre: tuple[int | None, int | None] = (None, None)
    """Centre of kspace_encoding_step_1 and _2."""
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """First and last value of each counter that encodingLimits states, by the name of its element."""
    acceleration: tuple[int, int] = (1, 1)
    """Factors that parallelImaging states along kspace_encoding_step_1 and _2."""
    trajectory: str = "cartesian"
    calibration: str | None = None
    """calibrationMode of parallel imaging: embedded, interleaved, separate, external, other."""
    parameters: Mapping[str, float] = field(default_factory=dict)
    """Numbers by name of the trajectory's description."""


@dataclass(frozen=True)
class Header:
    """What kdrift uses of an ISMRMRD header."""

    encodings: tuple[Encoding, ...] = ()
    """The encoding spaces, in the order that acquisitions refer to them by."""
    attrs: dict[str, Attr] = field(default_factory=dict)
    """Facts of the scan; those of an encoding are of the first."""


def read_header(path: str, xml: bytes) -> Header:
    """Parse an ISMRMRD XML header.

    Document type declarations are refused, so no entity is ever expanded (billion laughs, external entities).

    Raises BadVolume when the XML is malformed, hostile, or a number in it is none.
    """
    texts = _texts(path, xml)
    attrs: dict[str, Attr] = {}
    for name, key, kind in _NAMES:
        if texts.get(key):
            attrs[name] = texts[key] if kind is None else _number(path, texts, key, kind)
    count = len({key.split("/", 1)[0] for key in texts if key.startswith(("encoding/", "encoding["))})
    names = ["encoding", *(f"encoding[{number}]" for number in range(1, count))][:count]
    encodings = tuple(_encoding(path, texts, name) for name in names)
    if encodings:
        first = encodings[0]
        for name, fov in (("fov_mm", first.recon_fov_mm), ("encoded_fov_mm", first.encoded_fov_mm)):
            if fov is not None:
                attrs[name] = " x ".join(f"{size:g}" for size in fov)
        if first.encoded is not None:
            attrs["encoded_rows"], attrs["encoded_cols"], attrs["encoded_slices"] = first.encoded
            maximum = _integer(path, texts, f"encoding/{_STEP}1/maximum")
            if first.centre[0] is not None and maximum is not None:
                attrs["padding_left"] = first.encoded[1] // 2 - first.centre[0]
                attrs["padding_right"] = first.encoded[1] // 2 - first.centre[0] + maximum + 1
    return Header(encodings, attrs)


def _encoding(path: str, texts: Mapping[str, str], name: str) -> Encoding:
    described = f"{name}/trajectoryDescription/"
    parameters: dict[str, float] = {}
    for key, value in texts.items():
        if key.startswith(described) and key.endswith("/value") and (called := texts.get(key[:-5] + "name")):
            parameters[called] = _float(value)
    limits = {}
    for counter in _COUNTERS:
        least, most = (
            _integer(path, texts, f"{name}/encodingLimits/{counter}/{end}") for end in ("minimum", "maximum")
        )
        if most is not None and 0 <= (least or 0) <= most <= _MOST_COUNTED:
            limits[counter] = (least or 0, most)
    factors = (_integer(path, texts, f"{name}/parallelImaging/accelerationFactor/{step}") for step in _COUNTERS[:2])
    first, second = (factor or 1 for factor in factors)
    encoded, recon = (_size(path, texts, f"{name}/{space}") for space in ("encodedSpace", "reconSpace"))
    encoded_fov, recon_fov = (_field_of_view(texts, f"{name}/{space}") for space in ("encodedSpace", "reconSpace"))
    return Encoding(
        encoded,
        recon,
        encoded_fov,
        recon_fov,
        (_integer(path, texts, f"{name}/{_STEP}1/center"), _integer(path, texts, f"{name}/{_STEP}2/center")),
        limits,
        (first, second),
        texts.get(f"{name}/trajectory", "cartesian").lower(),
        texts.get(f"{name}/parallelImaging/calibrationMode", "").lower() or None,
        parameters,
    )


def write_header(
    matrix: tuple[int, int],
    recon: tuple[int, int],
    fov_mm: tuple[float, float, float],
    fields: Mapping[str, Attr],
    slices: int = 1,
) -> str:
    """Return the XML of a Cartesian ISMRMRD header.

    `matrix` and `recon` are rows and columns of the encoded and of the reconstructed image, `fov_mm` the field of view
    (x, y, z) of the latter. `fields` may hold `field_T`, `receiver_channels` and `patient_id`.
    """
    (rows, cols), (recon_rows, recon_cols) = matrix, recon

    def space(tag: str, size: tuple[int, int], fov_x: float, fov_y: float) -> str:
        size_xml = _xml("matrixSize", x=size[0], y=size[1], z=slices)
        return _xml(tag, size_xml, _xml("fieldOfView_mm", x=f"{fov_x:g}", y=f"{fov_y:g}", z=f"{fov_mm[2]:g}"))

    def limits(step: int, size: int) -> str:
        return _xml(f"kspace_encoding_step_{step}", minimum=0, maximum=size - 1, center=size // 2)

    subject = {"patientID": fields["patient_id"]} if "patient_id" in fields else {}
    tags = {"field_T": "systemFieldStrength_T", "receiver_channels": "receiverChannels"}
    system = {tag: fields[name] for name, tag in tags.items() if name in fields}
    encoding = _xml(
        "encoding",
        space("encodedSpace", matrix, fov_mm[0] * rows / recon_rows, fov_mm[1] * cols / recon_cols),
        space("reconSpace", recon, fov_mm[0], fov_mm[1]),
        _xml("encodingLimits", limits(1, cols), limits(2, slices)),
        trajectory="cartesian",
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        + (_xml("subjectInformation", **subject) if subject else "")
        + (_xml("acquisitionSystemInformation", **system) if system else "")
        + _xml("experimentalConditions", H1resonanceFrequency_Hz=round(42.577478e6 * float(fields.get("field_T", 1.5))))
        + f"{encoding}</ismrmrdHeader>\n"
    )


def _xml(tag: str, *inner: str, **leaves: object) -> str:
    """Return an element that holds other elements and, after them, leaves with text."""
    texts = (f"<{name}>{escape(str(value))}</{name}>" for name, value in leaves.items())
    return f"<{tag}>{''.join([*inner, *texts])}</{tag}>"


def _texts(path: str, xml: bytes) -> dict[str, str]:
    """Return the text of every leaf by its path below the root, namespaces dropped; siblings of one name are numbered:
    `encoding`, `encoding[1]`.
    """
    if len(xml) > MAX_HEADER_BYTES:
        raise BadVolume(path, f"XML header is {len(xml)} bytes, expected at most {MAX_HEADER_BYTES}")
    stack: list[str] = []
    pieces: list[list[str]] = []
    siblings: list[dict[str, int]] = [{}]
    texts: dict[str, str] = {}

    def start(tag: str, _: dict[str, str]) -> None:
        if len(stack) >= _MAX_DEPTH:
            raise BadVolume(path, f"XML header is nested more than {_MAX_DEPTH} deep")
        name = tag.rpartition(":")[2]
        number = siblings[-1].get(name, 0)
        siblings[-1][name] = number + 1
        siblings.append({})
        stack.append(f"{name}[{number}]" if number else name)
        pieces.append([])

    def end(_: str) -> None:
        texts["/".join(stack[1:])] = "".join(pieces.pop()).strip()
        stack.pop()
        siblings.pop()

    def text(data: str) -> None:
        if pieces:
            pieces[-1].append(data)

    def refuse(*_: object) -> None:
        raise BadVolume(path, "XML header has a DOCTYPE: refused, since it could define entities")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    with naming(path, "XML header is malformed"):
        parser.Parse(xml, True)
    return texts


def _number(path: str, texts: Mapping[str, str], key: str, kind: type[int] | type[float]) -> int | float:
    try:
        value = kind(texts[key])
    except ValueError:
        value = float("nan")
    if not -1e12 < value < 1e12:  # also false for NaN
        raise BadVolume(path, f"XML header: {key} is {texts[key][:40]!r}, expected a number")
    return value


def _integer(path: str, texts: Mapping[str, str], key: str) -> int | None:
    return int(_number(path, texts, key, int)) if texts.get(key) else None


def _size(path: str, texts: Mapping[str, str], space: str) -> tuple[int, int, int] | None:
    sizes = [_integer(path, texts, f"{space}/matrixSize/{axis}") for axis in "xyz"]
    if sizes[0] is None or sizes[1] is None:
        return None
    size = (sizes[0], sizes[1], sizes[2] or 1)
    if min(size) < 1:
        raise BadVolume(path, f"XML header: {space} is {size}, expected positive sizes")
    return size


def _field_of_view(texts: Mapping[str, str], space: str) -> Vector | None:
    x, y, z = (texts.get(f"{space}/fieldOfView_mm/{axis}") for axis in "xyz")
    return None if not (x and y and z) else (_float(x), _float(y), _float(z))


def _float(text: str) -> float:
    """Return a number, NaN where the text is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")
