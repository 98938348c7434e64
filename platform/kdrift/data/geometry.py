"""Where a volume lies: voxel sizes, directions and position in the patient, from any header into any output.

Coordinates are DICOM's: millimetres along left, posterior, superior (LPS). NIfTI's are right, anterior, superior (RAS).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = tuple[float, float, float]
Matrix = npt.NDArray[np.float64]
_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_LARGEST_MM, _PERSON_MM, _SMALLEST_MM = 2000.0, 60.0, 1.0
"""Longest sides of a field of view: no scanner's is larger, hardly a person's is smaller, hardly any is."""
_FINEST_MM = 0.05
_SHEAR = 0.01
"""Cosine of the angle of two axes that are no longer at right angles."""
_AXES: tuple[Vector, Vector, Vector] = ((0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
"""Directions of (row, col, slice) where a file states none, of an axial image: to posterior, left, superior."""


@dataclass(frozen=True)
class Geometry:
    """Voxels of a volume `(slice, row, col)` and their place, whatever matrix it is cut to about its middle."""

    voxel_mm: Vector
    """Distance between neighbouring rows, columns and slices (slices with their gap), mm."""
    directions: tuple[Vector, Vector, Vector] = _AXES
    """Unit vectors (LPS) along which the row, the column and the slice number grow."""
    centre_mm: Vector = (0.0, 0.0, 0.0)
    """Where pixel (rows // 2, cols // 2) of slice 0 lies (LPS), mm: the middle of a centred FFT."""
    stated: bool = False
    """Whether directions and centre are those of the scan; else the voxels alone mean something."""

    @property
    def slice_distance_mm(self) -> float:
        """Distance of the planes of neighbouring slices: less than `voxel_mm[2]` where slices are also shifted."""
        if not self.shear_notes:
            return self.voxel_mm[2]
        row, col, through = np.array(self.directions)
        normal = np.cross(row, col)
        return float(self.voxel_mm[2] * abs(normal @ through) / np.linalg.norm(normal))

    @property
    def shear_notes(self) -> tuple[str, ...]:
        """A note where rows, columns and slices do not meet at right angles, else none."""
        axes = np.array(self.directions)
        most = np.abs(axes @ axes.T - np.eye(3)).max()
        angle = np.degrees(np.arccos(min(1.0, most)))
        said = (
            f"its axes meet at {angle:.0f} degrees, not at right angles: slices are sheared, each shifted in its plane"
        )
        return (said,) if most > _SHEAR else ()

    @property
    def fov_text(self) -> str:
        """Voxel size for people."""
        sizes = (*self.voxel_mm[:2], self.slice_distance_mm)
        return " x ".join(f"{size:g}" for size in sizes) + " mm (row x col x slice)"

    def affine_lps(self, rows: int, cols: int, first_slice: int = 0) -> Matrix:
        """Return the 4 x 4 matrix that takes (row, col, slice, 1) of an image to mm (LPS).

        `rows` and `cols` are those of the image, which keeps the middle; `first_slice` is the slice of this volume
        that is the image's slice 0.
        """
        matrix = np.eye(4)
        for axis, (direction, size) in enumerate(zip(self.directions, self.voxel_mm, strict=True)):
            matrix[:3, axis] = np.asarray(direction) * size
        matrix[:3, 3] = np.asarray(self.centre_mm) - matrix[:3, :3] @ (rows // 2, cols // 2, -first_slice)
        return matrix

    def affine_ras(self, rows: int, cols: int, first_slice: int = 0) -> Matrix:
        """Return the affine of a NIfTI file with axes (col, row, slice): mm along right, anterior, superior."""
        return np.asarray((_RAS @ self.affine_lps(rows, cols, first_slice))[:, [1, 0, 2, 3]])

    def starting_at(self, first_slice: int) -> Geometry:
        """Return the geometry of the slices from `first_slice` on."""
        moved = np.asarray(self.centre_mm) + first_slice * self.voxel_mm[2] * np.asarray(self.directions[2])
        return replace(self, centre_mm=_vector(moved))

    def resized(self, row_mm: float, col_mm: float) -> Geometry:
        """Return the geometry of the same field at another pixel size."""
        return replace(self, voxel_mm=(row_mm, col_mm, self.voxel_mm[2]))


def from_dict(values: Mapping[str, Any]) -> Geometry:
    """Return a geometry from what `dataclasses.asdict` and JSON made of it."""
    row, col, through = (_vector(axis) for axis in values["directions"])
    return Geometry(
        _vector(values["voxel_mm"]), (row, col, through), _vector(values["centre_mm"]), bool(values["stated"])
    )  # fmt: skip


def from_affine_lps(affine: Matrix, rows: int, cols: int) -> Geometry:
    """Return the geometry of a volume whose (row, col, slice) `affine` takes to mm (LPS).

    Raises ValueError where an axis has no length or the matrix is not finite.
    """
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or (sizes <= 0).any():
        raise ValueError("the affine is singular or not finite")
    directions = (affine[:3, :3] / sizes).T
    centre = affine[:3, :3] @ (rows // 2, cols // 2, 0) + affine[:3, 3]
    row, col, through = (_vector(axis) for axis in directions)
    return Geometry(_vector(sizes), (row, col, through), _vector(centre), stated=True)


def from_affine_ras(affine: Matrix, rows: int, cols: int, *, stated: bool = True) -> Geometry:
    """Return the geometry of a volume whose (row, col, slice) `affine` takes to mm (RAS), as NIfTI has it."""
    return replace(from_affine_lps(_RAS @ affine, rows, cols), stated=stated)


def from_slices(
    positions: Sequence[Sequence[float]],
    row_direction: Sequence[float],
    col_direction: Sequence[float],
    voxel_mm: Vector,
) -> Geometry:
    """Return the geometry of slices whose pixels (rows // 2, cols // 2) lie at `positions` (LPS, mm).

    The slice direction is that from the first to the last position, else the normal of row and column. The distance of
    slices is their mean one; with a single slice, `voxel_mm[2]`.
    """
    places = np.asarray(positions, dtype=float).reshape(-1, 3)
    along = places[-1] - places[0]
    distance = float(np.linalg.norm(along))
    normal = np.cross(np.asarray(col_direction, dtype=float), np.asarray(row_direction, dtype=float))
    through = along / distance if distance > 0 else normal / max(float(np.linalg.norm(normal)), 1e-12)
    depth = distance / (len(places) - 1) if distance > 0 else voxel_mm[2]
    directions = (_unit(row_direction), _unit(col_direction), _vector(through))
    return Geometry((voxel_mm[0], voxel_mm[1], depth), directions, _vector(places[0]), stated=True)


def unit_doubts(geometry: Geometry, rows: int, cols: int, *, may_be_small: bool = False) -> tuple[str, ...]:
    """Return a note where the field of view of so many rows and columns is hardly one in mm, else none.

    `may_be_small` says that one of a few mm or cm is no doubt.
    """
    tall, wide = geometry.voxel_mm[0] * rows, geometry.voxel_mm[1] * cols
    longest, finest = max(tall, wide), max(geometry.voxel_mm[:2])
    if longest > _LARGEST_MM:
        meant = "was it in micrometres?"
    elif longest < _SMALLEST_MM or finest < _FINEST_MM:
        meant = "was it in metres?"
    elif longest < _PERSON_MM and not may_be_small:
        meant = "was it in centimetres, or is it of a small animal or a part?"
    else:
        return ()
    return (f"its field of view would be {tall:.3g} x {wide:.3g} mm: {meant}",)


def _vector(values: Sequence[float] | Matrix) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _unit(values: Sequence[float]) -> Vector:
    array = np.asarray(values, dtype=float)
    return _vector(array / max(float(np.linalg.norm(array)), 1e-12))
