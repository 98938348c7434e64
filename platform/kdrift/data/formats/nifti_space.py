"""Where a NIfTI header says that its voxels lie, and how far it is to be believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_UNITS_MM = {"meter": 1000.0, "micron": 0.001}
_CODES = {0: "unknown", 1: "scanner", 2: "aligned to another scan", 3: "Talairach", 4: "MNI", 5: "a template"}
_STANDARD = 3
_NEAR_MM = 0.1


@dataclass(frozen=True)
class Space:
    """Voxels of an image in the array's own order."""

    affine: npt.NDArray[np.float64]
    """4 x 4, from indices to mm (RAS)."""
    codes: tuple[str, ...]
    """Where each axis leads: one of L, R, A, P, S, I."""
    voxel_mm: tuple[float, float, float]
    stated: bool
    """Whether the header gives direction and place."""
    notes: tuple[str, ...]


def _is_regular(affine: npt.NDArray[Any]) -> bool:
    return bool(np.isfinite(affine).all() and (np.linalg.norm(affine[:3, :3], axis=0) > 0).all())


def space_of(image: Any) -> Space:
    """Return the space of an image of nibabel. Raises ValueError for a singular affine or one that is not finite."""
    from nibabel.orientations import aff2axcodes

    header, affine, notes = image.header, np.array(image.affine, dtype=float), list[str]()
    names = header.keys()
    sform = int(header["sform_code"]) if "sform_code" in names else 0
    qform = int(header["qform_code"]) if "qform_code" in names else 0
    if sform > 0 and qform > 0:
        corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * [*(*image.shape, 1)[:3], 1]
        apart = np.abs(corners @ (image.get_sform() - image.get_qform()).T).max()
        if apart > _NEAR_MM:
            notes.append(f"qform and sform lie up to {apart:.3g} mm apart: the sform is taken")
    if sform > 0 and qform > 0 and not _is_regular(affine) and _is_regular(turned := image.get_qform()):
        affine, sform, notes = turned, 0, ["its sform is singular or not finite: the qform is taken"]
    if not sform and not qform:
        notes.append("its header states no orientation: left and right, front and back are a guess")
    elif (code := sform or qform) >= _STANDARD:
        notes.append(f"its voxels lie in a standard space ({_CODES.get(code, code)}), not in that of the scanner")
    unit = header.get_xyzt_units()[0] if hasattr(header, "get_xyzt_units") else "mm"
    if unit in _UNITS_MM:
        affine[:3] *= _UNITS_MM[unit]
        notes.append(f"its unit of length is {unit}, which is converted to mm")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    codes = aff2axcodes(affine) if _is_regular(affine) else (None,)
    if None in codes or not np.isfinite(header.get_zooms()[:3]).all():
        raise ValueError("affine is singular or not finite, expected voxel axes in scanner space")
    size = (float(sizes[0]), float(sizes[1]), float(sizes[2]))
    return Space(affine, tuple(map(str, codes)), size, bool(sform or qform), tuple(notes))
