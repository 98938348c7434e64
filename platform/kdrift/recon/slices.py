"""One slice made ready for any method, all from its undersampled data: the one place where data are brought to a unit
scale, coils left out, whitened and compressed, and coil maps, noise level and image scale estimated."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from kdrift.methods import IMAGES, Chains, Measurement, magnitude
from kdrift.mri.coil_space import CoilSpace, coil_space, live_coils, maps_of, mix
from kdrift.mri.coils import calibration_box, coil_compression, espirit_maps, normalise_maps, rss
from kdrift.mri.fourier import ifft2c
from kdrift.mri.image_scale import ImageScale
from kdrift.mri.linop import Sensitivities
from kdrift.mri.map_sets import CROP, choose_sets, see_sets
from kdrift.mri.masks import detect_mask
from kdrift.mri.noise import SCATTER, coil_noise_sigma, differing_noise
from kdrift.mri.spikes import without_spikes
from kdrift.mri.unit import unit_of
from kdrift.recon.request import SIGMA

UNNORMALISED = 0.01
"""Maps that are given count as normalised within this."""

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
class Coils(OnDevice):
    """What is known of the coils besides k-space, and asked of them: the same for all slices of a volume."""

    noise_cov: Tensor | None = None
    """Covariance of the noise `(coil, coil)` in any unit: it weights coils against each other."""
    noise_source: str = ""
    """Where that comes from, in words."""
    noise_sigma: float | None = None
    """Standard deviation of each real component of the noise of every coil, in the unit of the data, or of the median
    coil where there is a covariance; None: estimated."""
    virtual_coils: int | None = None
    """Compress to so many coils; None: all coils."""

    def __post_init__(self) -> None:
        if self.virtual_coils is not None and self.virtual_coils < 1:
            raise ValueError(f"virtual_coils must be at least 1, got {self.virtual_coils}")
        if self.noise_sigma is not None and not 0 < self.noise_sigma < math.inf:
            raise ValueError(SIGMA.format(self.noise_sigma))


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
    calibration: Tensor | None = None
    """Calibration data for the coil maps alone, like `kspace`, zero where not measured; None: its own lines."""
    coils: Coils = field(default_factory=Coils)
    """What is known and asked of its coils."""


@dataclass(frozen=True)
class HeldOut(OnDevice):
    """Sampled k-space that no method sees, to measure how well an image predicts it."""

    kspace: Tensor
    """Complex `(coil, row, col)`, zero outside of `mask`."""
    mask: Tensor
    """Boolean `(row, col)`."""


@dataclass(frozen=True)
class SliceData(OnDevice):
    """One slice to reconstruct, in a unit of its own; plain tensors, so that it travels between processes.

    Its coils are those of `kdrift.mri.coil_space`. Images in the unit of the data are `magnitude(x) * unit`.
    """

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
    unit: float = 1.0
    """Power of two that k-space was divided by."""
    back: Tensor | None = None
    """Complex `(coil as measured, coil)`; None: the coils are those that were measured."""
    shading: Tensor | None = None
    """`(row, col)`: root sum of squares of the coils as measured, of an image of ones; None: 1."""
    noise_source: str = ""
    """Where what is known of the coils' noise comes from, in words."""
    noise_stated: bool = False
    """Whether `noise_sigma` was stated; an estimate is an upper bound."""
    notes: tuple[str, ...] = ()
    """Sentences on what was left out, guessed or is doubtful, but for `sets_note`."""
    maps_estimated: bool = False
    """Whether its coil maps come from its calibration lines."""
    sets_note: str = ""
    """A sentence on the number of map sets, where the calibration lines ask for more than one."""

    @property
    def asked_sets(self) -> int:
        """Sets of coil maps that it has where its calibration lines ask for two; 0 where one is right, or as told."""
        return self.smaps.shape[:-3].numel() if self.sets_note else 0

    def with_maps(self, smaps: Tensor, scale: ImageScale | None = None) -> SliceData:
        """Return the slice with other coil maps, and what follows from them; `scale` is the rule of the prior."""
        zero_filled = Sensitivities(smaps).adjoint(ifft2c(self.kspace))[None]
        factor = (scale or ImageScale()).of(magnitude(zero_filled)[0])
        shading = None if self.back is None else _shading(self.back, smaps)
        found = dataclasses.replace(self, smaps=smaps, scale=factor, shading=shading)
        return dataclasses.replace(found, zero_filled=found.magnitude(zero_filled)[0])

    def of_coils(self, coils: tuple[int, int] | None) -> SliceData:
        """Return the slice with coils `[start, stop)` alone; None: with all. The scale stays that of all coils."""
        if coils is None:
            return self
        part = slice(*coils)
        heldout = self.heldout and HeldOut(self.heldout.kspace[part], self.heldout.mask)
        back = None if self.back is None else self.back[:, part]
        smaps = self.smaps[..., part, :, :]
        return dataclasses.replace(self, kspace=self.kspace[part], smaps=smaps, heldout=heldout, back=back)

    def of_sets(self, most: int) -> SliceData:
        """Return the slice with the first sets of its coil maps, at most `most`."""
        return dataclasses.replace(self, smaps=self.smaps.reshape(-1, *self.smaps.shape[-3:])[:most].squeeze(0))

    def magnitude(self, x: Tensor, chains: Chains = IMAGES) -> Tensor:
        """Combine images `(sample, *parts, row, col)` to magnitudes `(sample, row, col)`.

        They are the root sum of squares of the coils as measured, whatever the weights that their noise gave them:
        |x| ||B S||, where B leads back to those coils; of several map sets || B sum_k S_k x_k ||.
        """
        if self.shading is None:
            return magnitude(x)
        if self.smaps.ndim == 4 and not chains.coil_images and self.back is not None:
            return rss(mix(self.back, Sensitivities(self.smaps).forward(x)))
        return magnitude(x) * self.shading

    def measured_maps(self) -> Tensor:
        """Return the maps of the coils as measured, normalised, zero for those that were left out."""
        return self.smaps if self.back is None else normalise_maps(mix(self.back, self.smaps))

    def measurement(self, chains: Chains = IMAGES) -> Measurement:
        """Return what a method is conditioned on, in the units of the prior."""
        scale = self.scale
        start = None if self.start is None else chains.start(self.start / scale, self.smaps)
        return Measurement(self.kspace / scale, self.mask, self.smaps, self.noise_sigma / scale, start, chains)


