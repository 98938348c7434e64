"""Simulated multi-coil k-space from magnitude volumes: coil maps, smooth phase, noise at a stated SNR.

What it makes is labelled `simulated` with every parameter and the seed. Magnitude images carry the scanner's
filtering and interpolation, so results on them say nothing final about real k-space.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage

from kdrift.data.augment import smooth_phase
from kdrift.data.centring import centre_crop, fft_centred
from kdrift.data.volume import Attr, Volume, VolumeInfo
from kdrift.runs.seeds import numpy_rng

SIGNAL_FRACTION = 0.1
"""The object is where the magnitude exceeds this fraction of the volume's 0.99 quantile."""

UNKNOWN_FOV_MM = (220.0, 220.0, 5.0)
"""Written to headers, which must have one, where the source does not say."""


@dataclass(frozen=True)
class SimulationConfig:
    """How k-space is simulated."""

    num_coils: int | None = None
    """Coils: generated (default 8), or the principal virtual coils of `maps` (default all that were measured)."""
    maps: str | None = None
    """File .npy of measured maps, complex (coil, row, col); None generates birdcage maps."""
    snr_db: float | None = 30.0
    """20 log10(mean magnitude inside the object / noise standard deviation of each real component of the
    coil-combined image), over the whole volume; None adds no noise."""
    phase_order: int = 3
    """Polynomial order of the smooth phase along each axis; 0 leaves a random constant."""
    phase_rad: float = 1.0
    """Standard deviation of the phase at the knots of its polynomial, in radians; 0: no phase, images are real."""
    size: tuple[int, int] | None = None
    """Rows and columns: the image is cropped or padded with zeros around its centre; None keeps it."""
    matrix: tuple[int, int] | None = None
    """Rows and columns of a lower resolution over the same field of view (the centre of the image's k-space), after
    `size`; None keeps the resolution."""
    seed: int = 0
    """Seed of phase and noise; every slice has a generator of its own."""

    def __post_init__(self) -> None:
        if self.num_coils is not None and self.num_coils < 1:
            raise ValueError(f"num_coils is {self.num_coils}, expected at least 1")
        if self.snr_db is not None and not np.isfinite(self.snr_db):
            raise ValueError(f"snr_db is {self.snr_db}, expected a finite number or none")
        if not 0 <= self.phase_order <= 8:
            raise ValueError(f"phase_order is {self.phase_order}, expected 0 to 8")
        for name, size in (("size", self.size), ("matrix", self.matrix)):
            if size is not None and min(size) < 1:
                raise ValueError(f"{name} is {size}, expected positive rows and columns")


