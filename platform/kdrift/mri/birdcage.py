"""Smooth coil maps of loops round the object: as they stand, or a random window of random ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ComplexArray = npt.NDArray[np.complex64]

_RING, _LOOP = 1.5, 0.5  # radii of the rings and of a loop
FIELD_OF_VIEW = (1.0, 1.6)
"""Range of how much wider than the image the coils' field of view is: a crop sees a part of it."""
HEIGHT = 0.5
"""Slices lie up to this far from the middle of the coils, in half fields of view."""


def plane(rows: int, cols: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return y `(row, 1)` and x `(1, col)` in [-1, 1), 0 at index n//2."""
    y = (np.arange(rows) - rows // 2) / (rows / 2)
    x = (np.arange(cols) - cols // 2) / (cols / 2)
    return y[:, None], x[None, :]


def birdcage_maps(num_coils: int, rows: int, cols: int, z: float = 0.0) -> ComplexArray:
    """Return smooth coil maps complex64 `(coil, row, col)` with sum |S|^2 = 1.

    Loops of radius a stand round the field of view [-1, 1]^2 on one to three rings. With v from the loop
    and its normal m, the field is that of the vector potential m x v / (|v|^2 + a^2)^(3/2), which is exact
    on the axis and a dipole's far away: `B = (3 (m . v) v - |v|^2 m + 2 a^2 m) / (|v|^2 + a^2)^(5/2)`. The
    sensitivity is `B_x - i B_y` (reciprocity: Hoult, Concepts Magn. Reson. 12:173, 2000).

    `z` is the height of the slice, in half fields of view. Raises ValueError when a size is below 1.
    """
    if min(num_coils, rows, cols) < 1:
        raise ValueError(f"coil maps are {num_coils} of {rows}x{cols}, expected positive sizes")
    num_rings = 1 + (num_coils > 12) + (num_coils > 24)
    y, x = plane(rows, cols)
    maps = np.empty((num_coils, rows, cols), dtype=np.complex128)
    for coil in range(num_coils):
        ring, place = coil % num_rings, coil // num_rings
        in_ring = (num_coils - ring + num_rings - 1) // num_rings
        angle = 2 * np.pi * (place + ring / num_rings) / in_ring
        height = 0.7 * (ring - (num_rings - 1) / 2)
        normal_x, normal_y = -np.cos(angle), -np.sin(angle)
        vx, vy, vz = x - _RING * np.cos(angle), y - _RING * np.sin(angle), z - height
        square = vx**2 + vy**2 + vz**2
        along, own = 3 * (normal_x * vx + normal_y * vy), 2 * _LOOP**2 - square
        field = along * vx + own * normal_x - 1j * (along * vy + own * normal_y)
        maps[coil] = field / (square + _LOOP**2) ** 2.5 * -np.exp(1j * angle)  # phase 0 at the centre
    rss = np.sqrt((np.abs(maps) ** 2).sum(axis=0))
    return np.asarray(maps / rss, dtype=np.complex64)


def random_coil_maps(num_coils: int, rows: int, cols: int, rng: np.random.Generator) -> ComplexArray:
    """Return maps complex64 `(coil, row, col)` with sum |S|^2 = 1: a random window of random loops round the object.

    Height, width and place of the window, turn, order and phase of the coils are random; every second time the coils
    are mixed by a random unitary matrix, as the virtual coils of compressed data are.
    """
    wide = rng.uniform(*FIELD_OF_VIEW)
    size = max(rows, cols)
    full = round(size * wide)
    maps = birdcage_maps(num_coils, full, full, z=rng.uniform(-HEIGHT, HEIGHT))
    top, left = int(rng.integers(full - rows + 1)), int(rng.integers(full - cols + 1))
    maps = np.rot90(maps, int(rng.integers(4)), axes=(1, 2))[:, top : top + rows, left : left + cols]
    maps = maps * np.exp(1j * rng.uniform(-np.pi, np.pi, (num_coils, 1, 1)))
    if rng.integers(2):
        gaussian = rng.standard_normal((2, num_coils, num_coils))
        unitary = np.linalg.qr(gaussian[0] + 1j * gaussian[1])[0]
        maps = np.einsum("vc,cyx->vyx", unitary, maps)
    return np.ascontiguousarray(maps, dtype=np.complex64)
