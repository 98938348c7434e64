"""From a file to what `reconstruct` takes: read, crop the readout, undersample, find the reference."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from kdrift.data.centring import centre_crop
from kdrift.data.formats import open_volume
from kdrift.data.formats.fastmri import remove_readout_oversampling
from kdrift.data.measured import Sampling, common_mask, is_by_columns
from kdrift.data.store import find_stored_volume
from kdrift.data.volume import AS_THE_FILE_SAYS, BoolArray, FloatArray, ReadOptions, Volume, VolumeInfo
from kdrift.mri.coils import rss
from kdrift.mri.fourier import ifft2c
from kdrift.mri.mask_place import check_mask
from kdrift.mri.unit import unit_of
from kdrift.recon.given_maps import noise_doubts, read_coils, read_maps
from kdrift.recon.reference import ReferenceFit, fit_reference
from kdrift.recon.request import AcquisitionRequest
from kdrift.recon.slices import Coils, RawSlice
from kdrift.recon.undersample import Kept, crop_rows, given_mask, keep

_SAME = "give maps of all coils as measured, of the matrix before or after readout oversampling is removed"
_LAST = "their axes are probably row,col,coil: store them coils first, --axes is of the k-space alone"
AS_STORED = "figures are against the image that the file stores: right where that is the truth"
COMPUTED = (
    "the target in the store was computed of this k-space, so it is no reference of its own (if the source has one,"
    " convert it again)"
)


@dataclass(frozen=True)
class Acquisition:
    """Some slices of a volume, ready to be reconstructed."""

    info: VolumeInfo
    slice_indices: list[int]
    kspace: Tensor
    """Complex `(slice, coil, row, col)`, zero where not sampled."""
    mask: Tensor
    """Boolean `(row, col)`, or `(slice, row, col)` where slices differ."""
    sampling: str
    """One line: how the mask came about, with nominal and net acceleration."""
    net_acceleration: float
    """Positions that were, or could be, measured, divided by those that are kept."""
    reference: Tensor | None
    """Magnitude `(slice, row, col)` of the fully sampled data, of `image_shape`."""
    reference_definition: str
    """How the reference was made; empty where there is none."""
    image_shape: tuple[int, int]
    """Rows and columns results are cropped to."""
    reference_fit: ReferenceFit | None = None
    """How a stored reference resembles the k-space; None: none is stored."""
    smaps: Tensor | None = None
    """Coil maps that were given, `(slice, [set,] coil, row, col)`; None: they are to be estimated."""
    calibration: Tensor | None = None
    """Separate calibration data like `kspace`, for coil maps alone."""
    coils: Coils = field(default_factory=Coils)
    """What is known and asked of the coils."""
    notes: tuple[str, ...] = ()
    """Sentences on what was guessed, chosen, left out or is doubtful, those of the reader first."""

    def raw(self, position: int) -> RawSlice:
        """Return one of the slices, by its position in `slice_indices`."""
        smaps, calibration = (None if x is None else x[position] for x in (self.smaps, self.calibration))
        mask = self.mask if self.mask.ndim == 2 else self.mask[position]
        return RawSlice(self.slice_indices[position], self.kspace[position], mask, smaps, calibration, self.coils)

    def crop(self, images: Tensor) -> Tensor:
        """Cut the centre of `(*batch, row, col)` to `image_shape`."""
        return torch.from_numpy(centre_crop(images.numpy(), *self.image_shape).copy())


def load_acquisition(request: AcquisitionRequest) -> Acquisition:
    """Read slices of a k-space file, or of a volume in a store, and undersample full data by the mask asked for.

    What was measured is decided by `kdrift.data.measured`, and nothing else is kept or drawn. The reference is the
    image that the file stores, else, of data that are undersampled here, the root sum of squares of all that was
    measured; other data have none, since they would be compared with themselves. A stored reference is compared with
    the k-space (`fit_reference`): where it does not fit, figures are against it as stored, and said to be doubtful.

    Raises ValueError for images instead of k-space, slices outside the volume, more than `max_bytes`, what cannot be
    k-space with these axes, a draw for data that have gaps, a mask, coil maps or a noise covariance that do not fit,
    and a file that cannot be read (`BadVolume`, which names it).
    """
    source = request.source
    with _open(source, request.how) as opened:
        info = opened.info
        if info.kind != "kspace":
            raise ValueError(f"{source} holds images: make k-space from it with kdrift simulate")
        chosen = range(info.num_slices)[request.chosen]
        if not chosen:
            raise ValueError(f"{source} has {info.num_slices} slices; none is in the range asked for")
        beyond = request.chosen.stop is not None and request.chosen.stop > info.num_slices
        asked = (f"slices {request.slices} were asked for, there are {info.num_slices}",) if beyond else ()
        declared, limit = 8 * len(chosen) * info.num_coils * info.rows * info.cols, request.max_bytes
        if limit is not None and declared > limit:
            raise ValueError(
                f"{source} declares {declared >> 20} MiB of k-space in {len(chosen)} slices, at most {limit >> 20}"
                " MiB are read: ask for fewer slices"
            )
        start, stop = chosen[0], chosen[-1] + 1
        kspace = torch.tensor(opened.read_kspace(start, stop))  # a copy: what a file maps into memory is read-only
        doubts, sampling = opened.doubts(kspace.numpy(), start), opened.sampling(kspace.numpy(), start)
        given = given_mask(request, info)
        if given is not None and given.ndim == 3:
            given = given[start:stop]
        coils, calibrated = read_coils(request, opened), opened.read_calibration(start, stop)
        if request.noise_cov is None:  # that may be in any unit
            doubts += noise_doubts(coils, kspace)
        smaps = read_maps(request.smaps, opened, start, stop) if request.smaps is not None else None
        kspace, sampling, given = _without_oversampling(kspace, sampling, given, info.recon_rows)
        calibration = None
        if calibrated is not None:
            calibration = torch.from_numpy(np.array(remove_readout_oversampling(calibrated, kspace.shape[-2])))
        kspace = torch.where(torch.from_numpy(sampling.measured)[:, None], kspace, 0)
        if given is not None and request.mask is not None:
            name, stated = f"the mask {request.mask.file}", request.centred is True
            doubts += check_mask(kspace.numpy(), given, name, stated=stated)
        if smaps is not None:
            smaps = _fitted(smaps, kspace, info.rows)
        kept = keep(sampling, request.mask, given, source)
        reference = _reference(opened, chosen, kspace, sampling, kept)
    mask = torch.from_numpy(np.array(common_mask(kept.mask)))
    kspace = torch.where(mask if mask.ndim == 2 else mask[:, None], kspace, 0)
    text = kept.text
    if sampling.is_complete and not kept.is_retrospective and reference.images is None:
        text += ": there is no reference to compare with"
    notes = (*info.notes, *asked, *doubts, *sampling.notes, *kept.notes, *reference.notes)
    return Acquisition(
        info=info, slice_indices=list(chosen), kspace=kspace, mask=mask, sampling=text,
        net_acceleration=kept.net_acceleration, reference=reference.images, reference_definition=reference.definition,
        image_shape=_image_shape(info, kspace), reference_fit=reference.fit, smaps=smaps, calibration=calibration,
        coils=coils, notes=tuple(dict.fromkeys(notes)),
    )  # fmt: skip


@dataclass(frozen=True)
class _Reference:
    images: Tensor | None = None
    definition: str = ""
    fit: ReferenceFit | None = None
    notes: tuple[str, ...] = ()


def _reference(opened: Volume, chosen: range, kspace: Tensor, sampling: Sampling, kept: Kept) -> _Reference:
    """Return what figures are against: what the file stores, compared with its k-space, else what a mask left out."""
    info, shape = opened.info, _image_shape(opened.info, kspace)
    computed = (COMPUTED,) if info.has_reference and not opened.is_truth_stored else ()
    if not (opened.is_truth_stored or kept.is_retrospective):
        return _Reference(notes=computed)
    unit = unit_of(kspace)  # of which squares stay in the range of float32
    shown = centre_crop((unit * rss(ifft2c(kspace / unit))).numpy(), *shape)
    if not opened.is_truth_stored:
        definition = f"rss of {'full k-space' if sampling.is_complete else 'the k-space as measured'}"
        return _Reference(torch.from_numpy(shown.copy()), definition, notes=computed)
    stored = centre_crop(opened.read_image(chosen[0], chosen[-1] + 1), *shape)

    def other(index: int) -> FloatArray:
        return centre_crop(opened.read_image(index, index + 1)[0], *shape)

    fit = fit_reference(shown, stored, chosen, other, info.num_slices, sampling.measured)
    notes = [] if kept.is_retrospective else [AS_STORED]
    if fit is not None and fit.doubts:
        notes = [*fit.doubts, "figures are against the reference as stored, and are doubtful"]
    elif fit is not None and not fit.judged:
        notes.append("too little of the middle of k-space was measured to tell whether the stored reference fits it")
    return _Reference(torch.from_numpy(stored.copy()), "stored reconstruction", fit, tuple(notes))


def _image_shape(info: VolumeInfo, kspace: Tensor) -> tuple[int, int]:
    rows, cols = kspace.shape[-2:]
    return min(info.recon_rows, rows), min(info.recon_cols, cols)


def _without_oversampling(
    kspace: Tensor, sampling: Sampling, given: BoolArray | None, recon_rows: int
) -> tuple[Tensor, Sampling, BoolArray | None]:
    """Remove readout oversampling where whole readout lines were measured and are kept."""
    rows = kspace.shape[-2]
    masks = [] if given is None or given.ndim == 1 else [given.reshape(-1, *given.shape[-2:])]
    whole = [mask for mask in masks if mask.shape[-2] == rows]
    if rows <= recon_rows or not all(is_by_columns(mask) for mask in (sampling.measured, *whole)):
        if len(whole) < len(masks):
            raise ValueError(f"the mask has {masks[0].shape[-2]} rows, k-space has {rows}")
        return kspace, sampling, given
    if whole:
        given = crop_rows(whole[0], recon_rows)
    fewer = replace(
        sampling, measured=crop_rows(sampling.measured, recon_rows), positions=sampling.positions * recon_rows // rows
    )
    return torch.from_numpy(remove_readout_oversampling(kspace.numpy(), recon_rows)), fewer, given


def _fitted(smaps: Tensor, kspace: Tensor, measured_rows: int) -> Tensor:
    """Crop maps of the oversampled readout as k-space was; raise ValueError where they do not fit it."""
    rows, cols = kspace.shape[-2:]
    if smaps.shape[-2] == measured_rows > rows and smaps.shape[-1] == cols:
        smaps = torch.from_numpy(centre_crop(smaps.numpy(), rows, cols).copy())
    if smaps.shape[-3:] != kspace.shape[-3:]:
        raise ValueError(
            f"smaps have (coil, row, col) {tuple(smaps.shape[-3:])}, k-space has {tuple(kspace.shape[-3:])}:"
            f" {_LAST if smaps.shape[-1] == len(kspace[0]) else _SAME}"
        )
    return smaps


def _open(source: str, how: ReadOptions) -> Volume:
    stored = find_stored_volume(source)
    if stored is None:
        return open_volume(source, how)
    if how != AS_THE_FILE_SAYS:
        raise ValueError(f"{source} is a volume of a store: select, axes and centred are said when it is converted")
    return stored
