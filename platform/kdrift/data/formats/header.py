"""The ISMRMRD XML header, which fastMRI files and ISMRMRD raw data share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape

from kdrift.data.volume import Attr, BadVolume, naming

MAX_HEADER_BYTES = 8 << 20
_MAX_DEPTH = 64
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
    ("resonance_Hz", "experimentalConditions/H1resonanceFrequency_Hz", float),
)


@dataclass(frozen=True)
class Header:
    """What kdrift uses of an ISMRMRD header. Sizes are (x = readout, y = phase, z)."""

    encoded: tuple[int, int, int] | None = None
    recon: tuple[int, int, int] | None = None
    centre: tuple[int | None, int | None] = (None, None)
    """Centre of kspace_encoding_step_1 and _2."""
    trajectory: str = "cartesian"
    attrs: dict[str, Attr] = field(default_factory=dict)


def read_header(path: str, xml: bytes) -> Header:
    """Parse an ISMRMRD XML header (first encoding space).

    Document type declarations are refused, so no entity is ever expanded (billion laughs, external entities).

    Raises BadVolume when the XML is malformed, hostile, or a number in it is none.
    """
    texts = _texts(path, xml)
    encoded, recon = (_size(path, texts, space) for space in ("encodedSpace", "reconSpace"))
    attrs: dict[str, Attr] = {}
    for name, key, kind in _NAMES:
        if texts.get(key):
            attrs[name] = texts[key] if kind is None else _number(path, texts, key, kind)
    for name, space in (("fov_mm", "reconSpace"), ("encoded_fov_mm", "encodedSpace")):
        keys = [f"encoding/{space}/fieldOfView_mm/{axis}" for axis in "xyz"]
        if all(texts.get(key) for key in keys):
            attrs[name] = " x ".join(f"{_number(path, texts, key, float):g}" for key in keys)
    limits = "encoding/encodingLimits/kspace_encoding_step_"
    centre, maximum = _integer(path, texts, f"{limits}1/center"), _integer(path, texts, f"{limits}1/maximum")
    if encoded is not None:
        attrs["encoded_rows"], attrs["encoded_cols"], attrs["encoded_slices"] = encoded
        if centre is not None and maximum is not None:
            attrs["padding_left"] = encoded[1] // 2 - centre
            attrs["padding_right"] = encoded[1] // 2 - centre + maximum + 1
    centres = centre, _integer(path, texts, f"{limits}2/center")
    return Header(encoded, recon, centres, texts.get("encoding/trajectory", "cartesian").lower(), attrs)


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
    """Return the text of every leaf by its path below the root, first occurrence, namespaces dropped."""
    if len(xml) > MAX_HEADER_BYTES:
        raise BadVolume(path, f"XML header is {len(xml)} bytes, expected at most {MAX_HEADER_BYTES}")
    stack: list[str] = []
    pieces: list[list[str]] = []
    texts: dict[str, str] = {}

    def start(tag: str, _: dict[str, str]) -> None:
        if len(stack) >= _MAX_DEPTH:
            raise BadVolume(path, f"XML header is nested more than {_MAX_DEPTH} deep")
        stack.append(tag.rpartition(":")[2])
        pieces.append([])

    def end(_: str) -> None:
        texts.setdefault("/".join(stack[1:]), "".join(pieces.pop()).strip())
        stack.pop()

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
    sizes = [_integer(path, texts, f"encoding/{space}/matrixSize/{axis}") for axis in "xyz"]
    if sizes[0] is None or sizes[1] is None:
        return None
    size = (sizes[0], sizes[1], sizes[2] or 1)
    if min(size) < 1:
        raise BadVolume(path, f"XML header: {space} is {size}, expected positive sizes")
    return size
