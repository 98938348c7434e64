"""What is drawn for the scans that verdicts are tried on: phantoms, and lesions and metal in heads.

Phantoms are functions of row and column, which go from -1 to 1 over the field of view; what is painted into a head is a
function of its image. Widths are in pixels of the reconstruction, other lengths in half fields of view.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[Any]
Place = tuple[float, float]
SIDE = 128
"""Rows and columns of what is reconstructed."""
FINE = 4 * SIDE
"""Rows and columns that phantoms are drawn at."""
PIXEL = 2 / SIDE
BAR_WIDTHS = (0.75, 1, 1.5, 2, 3, 4)
HOLE_WIDTHS = (1, 1.5, 2, 3, 4, 6)
ACROSS = 0.22
"""Columns from one block of bars to the next."""
LESION = ([0, 0.40, 0.48, 0.60, 0.68], [0.35, 0.35, 1.9, 1.9, 1.45])
"""Radii and levels of dead core, rim and swelling, over the radius of the lesion and the tissue that was there."""


def ball(y: Field, x: Field, *, centre: Place = (0.03, -0.05), radius: float = 0.72) -> Field:
    """Return a slice of a uniform sphere."""
    return _inside(radius - np.hypot(y - centre[0], x - centre[1]))


def resolution(y: Field, x: Field) -> Field:
    """Return a disc with blocks of bars along both axes, pairs of holes, and a bright square across the pixels."""
    dark = np.zeros(np.broadcast_shapes(y.shape, x.shape))
    for number, (bar, hole) in enumerate(zip(BAR_WIDTHS, HOLE_WIDTHS, strict=True)):
        left = ACROSS * (number - (len(BAR_WIDTHS) - 1) / 2)
        for top, upright in ((-0.45, True), (-0.22, False)):
            block = np.maximum(np.abs(y - top), np.abs(x - left)) < 0.4 * ACROSS
            along = (x - left if upright else y - top) / (bar * PIXEL)
            dark = np.maximum(dark, block & (along % 2 < 1))
        for top in (-0.02, 0.11):
            dark = np.maximum(dark, _inside(hole * PIXEL / 2 - np.hypot(y - top, x - left)))
    row, col = _turned(y - 0.45, x, 5)
    square = _inside(0.2 - np.maximum(np.abs(row), np.abs(col)))
    return 0.7 * _inside(0.85 - np.hypot(y, x)) * (1 - dark) + 0.3 * square


def grid(y: Field, x: Field, *, degrees: float = 7, spacing: float = 9, width: float = 1.5) -> Field:
    """Return a turned square with dark lines."""
    row, col = _turned(y, x, degrees)
    gap = spacing * PIXEL
    lines = [_inside(width * PIXEL / 2 - np.abs((axis + gap / 2) % gap - gap / 2)) for axis in (row, col)]
    return _inside(0.66 - np.maximum(np.abs(row), np.abs(col))) * (1 - 0.8 * np.maximum(*lines))


def lesion(image: Field, *, centre: Place, radius: float) -> Field:
    """Return a magnitude image with a tumour-like lesion: dark core, bright rim, swelling with an odd border."""
    y, x = _axes(image.shape)
    far, angle = np.hypot(y - centre[0], x - centre[1]), np.arctan2(y - centre[0], x - centre[1])
    r = far / (radius * (1 + 0.12 * np.cos(3 * angle + 0.5) + 0.07 * np.cos(5 * angle)))
    tissue = np.median(image[r < 1])
    weight = np.interp(r, [0.95, 1.08], [1, 0])
    return np.asarray((1 - weight) * image + weight * tissue * np.interp(r, *LESION), dtype=np.float32)


def metal(image: Field, *, centre: Place, radius: float) -> Field:
    """Return a complex image with a piece of metal: no signal in it, signal piled up around it, a dipole's phase."""
    y, x = _axes(image.shape)
    angle = np.arctan2(y - centre[0], x - centre[1])
    r = np.hypot(y - centre[0], x - centre[1]) / radius
    piled = 1 + 1.5 * np.exp(-(((r - 1.2) / 0.15) ** 2)) * np.cos(2 * angle).clip(0)
    phase = 8 * np.cos(2 * angle) / np.maximum(r, 1) ** 2
    return np.asarray(image * np.interp(r, [0.8, 1], [0, 1]) * piled * np.exp(1j * phase), dtype=np.complex64)


def _axes(shape: tuple[int, ...]) -> tuple[Field, Field]:
    """Return rows `(row, 1)` and columns `(1, col)` from -1 to 1, 0 at index n // 2."""
    rows, cols = ((np.arange(n) - n // 2) / (n / 2) for n in shape)
    return rows[:, None], cols[None, :]


def fine_axes() -> tuple[Field, Field]:
    """Return the rows and columns of a drawing."""
    return _axes((FINE, FINE))


def _turned(y: Field, x: Field, degrees: float) -> tuple[Field, Field]:
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return cos * y + sin * x, cos * x - sin * y


def _inside(depth: Field) -> Field:
    """Return 1 where the depth under an edge is positive, 0 outside, a ramp of one fine pixel between."""
    return np.clip(depth * FINE / 2 + 0.5, 0, 1)
