"""Where the slices of ISMRMRD raw data lie, from the headers of their acquisitions."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdrift.data.geometry import Geometry, Vector

_TOLERANCE = 0.01
"""How far from orthonormal directions may be, and slices from even places in parts of their distance."""


def read_geometry(heads: Any, voxel_mm: Vector, depth: int) -> tuple[Geometry, tuple[str, ...]]:
    """Return the geometry of slabs from one acquisition header each, in their order, and what is doubtful of it.

    `position` is the middle of a slice, or of a slab of `depth` slices `voxel_mm[2]` apart, in mm (LPS); rows lie along
    `read_dir`, columns along `phase_dir`, slices of a slab along `slice_dir`. Where these are no orthonormal
    directions, or slices are not evenly spaced, the geometry is not `stated`.
    """
    read, phase, through = (np.asarray(heads[0][name], dtype=float) for name in ("read_dir", "phase_dir", "slice_dir"))
    axes = np.stack([read, phase, through])
    with np.errstate(all="ignore"):
        normal = np.isfinite(axes).all() and np.abs(axes @ axes.T - np.eye(3)).max() < _TOLERANCE
    if not normal:
        what = "zero" if not axes.any() else "not orthonormal"
        return Geometry(voxel_mm), (f"directions of the scan are {what} in the headers: orientation is unknown",)
    places = np.asarray(heads["position"], dtype=float)
    if not np.isfinite(places).all():
        return Geometry(voxel_mm), ("positions in the headers are not finite: orientation is unknown",)
    turned = np.stack([heads[name] for name in ("read_dir", "phase_dir", "slice_dir")], axis=1).astype(float)
    if not np.allclose(turned, axes, atol=_TOLERANCE):
        return Geometry(voxel_mm), ("slices have different directions: one place for all is not written",)
    step, notes = through * voxel_mm[2], []
    stated = True
    if len(places) > 1:
        span = (places[-1] - places[0]) / (len(places) - 1)
        gap = float(np.linalg.norm(span))
        even = np.abs(places - places[0] - np.arange(len(places))[:, None] * span).max() <= max(_TOLERANCE * gap, 1e-3)
        if depth > 1:  # slabs of several slices each
            even = even and np.abs(span - depth * step).max() <= _TOLERANCE * voxel_mm[2]
        elif gap > 0:
            step = span
        if gap == 0 or not even:
            why = "at the same position" if gap == 0 else "not evenly spaced"
            notes, stated = [f"slices are {why} in the headers: their places are not written"], False
    distance = float(np.linalg.norm(step))
    centre = places[0] - (depth // 2) * step * (depth > 1)
    directions = tuple(_vector(axis / np.linalg.norm(axis)) for axis in (read, phase, step))
    geometry = Geometry(
        (voxel_mm[0], voxel_mm[1], distance), (directions[0], directions[1], directions[2]), _vector(centre), stated
    )  # fmt: skip
    return geometry, tuple(notes)


def _vector(values: Any) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z
