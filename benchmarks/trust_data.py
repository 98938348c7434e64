"""Full slices that verdicts are tried on, before anything is undersampled or disturbed: real, simulated and drawn.

Real k-space is cropped about its middle, which keeps the field of view and lowers the resolution. Simulated slices are
seen as those of `held_out` are: through 8 virtual coils of the measured maps, with a smooth phase and noise at 30 dB.
What is drawn is drawn at 512 x 512, seen by the coils there, and then cropped in k-space, so that its edges lie between
the pixels of the image that is reconstructed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.held_out import DATA, MEASURED_MAPS
from benchmarks.trust_drawings import FINE, SIDE, Field, fine_axes
from kdrift.data.augment import smooth_phase
from kdrift.data.centring import centre_crop, fft_centred
from kdrift.data.formats import open_volume
from kdrift.data.simulate import fit, load_maps, lower_resolution, mean_signal, resize_maps
from kdrift.mri.coils import normalise_maps, rss
from kdrift.mri.fourier import ifft2c
from kdrift.mri.noise import estimate_noise_sigma
from kdrift.recon.slices import Coils
from kdrift.runs.seeds import numpy_rng

Shape = tuple[int, int]
Maps = npt.NDArray[np.complex64]
COILS, SNR_DB = 8, 30.0
SQUARE = (SIDE, SIDE)
FIELD_OF_VIEW: dict[str, Shape] = {"brain_nifti": (320, 320), "brain_dicom": (384, 384)}
"""Rows and columns that images are cropped or padded to before their resolution is lowered."""


@dataclass(frozen=True)
class FullSlice:
    """One fully sampled slice, what the reconstruction is told of it, and what is true of it."""

    kspace: Tensor
    """Complex `(coil, row, col)`."""
    reference: Tensor
    """Magnitude `(row, col)` on the scale of the data: root sum of squares of the coil images without the noise that
    was added, and without what disturbs the data."""
    noise_sigma: float
    """Standard deviation of each real component of the noise in k-space: that was added, or is estimated."""
    noise: Tensor | None = None
    """The part of `kspace` that is noise which was added; None: what there is was measured."""
    true_maps: Tensor | None = None
    """Coil maps `([set,] coil, row, col)` that it was seen through; None: not known."""
    smaps: Tensor | None = None
    """Coil maps that the reconstruction is given, right or wrong; None: it estimates its own."""
    coils: Coils = field(default_factory=Coils)
    """What the reconstruction is told of the coils."""
    spike: float | None = None
    """Height of a spike over the largest sample, which is put on a sampled position."""
    by_rows: bool = False
    """Whether rows are undersampled, not columns."""

    @property
    def clean(self) -> Tensor:
        """k-space without the noise that was added."""
        return self.kspace if self.noise is None else self.kspace - self.noise


@cache
def measured(file: str, index: int = 0, shape: Shape | None = SQUARE) -> FullSlice:
    """Return a slice of a fully sampled file of `DATA`, cropped in k-space to `shape`, of which None keeps half."""
    with open_volume(_found(file)) as volume:
        whole = torch.tensor(volume.read_kspace(index, index + 1)[0])
    rows, cols = shape or (whole.shape[-2] // 2, whole.shape[-1] // 2)
    kspace = torch.from_numpy(centre_crop(whole.numpy(), rows, cols).copy())
    # of all of k-space, since signal fills the periphery of what is cropped
    return FullSlice(kspace, rss(ifft2c(kspace)), estimate_noise_sigma(whole))


@cache
def imaged(source: str, index: int, side: int = SIDE, coils: Callable[[Shape], Maps] | None = None) -> FullSlice:
    """Return a slice of magnitude images of `DATA` as the coils see it; of 128 x 128 as `held_out` simulates it.

    `coils` makes other coil maps (coil, row, col) of (row, col). The noise is at 30 dB over the whole volume.
    """
    images = lower_resolution(_images(source), side, side)
    maps = (measured_maps if coils is None else coils)((side, side))
    return seen(images[index], maps, index, noise_sigma=mean_signal(images) / 10 ** (SNR_DB / 20))


def painted(source: str, index: int, paint: Callable[[Field], Field]) -> FullSlice:
    """Return a slice of images of `DATA` that was painted into at their own resolution, before the coils see it."""
    image = paint(_images(source)[index])
    return seen(image, measured_maps(FIELD_OF_VIEW[Path(source).parts[0]]), index, shape=SQUARE)


def drawn(draw: Callable[[Field, Field], Field], key: int) -> FullSlice:
    """Return a drawing, a function of row and column from -1 to 1, as the coils see it; `key` is part of its seed."""
    return seen(draw(*fine_axes()), measured_maps((FINE, FINE)), key, shape=SQUARE)


def seen(
    image: Field, maps: Maps, key: int, *, shape: Shape | None = None, noise_sigma: float | None = None
) -> FullSlice:
    """Return what coils see of an image `(row, col)` with a smooth phase of its own, cropped in k-space to `shape`.

    Phase and noise are drawn as `kdrift.data.simulate.simulate_volume` draws them of slice `key`. Noise whose level is
    not given is at 30 dB of the mean inside the object.
    """
    rows, cols = shape or image.shape
    rng = numpy_rng("simulation", 0, key)
    phase = smooth_phase(image.shape, 1.0, rng, knots=4)
    full = fft_centred(maps * (image * np.exp(1j * phase)))
    scale = math.sqrt(rows * cols / image.size)
    clean = torch.from_numpy((scale * centre_crop(full, rows, cols)).astype(np.complex64))
    reference = rss(ifft2c(clean))
    sigma = mean_signal(reference.numpy()[None]) / 10 ** (SNR_DB / 20) if noise_sigma is None else noise_sigma
    parts = rng.standard_normal((2, *clean.shape), dtype=np.float32)
    noise = torch.from_numpy((sigma * (parts[0] + 1j * parts[1])).astype(np.complex64))
    coarse = torch.from_numpy((scale * centre_crop(fft_centred(maps), rows, cols)).astype(np.complex64))
    return FullSlice(clean + noise, reference, sigma, noise, normalise_maps(ifft2c(coarse)))


@cache
def measured_maps(shape: Shape, num_coils: int = COILS) -> Maps:
    """Return the principal virtual coils of the measured maps, complex64 `(coil, row, col)`, normalised."""
    return resize_maps(load_maps(_found(Path(MEASURED_MAPS[1]).relative_to(DATA).as_posix())), *shape, num_coils)


@cache
def _images(source: str) -> Field:
    """Return the magnitudes of a volume of `DATA`, `(slice, row, col)`, all of one field of view in pixels."""
    with open_volume(_found(source)) as volume:
        images = volume.read_image(0, volume.info.num_slices)
    return fit(images, *FIELD_OF_VIEW[Path(source).parts[0]])


def _found(name: str) -> str:
    """Return the path of a file of `DATA`. Raises FileNotFoundError, with the reason, where it is absent."""
    if not (DATA / name).exists():
        raise FileNotFoundError(f"no {name} in {DATA}: set KDRIFT_DATA (kdrift fetch-data fetches all but torsos)")
    return str(DATA / name)
