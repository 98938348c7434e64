"""What goes wrong with a scan, or with what is told of it: functions of a full slice, for the scans of `trust_scans`.

The reference stays that of the undisturbed slice, but for a small field of view, whose folded image is what was asked
for. Objects move, coils stay: of a slice whose maps are known, or estimated from all of its k-space, the image moves
behind the maps, and what they do not explain, noise above all, stays where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

from benchmarks.trust_data import FullSlice, Maps, Shape, measured_maps
from kdrift.data.augment import smooth_phase
from kdrift.data.simulate import SIGNAL_FRACTION, normalise_maps
from kdrift.mri.birdcage import birdcage_maps
from kdrift.mri.coils import combine, espirit_maps, rss
from kdrift.mri.coils import normalise_maps as normalised
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.recon.slices import Coils
from kdrift.runs.seeds import numpy_rng

Pose = tuple[float, float, float]
"""Rows and columns that an object moved by, and degrees that it turned."""


def turned(scan: FullSlice) -> FullSlice:
    """Exchange rows and columns: the head lies on its side, and the other axis is undersampled."""
    true_maps, smaps, noise = (None if x is None else x.mT for x in (scan.true_maps, scan.smaps, scan.noise))
    return replace(
        scan, kspace=scan.kspace.mT.contiguous(), reference=scan.reference.mT, noise=noise, true_maps=true_maps,
        smaps=smaps,
    )  # fmt: skip


def by_rows(scan: FullSlice) -> FullSlice:
    """Undersample rows: the head stays upright."""
    return replace(scan, by_rows=True)


def told_noise(scan: FullSlice, factor: float) -> FullSlice:
    """State a noise level that is wrong by a factor."""
    return replace(scan, coils=Coils(noise_sigma=factor * scan.noise_sigma))


def noisier(scan: FullSlice, factor: float) -> FullSlice:
    """Multiply the noise that was added. Raises ValueError for a slice whose noise was measured with it."""
    if scan.noise is None:
        raise ValueError("the noise of a measured slice is not known apart from it: take a simulated one")
    noise = factor * scan.noise
    return replace(scan, kspace=scan.clean + noise, noise=noise, noise_sigma=factor * scan.noise_sigma)


def spiked(scan: FullSlice, height: float) -> FullSlice:
    """Put a spike of so many times the largest sample on an outer sampled position of the first coil."""
    return replace(scan, spike=height)


def add_spike(kspace: Tensor, mask: Tensor, height: float) -> Tensor:
    """Return undersampled k-space `(coil, row, col)` with the spike, on the sampled position nearest to its place.

    That is an eighth of the rows and of the columns away from a corner.
    """
    rows, cols = mask.shape
    row, col = rows // 8, cols - cols // 8
    far = (torch.arange(rows)[:, None] - row).square() + (torch.arange(cols)[None, :] - col).square()
    place = int(torch.where(mask, far, rows**2 + cols**2).argmin())
    spiked = kspace.clone()
    spiked[0, place // cols, place % cols] += height * kspace.abs().max()
    return spiked


def moving(scan: FullSlice, poses: Sequence[Pose], order: str) -> FullSlice:
    """Take each phase-encoding line in one of several poses.

    `order` says which: `blocks`, equal parts of all lines one after the other, or `waves`, four lines a pose and then
    the next one, again and again.
    """
    cols = scan.kspace.shape[-1]
    lines = torch.arange(cols)
    pose_of = lines * len(poses) // cols if order == "blocks" else lines // 4 % len(poses)
    maps = espirit_maps(scan.kspace, crop=0.0) if scan.true_maps is None else scan.true_maps
    image = combine(ifft2c(scan.clean), maps)
    kspace = scan.kspace.clone()
    for number, pose in enumerate(poses):
        there = pose_of == number
        change = fft2c(maps * (_moved(image, pose) - image))
        kspace[..., there] += change[..., there]
    return replace(scan, kspace=kspace)


def to_and_fro(rows: float, cols: float, count: int = 8) -> tuple[Pose, ...]:
    """Return poses of a regular motion, which goes so far to either side."""
    return tuple((rows * wave, cols * wave, 0.0) for wave in np.sin(2 * np.pi * np.arange(count) / count).tolist())


def small_field_of_view(scan: FullSlice, fraction: float) -> FullSlice:
    """Fold the coil images to a field of view of so much of the object's width, to an even number of columns.

    Two sets of maps are true: those of the middle, and of what folds into it. Those of a measured slice are ESPIRiT's
    of all of its k-space, before it is folded.
    """
    bright = scan.reference > SIGNAL_FRACTION * scan.reference.quantile(0.99)
    columns = bright.any(0).nonzero().flatten()
    width = 2 * round(fraction * int(columns[-1] - columns[0] + 1) / 2)
    clean = fft2c(_folded(ifft2c(scan.clean), width))
    noise = None if scan.noise is None else scan.noise[..., :width]
    kspace = clean if noise is None else clean + noise
    maps = espirit_maps(scan.kspace, crop=0.0) if scan.true_maps is None else scan.true_maps
    inner = torch.zeros(maps.shape[-1], dtype=torch.bool)
    inner[(len(inner) - width) // 2 :][:width] = True
    sets = torch.stack([_folded(torch.where(kept, maps, 0), width) for kept in (inner, ~inner)])
    return replace(scan, kspace=kspace, reference=rss(ifft2c(clean)), noise=noise, true_maps=normalised(sets))


def mirrored_maps(scan: FullSlice) -> FullSlice:
    """Give the maps of the mirrored scan."""
    mirrored = fft2c(ifft2c(scan.kspace).flip(-1))
    return replace(scan, smaps=espirit_maps(mirrored, crop=0.0))


def other_maps(scan: FullSlice, turns: int) -> FullSlice:
    """Give measured maps of other coils, turned by so many quarters."""
    coils, rows, cols = scan.kspace.shape
    maps = np.rot90(measured_maps((rows, cols), coils), turns, (-2, -1))
    return replace(scan, smaps=torch.from_numpy(maps.copy()))


def computed_maps(scan: FullSlice) -> FullSlice:
    """Give maps of a birdcage, which is not what the scan was seen through."""
    return replace(scan, smaps=torch.from_numpy(normalise_maps(birdcage_maps(*scan.kspace.shape))))


def reordered_maps(scan: FullSlice) -> FullSlice:
    """Give the true maps, with the coils in another order. Raises ValueError where they are not known."""
    if scan.true_maps is None:
        raise ValueError("the maps of a measured slice are not known: take a simulated one")
    return replace(scan, smaps=scan.true_maps.roll(1, 0))


def steep_coils(shape: Shape, seed: int = 0) -> Maps:
    """Return maps of 4 small coils whose phase turns faster between them than the kernels of ESPIRiT can follow.

    Complex64 `(coil, row, col)`, normalised: Gaussians in the corners of the field of view, whose phase turns twice
    over it, away from the corner, besides a smooth one of its own. Of 8 % of calibration lines ESPIRiT leaves 6 to 9 %
    of the energy of heads unexplained, of measured maps 0.1 %.
    """
    y, x = np.linspace(-1, 1, shape[0])[:, None], np.linspace(-1, 1, shape[1])[None, :]
    maps = []
    for coil, (row, col) in enumerate(((1, 1), (1, -1), (-1, -1), (-1, 1))):
        far = (y - 0.64 * row) ** 2 + (x - 0.64 * col) ** 2
        phase = smooth_phase(shape, 1.5, numpy_rng("coil maps", seed, coil), knots=5)
        maps.append(np.exp(-far / (2 * 0.6**2) + 1j * (phase + np.sqrt(2) * np.pi * (row * y + col * x))))
    return normalise_maps(np.stack(maps))


def _moved(image: Tensor, pose: Pose) -> Tensor:
    """Return a complex image `(row, col)` turned about its middle and then shifted, by cubic splines."""
    down, right, degrees = pose
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    back = np.array([[cos, sin], [-sin, cos]])
    middle = np.array(image.shape) // 2
    offset = middle - back @ (middle + np.array([down, right]))
    values = scipy.ndimage.affine_transform(image.numpy(), back, offset, order=3)
    return torch.from_numpy(values).to(image.dtype)


def _folded(images: Tensor, width: int) -> Tensor:
    """Return `(*batch, row, width)`: columns beyond it come in at the other side."""
    cols = images.shape[-1]
    place = (torch.arange(cols) - cols // 2 + width // 2) % width
    return images.new_zeros((*images.shape[:-1], width)).index_add(-1, place, images)
