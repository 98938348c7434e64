"""Smooth coil maps of loops round the object: as they stand, or a random window of random ones."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

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
    y, x = plane(rows, cols)
    maps = np.empty((num_coils, rows, cols), dtype=np.complex128)
    for coil, (angle, height) in enumerate(_loops(num_coils)):
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
    place, mix = draw_coils(num_coils, rows, cols, rng)
    return np.asarray(maps_of(place[None], mix[None], rows, cols)[0].numpy())


def draw_coils(num_coils: int, rows: int, cols: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw what `maps_of` makes the maps of `random_coil_maps` from: a few numbers, so that maps can be made elsewhere.

    Returns where the window lies, float32 `(3, 3)`: y, x and z of its pixels in half fields of view, each as a
    constant, what a row adds and what a column adds; and how the loops are mixed, unitary complex64 `(coil, loop)`.
    """
    wide = rng.uniform(*FIELD_OF_VIEW)
    full = round(max(rows, cols) * wide)
    z = rng.uniform(-HEIGHT, HEIGHT)
    top, left = int(rng.integers(full - rows + 1)), int(rng.integers(full - cols + 1))
    turns = int(rng.integers(4))
    mix = np.diag(np.exp(1j * rng.uniform(-np.pi, np.pi, num_coils)))
    if rng.integers(2):
        gaussian = rng.standard_normal((2, num_coils, num_coils))
        mix = np.linalg.qr(gaussian[0] + 1j * gaussian[1])[0] @ mix
    step, first = 2 / full, -(full // 2) * 2 / full
    down = [first + step * top, step, 0.0], [first + step * left, 0.0, step]
    up = [first + step * (full - 1 - top), -step, 0.0], [first + step * (full - 1 - left), 0.0, -step]
    y, x = ((down[0], down[1]), (down[1], up[0]), (up[0], up[1]), (up[1], down[0]))[turns]
    place = torch.tensor([y, x, [z, 0.0, 0.0]], dtype=torch.float32)
    return place, torch.from_numpy(mix.astype(np.complex64))


def maps_of(place: Tensor, mix: Tensor, rows: int, cols: int) -> Tensor:
    """Return the coil maps of windows, complex64 `(batch, coil, row, col)`, on the device of what `draw_coils` drew.

    `place` is `(batch, 3, 3)`, `mix` `(batch, coil, loop)`; the maps' root sum of squares is what `mix` makes of 1.

    With r the distance from a loop's plane, positive outwards, and t that along it, the sensitivity of `birdcage_maps`
    is `(3 r^2 - |v|^2 + 2 a^2 + 3 i r t) / (|v|^2 + a^2)^(5/2)`, |v|^2 = r^2 + t^2 + v_z^2.
    """
    row, col = (torch.arange(n, dtype=torch.float32, device=place.device) for n in (rows, cols))
    y, x = (place[:, k, 0, None, None] + place[:, k, 1, None, None] * row[:, None] + place[:, k, 2, None, None] * col
            for k in (0, 1))  # fmt: skip
    loops = torch.empty(len(place), mix.shape[-1], rows, cols, 2, device=place.device)
    power = torch.zeros_like(x)
    for coil, (angle, height) in enumerate(_loops(mix.shape[-1])):  # one at a time stays in a CPU's caches
        r = (x * math.cos(angle)).add_(y, alpha=math.sin(angle)).sub_(_RING)
        t = (x * math.sin(angle)).add_(y, alpha=-math.cos(angle))
        imaginary = (r * t).mul_(3)
        r.square_()
        square = t.square_().add_(r).add_(((place[:, 2, 0] - height) ** 2 + _LOOP**2)[:, None, None])
        real = r.mul_(3).sub_(square).add_(3 * _LOOP**2)
        inverse = square.rsqrt_()
        inverse = inverse.square().square_().mul_(inverse)
        torch.mul(real, inverse, out=loops[:, coil, ..., 0])
        torch.mul(imaginary, inverse, out=loops[:, coil, ..., 1])
        power.add_(loops[:, coil].square().sum(-1))
    loops.mul_(power.rsqrt_()[:, None, ..., None])
    return torch.matmul(mix, torch.view_as_complex(loops).flatten(2)).reshape(loops.shape[:-1])


def _loops(num_coils: int) -> Iterator[tuple[float, float]]:
    """Yield angle and height of each loop, on one to three rings."""
    num_rings = 1 + (num_coils > 12) + (num_coils > 24)
    for coil in range(num_coils):
        ring, place = coil % num_rings, coil // num_rings
        in_ring = (num_coils - ring + num_rings - 1) // num_rings
        yield 2 * np.pi * (place + ring / num_rings) / in_ring, 0.7 * (ring - (num_rings - 1) / 2)