def prepare_slice(
    raw: RawSlice,
    *,
    heldout: Tensor | None = None,
    scale: ImageScale | None = None,
    num_sets: int | None = None,
    most_sets: int = 2,
    crop: float = 0.0,
    threshold: float = 0.02,
) -> SliceData:
    """Bring a slice to a unit scale, leave out dead coils, whiten, compress, and estimate what it does not come with.

    `num_sets`, `crop` and `threshold` are those of `kdrift.mri.coils.espirit_maps`; one coil has a map of ones. A
    second set ends where its eigenvalue is not above `kdrift.mri.map_sets.CROP`. `num_sets` None: as many as the
    calibration lines ask for (`choose_sets` there), at most `most_sets`, with a note where they ask for two.
    `scale` is the rule of the prior's images, by default their 0.99 quantile. `heldout` (row, col) marks samples to
    leave out and keep for measuring. Each slice is compressed by its own calibration data, so that its image does not
    depend on which slices are read with it.
    Raises ValueError for k-space that is zero, and a noise covariance that does not fit.
    """
    mask, unit, notes, sets_note, estimated = raw.mask, unit_of(raw.kspace), list[str](), "", False
    kspace = raw.kspace / unit
    unseen = None if heldout is None else torch.where(heldout, kspace, 0)
    if heldout is not None:
        mask, kspace = mask & ~heldout, torch.where(heldout, 0, kspace)
    if not bool((kspace != 0).any()):
        raise ValueError(ZERO)
    kspace, mask, left_out = without_spikes(kspace, mask)
    notes += left_out
    calibration = _calibration(raw, notes)
    space, source = _coil_space(raw.coils, kspace, mask, calibration, notes)
    if space is not None:
        kspace = space.apply(kspace)
        unseen = None if unseen is None else space.apply(unseen)
        calibration = None if calibration is None else space.apply(calibration)
    known, levels = raw.coils.noise_sigma, coil_noise_sigma(kspace, mask)
    sigma = float(levels.median()) if known is None else known / unit
    if raw.smaps is not None:
        smaps = _given(raw.smaps, space, notes)
    elif len(kspace) == 1:
        smaps = torch.ones_like(kspace)
    else:
        lines, estimated = kspace if calibration is None else calibration, True
        if num_sets is None:
            # the noisiest coil's; that of separate lines, which need not reach the periphery of k-space, is not known
            noise = max(sigma, float(levels.max())) if calibration is None else 0.0
            seen = see_sets(lines, threshold=threshold, noise_sigma=noise)
            num_sets, sets_note = choose_sets(seen, most_sets)
        crops = (crop, max(crop, CROP))[:num_sets]
        smaps = espirit_maps(lines, num_sets=num_sets, crop=crops, threshold=threshold)
    back = None if space is None else space.back.to(kspace.dtype)
    kept_out = None if unseen is None or heldout is None else HeldOut(unseen, heldout)
    data = SliceData(
        raw.index, kspace, mask, smaps, sigma, kspace[0].abs(), 1.0, kept_out,
        unit=unit, back=back, noise_source=source, noise_stated=known is not None,
        notes=tuple(notes), maps_estimated=estimated, sets_note=sets_note,
    )  # fmt: skip
    return data.with_maps(smaps, scale)


