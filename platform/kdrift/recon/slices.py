"""One slice made ready for any method: coil maps, noise level and image scale, all from its undersampled data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from kdrift.methods import IMAGES, Chains, Measurement, magnitude
from kdrift.mri.coils import espirit_maps
from kdrift.mri.fourier import ifft2c
from kdrift.mri.image_scale import ImageScale
from kdrift.mri.linop import Sensitivities
from kdrift.mri.noise import estimate_noise_sigma

ZERO = "kspace is zero everywhere: nothing to reconstruct"
"""What is wrong with a slice that was padded, or not measured."""


@dataclass(frozen=True)
class OnDevice:
    """What can be moved to a device as a whole."""

    def to(self, device: str | torch.device) -> Self:
        """Return the same with all its tensors on another device."""
        held = vars(self).items()
        moved = {name: value.to(device) for name, value in held if isinstance(value, (Tensor, OnDevice))}
        return dataclasses.replace(self, **moved)


@dataclass(frozen=True)
class RawSlice(OnDevice):
    """One slice as it was read."""

    index: int
    """Number of the slice in its volume."""
    kspace: Tensor
    """Complex `(coil, row, col)`, zero where not sampled."""
    mask: Tensor
    """Boolean `(row, col)`."""
    smaps: Tensor | None = None
    """Coil maps that were given, `([set,] coil, row, col)`; None: they are to be estimated."""


@dataclass(frozen=True)
class HeldOut(OnDevice):
    """Sampled k-space that no method sees, to measure how well an image predicts it."""

    kspace: Tensor
    """Complex `(coil, row, col)`, zero outside of `mask`."""
    mask: Tensor
    """Boolean `(row, col)`."""


@dataclass(frozen=True)
class SliceData(OnDevice):
    """One slice to reconstruct, on the scale of the data; plain tensors, so that it travels between processes."""

    index: int
    """Number of the slice in its volume; a part of the chains' seeds."""
    kspace: Tensor
    """Complex `(coil, row, col)`, zero where not sampled."""
    mask: Tensor
    """Boolean `(row, col)`."""
    smaps: Tensor
    """Complex `([set,] coil, row, col)`."""
    noise_sigma: float
    """Standard deviation of each real component of the k-space noise."""
    zero_filled: Tensor
    """Magnitude `(row, col)` of the coil combination of `kspace`."""
    scale: float
    """Divisor that takes images to the scale of the prior: its rule on `zero_filled`, never on a reference."""
    heldout: HeldOut | None = None
    """Samples that are left out of `kspace` and `mask`."""
    start: Tensor | None = None
    """Complex `([set,] row, col)`, the image that a sampler starts from, where the plan names a start."""

    def of_coils(self, coils: tuple[int, int] | None) -> SliceData:
        """Return the slice with coils `[start, stop)` alone; None: with all. The scale stays that of all coils."""
        if coils is None:
            return self
        part = slice(*coils)
        heldout = self.heldout and HeldOut(self.heldout.kspace[part], self.heldout.mask)
        return dataclasses.replace(self, kspace=self.kspace[part], smaps=self.smaps[..., part, :, :], heldout=heldout)

    def measurement(self, chains: Chains = IMAGES) -> Measurement:
        """Return what a method is conditioned on, in the units of the prior."""
        scale = self.scale
        start = None if self.start is None else chains.start(self.start / scale, self.smaps)
        return Measurement(self.kspace / scale, self.mask, self.smaps, self.noise_sigma / scale, start, chains)


def prepare_slice(
    raw: RawSlice,
    *,
    noise_sigma: float | None = None,
    heldout: Tensor | None = None,
    scale: ImageScale | None = None,
    num_sets: int = 1,
    crop: float = 0.0,
    threshold: float = 0.02,
) -> SliceData:
    """Estimate what a slice does not come with: coil maps by ESPIRiT on its ACS, and its noise level.

    `num_sets`, `crop` and `threshold` are those of `kdrift.mri.coils.espirit_maps`; one coil has a map of ones. `scale`
    is the rule of the prior's images, by default their 0.99 quantile. `heldout` (row, col) marks samples to leave out
    and keep for measuring. Raises ValueError for k-space that is zero.
    """
    kspace, mask = raw.kspace, raw.mask
    kept_out = None if heldout is None else HeldOut(torch.where(heldout, kspace, 0), heldout)
    if heldout is not None:
        mask, kspace = mask & ~heldout, torch.where(heldout, 0, kspace)
    if not bool((kspace != 0).any()):
        raise ValueError(ZERO)
    if raw.smaps is not None:
        smaps = raw.smaps
    elif len(kspace) == 1:
        smaps = torch.ones_like(kspace)
    else:
        smaps = espirit_maps(kspace, num_sets=num_sets, crop=crop, threshold=threshold)
    sigma = estimate_noise_sigma(kspace, mask) if noise_sigma is None else noise_sigma
    zero_filled = magnitude(Sensitivities(smaps).adjoint(ifft2c(kspace))[None])[0]
    factor = (scale or ImageScale()).of(zero_filled)
    return SliceData(raw.index, kspace, mask, smaps, sigma, zero_filled, factor, kept_out)
