"""The image that an ISMRMRD header means: which pixels of the encoded field are kept, and how large they are."""

from __future__ import annotations

from dataclasses import dataclass

from kdrift.data.formats.header import Encoding
from kdrift.data.geometry import Vector

_LONGEST_MM = 1e4
_ROUNDING = 1.01
"""Fields of view are rounded when they are written: so much larger than the encoded one is not larger."""


@dataclass(frozen=True)
class ImageField:
    """Pixels of the image, cut from the encoded field about its middle."""

    rows: int
    cols: int
    depth: int
    """Slices that are kept of a second phase encoding."""
    voxel_mm: Vector | None
    """Size of a pixel (row, col, slice), None where the header does not say."""
    notes: tuple[str, ...]


def image_field(encoding: Encoding, rows: int, cols: int, partitions: int = 1) -> ImageField:
    """Return the image of k-space `(partition, row, col)`: the reconstructed field of view out of the encoded one.

    Fields of view in mm decide, not matrix sizes: a header may ask for an interpolated matrix, which is noted and not
    imitated. Where fields of view are missing or senseless, the matrices decide, with a note.
    """
    axes = [_kept(encoding, axis, size) for axis, size in enumerate((rows, cols, partitions))]
    sizes = [size for size, _, _ in axes]
    notes: list[str] = []
    doubtful = [
        name for name, (_, _, stated) in zip(("rows", "columns", "partitions"), axes, strict=True) if not stated
    ]
    if partitions == 1:
        doubtful = [name for name in doubtful if name != "partitions"]
        axes[2] = (1, _thickness(encoding), True)
    if doubtful:
        notes.append(
            f"the header's fields of view, encoded {_text(encoding.encoded_fov_mm)} and reconstructed"
            f" {_text(encoding.recon_fov_mm)}, do not fit the {rows} x {cols} k-space along {' and '.join(doubtful)}:"
            " the image is cut by matrix sizes"
        )
    elif encoding.recon is not None and (sizes[0], sizes[1]) != encoding.recon[:2]:
        notes.append(
            f"the header asks for a matrix of {encoding.recon[0]} x {encoding.recon[1]} by interpolation: the image"
            f" keeps the {sizes[0]} x {sizes[1]} pixels of its field of view that were encoded"
        )
    row_mm, col_mm, slice_mm = (voxel for _, voxel, _ in axes)
    voxel_mm = None
    if row_mm is not None and col_mm is not None:
        voxel_mm = (row_mm, col_mm, slice_mm if slice_mm is not None else 1.0)
        if slice_mm is None:
            notes.append("the header does not state the slice thickness: 1 mm is written")
    return ImageField(sizes[0], sizes[1], sizes[2], voxel_mm, tuple(notes))


def same_field(one: Encoding, two: Encoding) -> bool:
    """Return whether two encoding spaces have the same distance of k-space samples, to one percent."""
    if one.encoded_fov_mm is None or two.encoded_fov_mm is None:
        return False
    pairs = zip(one.encoded_fov_mm, two.encoded_fov_mm, strict=True)
    planar = [_is_length(a) and _is_length(b) and max(a, b) < _ROUNDING * min(a, b) for a, b in pairs]
    return planar[0] and planar[1] and (planar[2] or not _is_3d(one))


def _kept(encoding: Encoding, axis: int, size: int) -> tuple[int, float | None, bool]:
    """Return pixels kept of `size` along an axis, their size in mm if known, and whether fields of view said so."""
    encoded = encoding.encoded_fov_mm[axis] if encoding.encoded_fov_mm is not None else None
    recon = encoding.recon_fov_mm[axis] if encoding.recon_fov_mm is not None else None
    matrix = encoding.recon[axis] if encoding.recon is not None else size
    as_encoded = encoding.encoded is not None and encoding.encoded[axis] == size and _is_length(encoded)
    if encoded is not None and as_encoded and recon is not None and 0 < recon <= _ROUNDING * encoded:
        kept = size * recon / encoded
        whole = matrix if abs(matrix - kept) < 1 else round(kept)  # fields of view are rounded, matrices are not
        return min(max(whole, 1), size), encoded / size, True
    voxel = encoded / size if encoded is not None and as_encoded else None
    if voxel is None and recon is not None and _is_length(recon):
        voxel = recon / matrix
    return min(matrix, size), voxel, False


def _thickness(encoding: Encoding) -> float | None:
    """Return the thickness of 2-D slices; a matrix of several counts the slices that share the field."""
    for fov, matrix in ((encoding.encoded_fov_mm, encoding.encoded), (encoding.recon_fov_mm, encoding.recon)):
        if fov is not None and _is_length(fov[2]):
            return fov[2] / (matrix[2] if matrix is not None else 1)
    return None


def _is_3d(encoding: Encoding) -> bool:
    return encoding.encoded is not None and encoding.encoded[2] > 1


def _is_length(value: float | None) -> bool:
    return value is not None and 0 < value < _LONGEST_MM


def _text(fov: Vector | None) -> str:
    return "none" if fov is None else " x ".join(f"{size:g}" for size in fov[:2]) + " mm"
