"""Crops and random variation of training images: pure functions of an image and a generator."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from kdrift.data.data_config import DataConfig

FOREGROUND = 0.05
"""An image scaled to about 1 is foreground above this."""
CROP_TRIES = 8
KNOTS = 4
"""The smooth phase is a cubic surface through KNOTS x KNOTS random values."""


def crop_random(image: np.ndarray, size: int, min_foreground: float, rng: np.random.Generator) -> np.ndarray:
    """Return a random (size, size) crop with enough foreground, or the best of `CROP_TRIES`."""
    image = pad_to(image, size)
    best, best_fraction = image[:size, :size], -1.0
    for _ in range(CROP_TRIES):
        row = int(rng.integers(image.shape[0] - size + 1))
        col = int(rng.integers(image.shape[1] - size + 1))
        crop = image[row : row + size, col : col + size]
        if min_foreground <= 0:
            return crop
        fraction = np.count_nonzero(np.abs(crop) > FOREGROUND) / crop.size
        if fraction > best_fraction:
            best, best_fraction = crop, fraction
        if fraction >= min_foreground:
            break
    return best


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """Resample a square image to (size, size) by antialiased bicubic interpolation; smaller ones are padded."""
    if image.shape[0] <= size:
        return pad_to(image, size)
    parts = channels(image) if np.iscomplexobj(image) else np.ascontiguousarray(image, dtype=np.float32)[None]
    small = F.interpolate(torch.from_numpy(parts)[None], size=(size, size), mode="bicubic", antialias=True)[0].numpy()
    return np.asarray(small[0] + 1j * small[1] if len(small) == 2 else small[0])


def crop_centre(image: np.ndarray, size: int) -> np.ndarray:
    """Return the centred (size, size) crop, padded with zeros where the image is smaller."""
    image = pad_to(image, size)
    row, col = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[row : row + size, col : col + size]


def pad_to(image: np.ndarray, size: int) -> np.ndarray:
    """Pad (row, col) with zeros around the centre to at least (size, size)."""
    missing = [max(0, size - n) for n in image.shape]
    if not any(missing):
        return image
    return np.pad(image, [(m // 2, m - m // 2) for m in missing])


def augment(image: np.ndarray, how: DataConfig, rng: np.random.Generator) -> np.ndarray:
    """Vary a (row, col) image as `how` says, to float32 (channel, row, col); the draws are always made in one order."""
    flips, turns, sign = (int(rng.integers(n)) for n in (4, 4, 2))
    if how.flip:
        image = image[:: -1 if flips & 1 else 1, :: -1 if flips & 2 else 1]
    if how.rot90:
        image = np.rot90(image, turns)
    low, high = how.scale_jitter
    factor = np.float32(np.exp(rng.uniform(np.log(low), np.log(high))))
    if how.augment_phase == "sign" and sign:
        factor = -factor
    if how.augment_phase == "smooth":
        parts = with_phase(image, smooth_phase(image.shape, how.phase_rad, rng))
    elif how.augment_phase == "measured":
        parts = channels(image * np.exp(1j * rng.uniform(-np.pi, np.pi)))
    else:
        parts = channels(image)
    return np.ascontiguousarray((parts if how.images == "complex" else parts[:1]) * factor, dtype=np.float32)


def channels(image: np.ndarray) -> np.ndarray:
    """Return real and imaginary part of an image, which may be real, float32 (2, row, col)."""
    return np.stack([image.real, image.imag]).astype(np.float32)


def with_phase(image: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """Return real and imaginary part of image * exp(i phase), float32 (2, row, col)."""
    return np.stack([image * np.cos(phase), image * np.sin(phase)]).astype(np.float32)


def smooth_phase(shape: tuple[int, ...], std_rad: float, rng: np.random.Generator, knots: int = KNOTS) -> np.ndarray:
    """Return a random smooth phase in radians, float32 (row, col): a uniform constant plus a smooth surface.

    The surface passes through `knots` x `knots` values N(0, std_rad^2), interpolated by polynomials of degree
    knots - 1 (knots at the Chebyshev points, so that nothing overshoots at the border).
    """
    values = rng.normal(0.0, std_rad, (knots, knots))
    constant = rng.uniform(-np.pi, np.pi)
    rows, cols = (_interpolation(n, knots) for n in shape[-2:])
    return np.asarray(rows @ values @ cols.T + constant, dtype=np.float32)


def _interpolation(size: int, knots: int) -> np.ndarray:
    """Return the Lagrange basis (size, knots) of Chebyshev points on [-1, 1], sampled at pixel centres."""
    nodes = np.cos((np.arange(knots) + 0.5) * np.pi / knots)
    points = (np.arange(size) + 0.5) * 2 / size - 1
    basis = np.ones((size, knots))
    for k in range(knots):
        for other in range(knots):
            if other != k:
                basis[:, k] *= (points - nodes[other]) / (nodes[k] - nodes[other])
    return basis