def simulate_volume(
    images: np.ndarray,
    smaps: np.ndarray,
    *,
    noise_std: float = 0.0,
    phase_order: int = 3,
    phase_rad: float = 1.0,
    seed: int = 0,
    first_slice: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return k-space `F(S m exp(i phi)) + n` and its noise-free root-sum-of-squares reference.

    Parameters
    ----------
    images
        Magnitudes m (slice, row, col).
    smaps
        Coil maps S (coil, row, col); with sum |S|^2 = 1 the reference is m and the noise of the coil-combined image has
        `noise_std` too, since the FFT is orthonormal.
    noise_std
        Standard deviation of the real and of the imaginary part of the noise of each coil, white over coils.
    first_slice
        Number of the first slice in its volume: slice i draws phase and noise from (seed, i), in whatever block.

    Returns
    -------
    tuple
        k-space complex64 (slice, coil, row, col) and reference float32 (slice, row, col).

    Raises
    ------
    ValueError
        If the shapes of images and maps differ.
    """
    if images.ndim != 3 or smaps.ndim != 3 or images.shape[1:] != smaps.shape[1:]:
        raise ValueError(f"images have shape {images.shape}, smaps {smaps.shape}: rows and columns must agree")
    kspace = np.empty((len(images), *smaps.shape), dtype=np.complex64)
    for i, magnitude in enumerate(images):
        rng = numpy_rng("simulation", seed, first_slice + i)
        phase = smooth_phase(magnitude.shape, phase_rad, rng, knots=phase_order + 1) if phase_rad else 0.0
        noise = rng.standard_normal((2, *smaps.shape), dtype=np.float32)
        kspace[i] = fft_centred(smaps * (magnitude * np.exp(1j * phase))) + noise_std * (noise[0] + 1j * noise[1])
    rss = np.sqrt((np.abs(smaps) ** 2).sum(0))
    return kspace, (images * rss).astype(np.float32)


def simulated(source: Volume, config: SimulationConfig, first: int = 0, last: int | None = None) -> Volume:
    """Return slices `first:last` of a magnitude volume as a k-space volume that is computed as it is read.

    Raises ValueError if the source has no images, the maps file is unsuitable, or the volume is empty.
    """
    info = source.info
    if info.kind == "kspace" and not info.has_reference:
        raise ValueError(f"{source.path} is k-space without a reference image; simulation needs magnitude images")
    last = info.num_slices if last is None else min(last, info.num_slices)
    if not 0 <= first < last:
        raise ValueError(f"slices {first}:{last} are empty, {source.path} has {info.num_slices}")
    images = source.read_image(first, last)
    if not images.any():
        raise ValueError(f"{source.path}: slices {first}:{last} hold nothing but 0, expected images to simulate from")
    if config.size is not None:
        images = fit(images, *config.size)
    field_of_view = images.shape[1:]
    if config.matrix is not None:
        images = lower_resolution(images, *config.matrix)
    rows, cols = images.shape[1:]
    smaps = coil_maps(config, rows, cols)
    noise_std = 0.0 if config.snr_db is None else mean_signal(images) / 10 ** (config.snr_db / 20)

    def load_kspace(start: int, stop: int) -> np.ndarray:
        kspace, _ = simulate_volume(
            images[start:stop], smaps, noise_std=noise_std, phase_order=config.phase_order, phase_rad=config.phase_rad,
            seed=config.seed, first_slice=first + start,
        )  # fmt: skip
        return kspace

    of_scan = {key: value for key, value in info.attrs.items() if not key.startswith("padding_")}  # of its k-space
    attrs = {**of_scan, **_labels(config, source, noise_std, len(smaps), first, last)}
    fov_mm = _fov_mm(attrs)
    if fov_mm is not None:  # cropping and padding keep the pixel size
        scale = field_of_view[0] / info.recon_rows, field_of_view[1] / info.recon_cols
        attrs["fov_mm"] = f"{fov_mm[0] * scale[0]:g} x {fov_mm[1] * scale[1]:g} x {fov_mm[2]:g}"
    geometry = info.geometry
    if geometry is not None:  # cut, filled up and resampled about the middle
        tall, wide = geometry.voxel_mm[0] * field_of_view[0], geometry.voxel_mm[1] * field_of_view[1]
        geometry = geometry.resized(tall / rows, wide / cols).starting_at(first)
    made = VolumeInfo(
        info.name, "kspace", len(images), len(smaps), rows, cols, rows, cols, has_reference=True, attrs=attrs,
        geometry=geometry, notes=info.notes,
    )  # fmt: skip
    noise_cov = 2 * noise_std**2 * np.eye(len(smaps), dtype=np.complex128)
    return Volume(
        path=source.path,
        info=made,
        load_kspace=load_kspace,
        load_image=lambda start, stop: images[start:stop],
        load_noise_cov=lambda: noise_cov if noise_std > 0 else None,
    )


def coil_maps(config: SimulationConfig, rows: int, cols: int) -> np.ndarray:
    """Return coil maps complex64 (coil, row, col) with sum |S|^2 = 1: generated, or measured and interpolated.

    One coil that is generated sees the image as it is.
    """
    if config.maps is None:
        if config.num_coils == 1:
            return np.ones((1, rows, cols), dtype=np.complex64)
        from kdrift.mri.birdcage import birdcage_maps

        return normalise_maps(np.asarray(birdcage_maps(config.num_coils or 8, rows, cols)))
    return resize_maps(load_maps(config.maps), rows, cols, config.num_coils)


def load_maps(path: str | Path) -> np.ndarray:
    """Read measured coil maps from .npy, complex (coil, row, col)."""
    maps: np.ndarray = np.load(path, allow_pickle=False)
    if maps.ndim != 3 or maps.dtype.kind != "c" or not np.isfinite(maps).all():
        raise ValueError(f"{path}: maps are {maps.dtype} {maps.shape}, expected finite complex (coil, row, col)")
    return maps


def resize_maps(maps: np.ndarray, rows: int, cols: int, num_coils: int | None = None) -> np.ndarray:
    """Interpolate coil maps by cubic splines to (coil, rows, cols), compress and normalise them.

    `num_coils` keeps that many principal virtual coils (singular vectors of the maps over pixels); coil noise
    stays white, since the combination is unitary.
    """
    if num_coils is not None and num_coils > len(maps):
        raise ValueError(f"{num_coils} coils asked for, the measured maps have {len(maps)}")
    if num_coils is not None and num_coils < len(maps):
        flat = maps.reshape(len(maps), -1)
        _, vectors = np.linalg.eigh(flat @ flat.conj().T)
        maps = (vectors[:, ::-1][:, :num_coils].conj().T @ flat).reshape(num_coils, *maps.shape[1:])
    zoom = (1, rows / maps.shape[1], cols / maps.shape[2])
    real, imag = (
        scipy.ndimage.zoom(part, zoom, order=3, mode="nearest", grid_mode=True) for part in (maps.real, maps.imag)
    )
    return normalise_maps(real + 1j * imag)


def normalise_maps(maps: np.ndarray) -> np.ndarray:
    """Divide coil maps by their root sum of squares where they are not zero, complex64."""
    rss = np.sqrt((np.abs(maps) ** 2).sum(0))
    return np.asarray(maps / np.where(rss > 0, rss, 1), dtype=np.complex64)


def mean_signal(images: np.ndarray) -> float:
    """Return the mean magnitude inside the object (see `SIGNAL_FRACTION`), 0 for an empty volume."""
    inside = images > SIGNAL_FRACTION * np.quantile(images, 0.99)
    return float(images[inside].mean()) if inside.any() else 0.0


def fit(images: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """Crop or pad with zeros the last two axes around the centre."""
    have = images.shape[-2:]
    padding = [
        (max(0, n // 2 - h // 2), max(0, (n - n // 2) - (h - h // 2))) for n, h in zip((rows, cols), have, strict=True)
    ]
    padded = np.pad(images, [(0, 0)] * (images.ndim - 2) + padding)
    return np.ascontiguousarray(centre_crop(padded, rows, cols))


def lower_resolution(images: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """Return magnitudes (slice, rows, cols) of the centre of the images' k-space, on the same scale.

    Raises ValueError if the images have fewer rows or columns.
    """
    have = images.shape[-2:]
    if rows > have[0] or cols > have[1]:
        raise ValueError(f"matrix is {rows}x{cols}, the images have {have[0]}x{have[1]}: resolution is only lowered")
    kspace = centre_crop(fft_centred(images), rows, cols)
    # conj(F(conj(k))) is the inverse transform; magnitudes need no second conjugate
    scale = np.sqrt(rows * cols / (have[0] * have[1]))
    return np.asarray(np.abs(fft_centred(kspace.conj()) * scale), dtype=np.float32)


def write_simulated(volume: Volume, path: str | os.PathLike[str]) -> None:
    """Write a simulated volume as an HDF5 file in the fastMRI layout."""
    from kdrift.data.formats.fastmri import write_fastmri

    stop = volume.info.num_slices
    kspace, reference = volume.read_kspace(0, stop), volume.read_image(0, stop)
    fov_mm = _fov_mm(volume.info.attrs) or UNKNOWN_FOV_MM
    write_fastmri(path, kspace, reference=reference, fov_mm=fov_mm, attrs=volume.info.attrs)


def _fov_mm(attrs: Mapping[str, Attr]) -> tuple[float, float, float] | None:
    try:
        first, second, third = (float(part) for part in str(attrs["fov_mm"]).split(" x "))
    except (KeyError, ValueError):
        return None
    return first, second, third


def _labels(
    config: SimulationConfig, source: Volume, noise_std: float, num_coils: int, first: int, last: int
) -> dict[str, Attr]:
    values: dict[str, Any] = asdict(config)
    values |= {
        "num_coils": num_coils,
        "maps": Path(config.maps).name if config.maps else "birdcage",
        "size": "x".join(map(str, config.size)) if config.size else "as the source",
        "matrix": "x".join(map(str, config.matrix)) if config.matrix else "as the source",
        "source": source.info.name,
        "slices": f"{first}:{last}",
        "noise_std": noise_std,
        "snr_db": "no noise" if config.snr_db is None else config.snr_db,
        "snr_definition": "20 log10(mean in the object / noise std of each real component, coil-combined)",
        "reference": "root sum of squares of the noise-free coil images",
    }
    return {"simulated": True, **{f"simulation_{key}": value for key, value in values.items()}}
