"""A head phantom with smooth phase, coil maps and noise: the data that needs no download.

The geometry is that of Shepp and Logan (IEEE Trans. Nucl. Sci. 21:21, 1974) in three dimensions, with
tissues in place of densities, folded cortex, texture and lesions; every seed is another head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from kdrift.data.centring import fft_centred
from kdrift.data.volume import Attr, ComplexArray, FloatArray
from kdrift.mri.birdcage import birdcage_maps, plane
from kdrift.runs.seeds import numpy_rng

Contrast = Literal["T1", "T2", "FLAIR", "PD"]
Field = npt.NDArray[np.float64]

_TISSUES = ("skin", "skull", "csf", "grey", "white", "nuclei", "lesion")
_INTENSITY: dict[str, tuple[float, ...]] = {  # relative, in the order of _TISSUES
    "T1": (0.95, 0.07, 0.14, 0.46, 0.72, 0.55, 0.38),
    "T2": (0.60, 0.06, 1.00, 0.62, 0.43, 0.50, 0.85),
    "FLAIR": (0.50, 0.05, 0.12, 0.62, 0.48, 0.55, 0.95),
    "PD": (0.55, 0.06, 0.85, 0.80, 0.64, 0.72, 0.90),
}
# tissue, centre x, y, z, half axes, degrees: x along columns, y to the back, z up, field of view [-1, 1]
_HEAD = (
    ("skin", 0.0, 0.0, 0.0, 0.72, 0.94, 0.95, 0.0),
    ("skull", 0.0, 0.0, 0.0, 0.68, 0.90, 0.91, 0.0),
    ("csf", 0.0, -0.005, 0.0, 0.635, 0.85, 0.86, 0.0),
)
_BRAIN = (0.0, -0.005, 0.0, 0.61, 0.82, 0.83, 0.0)
_INNER = (
    ("nuclei", 0.17, 0.02, 0.02, 0.09, 0.17, 0.14, -14.0),
    ("nuclei", -0.17, 0.02, 0.02, 0.09, 0.17, 0.14, 14.0),
    ("csf", 0.11, -0.08, 0.12, 0.055, 0.25, 0.17, -14.0),
    ("csf", -0.11, -0.08, 0.12, 0.055, 0.25, 0.17, 14.0),
    ("csf", 0.0, 0.08, -0.02, 0.018, 0.12, 0.16, 0.0),
    ("csf", 0.13, 0.34, 0.05, 0.045, 0.14, 0.12, 22.0),
    ("csf", -0.13, 0.34, 0.05, 0.045, 0.14, 0.12, -22.0),
)
SNR_DEFINITION = "20 log10(mean magnitude in the object / noise std of each real component, coil-combined)"


@dataclass(frozen=True)
class Phantom:
    """A simulated multi-coil scan. `kspace = FFT(smaps * image) + noise`."""

    kspace: ComplexArray
    """Complex k-space (slice, coil, row, col)."""
    reference: FloatArray
    """Root sum of squares of the noise-free coil images (slice, row, col)."""
    image: ComplexArray
    """Complex image (slice, row, col)."""
    smaps: ComplexArray
    """Coil maps S (slice, coil, row, col), sum over coils of |S|^2 = 1."""
    noise_std: float
    """Standard deviation of the noise, of the real and of the imaginary part of every k-space sample."""
    attrs: dict[str, Attr]


def phantom_volume(
    num_slices: int,
    rows: int,
    cols: int,
    num_coils: int,
    seed: int = 0,
    snr_db: float = 35.0,
    contrast: Contrast | None = None,
) -> Phantom:
    """Return a multi-coil k-space volume of the head phantom.

    Parameters
    ----------
    seed
        Anatomy, texture, phase, noise, and the contrast where none is given.
    snr_db
        20 log10(mean magnitude in the object / noise standard deviation of each real component), in the
        coil-combined image; infinity for none.

    Raises
    ------
    ValueError
        For sizes below 1 (8 for rows and columns) or an unknown contrast.
    """
    if num_coils < 1:
        raise ValueError(f"phantom needs at least 1 coil, got {num_coils}")
    contrast = contrast or get_args(Contrast)[seed % 4]
    magnitude = phantom_images(num_slices, rows, cols, seed, contrast)
    inside = magnitude[magnitude > 0.1 * magnitude.max()]
    noise_std = float(inside.mean(dtype=np.float64)) / 10 ** (snr_db / 20)
    y, x = plane(rows, cols)
    phase_terms = numpy_rng("phantom phase", seed).normal(0.0, 0.6, 7)
    kspace = np.empty((num_slices, num_coils, rows, cols), dtype=np.complex64)
    smaps, image = np.empty_like(kspace), np.empty((num_slices, rows, cols), dtype=np.complex64)
    for index, z in enumerate(slice_heights(num_slices)):
        basis = (np.ones_like(x * y), x + 0 * y, y + 0 * x, x * y, x**2 + 0 * y, y**2 + 0 * x, x**3 - y**3)
        phase = sum(weight * term for weight, term in zip(phase_terms, basis, strict=True)) + 0.4 * z
        image[index] = magnitude[index] * np.exp(1j * phase)
        smaps[index] = birdcage_maps(num_coils, rows, cols, z=0.5 * float(z))
        noise = numpy_rng("phantom noise", seed, index).normal(0.0, 1.0, (2, num_coils, rows, cols))
        kspace[index] = fft_centred(smaps[index] * image[index]) + noise_std * (noise[0] + 1j * noise[1])
    reference = np.sqrt((np.abs(smaps * image[:, None]) ** 2).sum(axis=1))
    attrs: dict[str, Attr] = {
        "simulated": True, "acquisition": f"AX{contrast}", "patient_id": f"phantom-{seed}",
        "phantom_seed": seed, "simulation_noise_std": noise_std,
        "simulation_snr_db": snr_db if np.isfinite(snr_db) else "no noise",
        "simulation_snr_definition": SNR_DEFINITION,
        "simulation_reference": "root sum of squares of the noise-free coil images",
    }  # fmt: skip
    return Phantom(kspace, reference.astype(np.float32), image, smaps, noise_std, attrs)


def phantom_images(
    num_slices: int, rows: int, cols: int, seed: int = 0, contrast: Contrast | None = None
) -> FloatArray:
    """Return axial magnitude images of the head phantom, float32 `(slice, row, col)`, in about [0, 1].

    Raises ValueError as in `phantom_volume`.
    """
    if num_slices < 1 or rows < 8 or cols < 8:
        raise ValueError(f"phantom is {num_slices} slices of {rows}x{cols}, expected at least 1 of 8x8")
    contrast = contrast or get_args(Contrast)[seed % 4]
    if contrast not in _INTENSITY:
        raise ValueError(f"unknown contrast {contrast!r}, expected one of {', '.join(_INTENSITY)}")
    rng = numpy_rng("phantom", seed)
    scale = 1 + rng.normal(0.0, [0.03, 0.03, 0.03])
    tilt = rng.normal(0.0, 4.0)
    shift = rng.normal(0.0, 0.015, 2)
    levels = dict(zip(_TISSUES, _INTENSITY[contrast] * (1 + rng.normal(0.0, 0.04, len(_TISSUES))), strict=True))
    folds, texture = _waves(rng, 40, 15.0, 30.0), _waves(rng, 24, 2.0, 12.0)
    inner = [(tissue, *(np.array(shape) * np.append(1 + rng.normal(0.0, 0.08, 6), 1.0))) for tissue, *shape in _INNER]
    lesions = [_lesion(rng) for _ in range(rng.integers(0, 6))]
    edge = 1.0 / min(rows, cols)  # half a pixel: edges as soft as the sampling
    y, x = plane(rows, cols)
    angle = np.deg2rad(tilt)
    u = ((x - shift[0]) * np.cos(angle) + (y - shift[1]) * np.sin(angle)) / scale[0]
    v = ((y - shift[1]) * np.cos(angle) - (x - shift[0]) * np.sin(angle)) / scale[1]
    images = np.empty((num_slices, rows, cols), dtype=np.float32)
    for index, height in enumerate(slice_heights(num_slices)):
        w = float(height) / scale[2]
        image = np.zeros((rows, cols))
        for tissue, *shape in _HEAD:
            image = _paint(image, levels[tissue], _depth(u, v, w, *shape), edge)
        depth = _depth(u, v, w, *_BRAIN)
        fold = np.abs(folds(u, v, w))
        cortex = _paint(np.full_like(image, levels["white"]), levels["grey"], 0.045 - depth, edge)
        # in the outer shell, sulci are where a band-limited random field is zero, with grey matter round them
        shell = np.clip((0.30 - depth) / 0.1, 0.0, 1.0)
        cortex = _paint(cortex, levels["grey"], 0.035 * shell - 0.05 * fold - 0.01 * (1 - shell), edge)
        cortex = _paint(cortex, levels["csf"], 0.012 * shell - 0.05 * fold - 0.01 * (1 - shell), edge)
        cortex = _paint(cortex, levels["csf"], 0.012 - np.abs(u) - 0.05 * (np.abs(v) < 0.45), edge)
        for tissue, *shape in inner:
            cortex = _paint(cortex, levels[tissue], _depth(u, v, w, *shape), edge)
        for lesion in lesions:
            cortex = _paint(cortex, levels["lesion"], _depth(u, v, w, *lesion), edge)
        image = _paint(image, cortex, depth, edge)
        images[index] = image * (1 + 0.035 * texture(u, v, w))
    return np.clip(images, 0.0, None)


def slice_heights(num_slices: int) -> Field:
    """Return the height of every slice, in half fields of view, from below the ventricles upwards."""
    return np.linspace(-0.15, 0.5, num_slices) if num_slices > 1 else np.array([0.08])


def _depth(u: Field, v: Field, w: float, *shape: float) -> Field:
    """Return the approximate depth below the surface of an ellipsoid (negative outside)."""
    cx, cy, cz, a, b, c, degrees = shape
    angle = np.deg2rad(degrees)
    along = (u - cx) * np.cos(angle) + (v - cy) * np.sin(angle)
    across = (v - cy) * np.cos(angle) - (u - cx) * np.sin(angle)
    radius = np.sqrt((along / a) ** 2 + (across / b) ** 2 + ((w - cz) / c) ** 2)
    return np.asarray((1 - radius) * min(a, b, c))


def _paint(image: Field, level: Field | float, depth: Field, edge: float) -> Field:
    """Return `image` with `level` where the depth is positive, in a smooth step of width `edge`."""
    ramp = np.clip(0.5 + depth / (2 * edge), 0.0, 1.0)
    alpha = ramp * ramp * (3 - 2 * ramp)
    return np.asarray((1 - alpha) * image + alpha * level)


def _waves(rng: np.random.Generator, count: int, low: float, high: float) -> Callable[..., Field]:
    """Return a random field of unit variance: plane waves of frequencies `low` to `high` rad per unit."""
    direction = rng.normal(size=(count, 3))
    direction *= (rng.uniform(low, high, count) / np.linalg.norm(direction, axis=1))[:, None]
    offset = rng.uniform(0, 2 * np.pi, count)

    def evaluate(u: Field, v: Field, w: float) -> Field:
        total = np.zeros(np.broadcast_shapes(u.shape, v.shape))
        for (fx, fy, fz), start in zip(direction, offset, strict=True):
            total += np.cos(fx * u + fy * v + (fz * w + start))
        return np.asarray(total * np.sqrt(2 / count))

    return evaluate


def _lesion(rng: np.random.Generator) -> tuple[float, ...]:
    """Return the ellipsoid of a lesion beside the ventricles."""
    side, size = rng.choice([-1.0, 1.0]), rng.uniform(0.02, 0.055)
    centre = (side * rng.uniform(0.2, 0.36), rng.uniform(-0.45, 0.5), rng.uniform(-0.1, 0.45))
    return (*centre, size, size * rng.uniform(0.6, 1.8), size * 2, rng.uniform(-40, 40))