def _coil_space(
    asked: Coils, kspace: Tensor, mask: Tensor, calibration: Tensor | None, notes: list[str]
) -> tuple[CoilSpace | None, str]:
    """Return the coils to work with, None where they are those that were measured, and the source of their noise."""
    live, said = live_coils(kspace, asked.noise_cov)
    notes += said
    count = int(live.sum())
    if count == 0:
        raise ValueError(f"no coil is left to reconstruct from: {'; '.join(said)}")
    noise_cov, source = asked.noise_cov, asked.noise_source
    if noise_cov is None and asked.noise_sigma is not None:
        source = "noise_sigma, one for all coils"
    elif noise_cov is None:
        noise_cov, source = _estimated(kspace, mask, live, notes), "the periphery of k-space"
    space, virtual = coil_space(live, noise_cov), asked.virtual_coils
    if virtual is not None and virtual > count:
        notes.append(f"{count} coils are left, which are not compressed to {virtual}")
    elif virtual is not None and virtual < count:
        lines = kspace if calibration is None else calibration
        space = space.then(coil_compression(space.apply(lines), virtual)[1])
    same = torch.equal(space.back, torch.eye(len(live)).to(space.back))
    return None if same else space, source


def _estimated(kspace: Tensor, mask: Tensor, live: Tensor, notes: list[str]) -> Tensor | None:
    """Return the noise covariance by the periphery of k-space, None where the coils are equally noisy."""
    found = differing_noise(kspace[live], mask) if int(live.sum()) > 1 else None
    if found is None:
        return None
    sigma = torch.ones(len(live), dtype=torch.float64, device=live.device)
    sigma[live] = found.to(sigma)
    noisy = (live & (sigma > SCATTER * sigma[live].min())).nonzero().flatten().tolist()
    names = f"coil{'s' * (len(noisy) > 1)} {', '.join(map(str, noisy))}"
    notes.append(
        f"{names}: more than {SCATTER:g} times as noisy as the best coil at the periphery of k-space; coils are"
        " weighted by their noise"
    )
    return torch.diag(sigma.square()).to(torch.complex128)


def _calibration(raw: RawSlice, notes: list[str]) -> Tensor | None:
    """Return separate calibration data in a unit of their own, None where there are none that can be used."""
    if raw.calibration is None:
        return None
    region = calibration_box(detect_mask(raw.calibration), kspace=raw.calibration)
    if raw.calibration[..., region[0], region[1]].numel() == 0:
        notes.append("the calibration scan has no fully sampled centre: its own lines are used for the coil maps")
        return None
    return raw.calibration / unit_of(raw.calibration)


def _given(smaps: Tensor, space: CoilSpace | None, notes: list[str]) -> Tensor:
    """Return maps that were given for the coils as measured, as those of `space`, normalised, without sets of zeros."""
    if smaps.ndim == 4:
        used = smaps[smaps.flatten(1).any(1)]
        smaps = used[0] if len(used) == 1 else used
    norm = rss(smaps)
    norm = norm[norm > 0]
    if not len(norm):
        raise ValueError("the coil maps given are zero everywhere")
    normalised = float((norm - 1).abs().max()) <= UNNORMALISED
    if not normalised:
        notes.append(
            f"the coil maps given have a root sum of squares of {float(norm.min()):.3g} to {float(norm.max()):.3g}:"
            " normalised to 1, so that images are the root sum of squares of the coils"
        )
    if space is None:
        return smaps if normalised else normalise_maps(smaps)
    return maps_of(space, smaps)


def _shading(back: Tensor, smaps: Tensor) -> Tensor:
    """Root sum of squares of the coils as measured of an image of ones, 1 where there are no maps."""
    norm = rss(mix(back, smaps.reshape(-1, *smaps.shape[-3:])[0]))
    return torch.where(norm > 0, norm, 1)
