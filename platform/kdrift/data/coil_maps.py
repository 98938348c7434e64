"""Random smooth coil maps for training on coil images."""

from __future__ import annotations

import numpy as np

from kdrift.data.phantom import birdcage_maps

FIELD_OF_VIEW = (1.0, 1.6)
"""Range of how much wider than the image the coils' field of view is: a crop sees a part of it."""
HEIGHT = 0.5
"""Slices lie up to this far from the middle of the coils, in half fields of view."""


def random_coil_maps(num_coils: int, rows: int, cols: int, rng: np.random.Generator) -> np.ndarray:
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
