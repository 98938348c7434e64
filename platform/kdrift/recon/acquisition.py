"""From a file to what `reconstruct` takes: read, crop the readout, undersample, find the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from kdrift.data.centring import centre_crop
from kdrift.data.formats import open_volume
from kdrift.data.formats.fastmri import remove_readout_oversampling
from kdrift.data.measured import Marks, Sampling, common_mask, is_by_columns, magnitudes
from kdrift.data.store import find_stored_volume
from kdrift.data.volume import AS_THE_FILE_SAYS, BoolArray, FloatArray, Volume, VolumeInfo
from kdrift.mri.coils import rss
from kdrift.mri.fourier import ifft2c
from kdrift.mri.mask_place import check_mask
from kdrift.mri.unit import unit_of
from kdrift.recon.given_maps import check_noise_sigma, noise_doubts, read_coils, read_maps
from kdrift.recon.reference import ReferenceFit, reference_of
from kdrift.recon.request import AcquisitionRequest
from kdrift.recon.seen import Doubts, Seen
from kdrift.recon.slices import Coils, RawSlice
from kdrift.recon.undersample import Kept, crop_rows, given_mask, keep

_SAME = "give maps of all coils as measured, of the matrix before or after readout oversampling is removed"
_LAST = "their axes are probably row,col,coil: store them coils first, --axes is of the k-space alone"


@dataclass(frozen=True)
class AcquisitionFacts:
    """What results tell of the slices of a volume besides their images."""

    info: VolumeInfo
    slice_indices: list[int]
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
    notes: tuple[str, ...] = ()
    """Sentences on what was guessed, chosen, left out or is doubtful, those of the reader first."""

    def crop(self, images: Tensor) -> Tensor:
        """Cut the centre of `(*batch, row, col)` to `image_shape`."""
        return torch.from_numpy(centre_crop(images.numpy(), *self.image_shape).copy())


@dataclass(frozen=True, kw_only=True)
class Acquisition(AcquisitionFacts):
    """Some slices of a volume, ready to be reconstructed."""

    kspace: Tensor
    """Complex `(slice, coil, row, col)`, zero where not sampled."""
    smaps: Tensor | None = None
    """Coil maps that were given, `(slice, [set,] coil, row, col)`; None: they are to be estimated."""
    calibration: Tensor | None = None
    """Separate calibration data like `kspace`, for coil maps alone."""
    coils: Coils = field(default_factory=Coils)
    """What is known and asked of the coils."""

    def raw(self, position: int) -> RawSlice:
        """Return one of the slices, by its position in `slice_indices`."""
        smaps, calibration = (None if x is None else x[position] for x in (self.smaps, self.calibration))
        mask = self.mask if self.mask.ndim == 2 else self.mask[position]
        return RawSlice(self.slice_indices[position], self.kspace[position], mask, smaps, calibration, self.coils)


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
    with open_source(request) as opened:
        chosen = _chosen(opened, request)
        read = _read(opened, request, chosen)
        facts = _facts(opened, request, chosen, read.seen, read.sampling, read.kept)
    return Acquisition(
        **vars(facts), kspace=read.kspace, smaps=read.smaps, calibration=read.calibration, coils=read.coils
    )


def read_slice(opened: Volume, request: AcquisitionRequest, index: int) -> tuple[RawSlice, Seen]:
    """Read one slice of an open volume, as `load_acquisition` does; return it and what was seen of its k-space.

    Raises ValueError as that does.
    """
    read = _read(opened, request, range(index, index + 1))
    smaps, calibration = (None if x is None else x[0] for x in (read.smaps, read.calibration))
    mask = torch.from_numpy(np.array(common_mask(read.kept.mask)))
    return RawSlice(index, read.kspace[0], mask, smaps, calibration, read.coils), read.seen


def see_slice(opened: Volume, request: AcquisitionRequest, index: int) -> Seen:
    """Read one slice of an open volume for what is to be seen of it alone, also where it cannot be reconstructed."""
    return _look(opened, request, range(index, index + 1), judge=False).seen


def join_slices(opened: Volume, request: AcquisitionRequest, parts: Sequence[Seen]) -> AcquisitionFacts:
    """Return what `load_acquisition` would tell of slices that were read one by one; no k-space is read again."""
    chosen, seen = _chosen(opened, request), Seen.join(parts)
    sampling, given = _sampled(opened, request, chosen, seen.marks)
    kept = keep(sampling, request.mask, given, request.source)
    return _facts(opened, request, chosen, seen, sampling, kept)


def open_source(request: AcquisitionRequest) -> Volume:
    """Open the k-space that a request names; nothing but what its header says is read yet.

    Raises ValueError for images instead of k-space, and a file that cannot be read.
    """
    source, how = request.source, request.how
    opened: Volume | None = find_stored_volume(source)
    if opened is None:
        opened = open_volume(source, how)
    elif how != AS_THE_FILE_SAYS:
        raise ValueError(f"{source} is a volume of a store: select, axes and centred are said when it is converted")
    if opened.info.kind != "kspace":
        opened.close()
        raise ValueError(f"{source} holds images: make k-space from it with kdrift simulate")
    return opened


def declared_bytes(opened: Volume, request: AcquisitionRequest) -> int:
    """Return the size of the k-space of the slices that are asked for, as the header declares it."""
    info = opened.info
    return 8 * len(range(info.num_slices)[request.chosen]) * info.num_coils * info.rows * info.cols


@dataclass(frozen=True)
class _Looked:
    """K-space `(slice, coil, row, col)` of all that was measured, without readout oversampling."""

    kspace: Tensor
    sampling: Sampling
    given: BoolArray | None
    coils: Coils
    seen: Seen


@dataclass(frozen=True)
class _Read:
    kspace: Tensor
    sampling: Sampling
    kept: Kept
    smaps: Tensor | None
    calibration: Tensor | None
    coils: Coils
    seen: Seen


def _chosen(opened: Volume, request: AcquisitionRequest) -> range:
    """Return the slices that are asked for."""
    info = opened.info
    chosen = range(info.num_slices)[request.chosen]
    if not chosen:
        raise ValueError(f"{request.source} has {info.num_slices} slices; none is in the range asked for")
    declared, limit = declared_bytes(opened, request), request.max_bytes
    if limit is not None and declared > limit:
        raise ValueError(
            f"{request.source} declares {declared >> 20} MiB of k-space in {len(chosen)} slices, at most"
            f" {limit >> 20} MiB are read: ask for fewer slices"
        )
    return chosen


def _look(opened: Volume, request: AcquisitionRequest, chosen: range, judge: bool) -> _Looked:
    """Read slices, remove readout oversampling, and see what they hold; with `judge` raise what is wrong with them, as
    with the strongest slice of a volume."""
    start = chosen[0]
    kspace = torch.tensor(opened.read_kspace(start, chosen[-1] + 1))  # a copy: what a file maps is read-only
    levels = magnitudes(kspace.numpy())
    doubts = Doubts.found(float(levels.max()), lambda: opened.doubts(kspace.numpy(), start), judge)
    marks, coils = Marks.of(levels), read_coils(request, opened)
    sampling, given = _sampled(opened, request, chosen, marks)
    if request.noise_cov is None:  # that may be in any unit
        check_noise_sigma(request.noise_sigma, kspace)
        doubts = replace(doubts, sentences=(*doubts.sentences, *noise_doubts(coils, kspace)))
    rows = sampling.measured.shape[-2]
    if rows < kspace.shape[-2]:
        kspace = torch.from_numpy(remove_readout_oversampling(kspace.numpy(), rows))
    measured = torch.where(torch.from_numpy(sampling.measured)[:, None], kspace, 0)
    mask_doubts = Doubts()
    if given is not None and request.mask is not None:
        name, stated = f"the mask {request.mask.file}", request.centred is True
        mask_doubts = Doubts.found(
            float(measured.abs().max()), lambda: check_mask(measured.numpy(), given, name, stated=stated), judge
        )
    shown = None
    if opened.is_truth_stored or request.mask is not None:
        shown = np.stack([_shown(each, opened.info) for each in measured])  # one by one: less memory
    return _Looked(measured, sampling, given, coils, Seen(marks, doubts, mask_doubts, shown))


def _read(opened: Volume, request: AcquisitionRequest, chosen: range) -> _Read:
    """Read slices and undersample them, with what belongs to them."""
    looked, start, stop = _look(opened, request, chosen, judge=True), chosen[0], chosen[-1] + 1
    kspace, rows = looked.kspace, looked.kspace.shape[-2]
    calibration, calibrated = None, opened.read_calibration(start, stop)
    if calibrated is not None:
        calibration = torch.from_numpy(np.array(remove_readout_oversampling(calibrated, rows)))
    smaps = read_maps(request.smaps, opened, start, stop) if request.smaps is not None else None
    if smaps is not None:
        smaps = _fitted(smaps, kspace, opened.info.rows)
    kept = keep(looked.sampling, request.mask, looked.given, request.source)
    mask = torch.from_numpy(np.array(common_mask(kept.mask)))
    kspace = torch.where(mask if mask.ndim == 2 else mask[:, None], kspace, 0)
    return _Read(kspace, looked.sampling, kept, smaps, calibration, looked.coils, looked.seen)


def _shown(kspace: Tensor, info: VolumeInfo) -> FloatArray:
    """Return the root sum of squares of one slice `(coil, row, col)`, cropped."""
    unit = unit_of(kspace)  # of which squares stay in the range of float32
    return centre_crop((unit * rss(ifft2c(kspace / unit))).numpy(), *_image_shape(info, kspace.shape[-2])).copy()


def _facts(
    opened: Volume, request: AcquisitionRequest, chosen: range, seen: Seen, sampling: Sampling, kept: Kept
) -> AcquisitionFacts:
    """Return what is told of slices by what was seen of them, and by the reference that the file stores."""
    info = opened.info
    beyond = request.chosen.stop is not None and request.chosen.stop > info.num_slices
    asked = (f"slices {request.slices} were asked for, there are {info.num_slices}",) if beyond else ()
    shape = _image_shape(info, sampling.measured.shape[-2])
    reference = reference_of(opened, chosen, seen.shown, shape, sampling, kept)
    text = kept.text
    if sampling.is_complete and not kept.is_retrospective and reference.images is None:
        text += ": there is no reference to compare with"
    doubts = (*seen.doubts.told, *seen.mask_doubts.told)
    notes = (*info.notes, *asked, *doubts, *sampling.notes, *kept.notes, *reference.notes)
    return AcquisitionFacts(
        info=info, slice_indices=list(chosen), mask=torch.from_numpy(np.array(common_mask(kept.mask))), sampling=text,
        net_acceleration=kept.net_acceleration, reference=reference.images, reference_definition=reference.definition,
        image_shape=shape, reference_fit=reference.fit,
        notes=tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def _image_shape(info: VolumeInfo, rows: int) -> tuple[int, int]:
    """Return the size of images of k-space with so many rows."""
    return min(info.recon_rows, rows), min(info.recon_cols, info.cols)


def _sampled(
    opened: Volume, request: AcquisitionRequest, chosen: range, marks: Marks
) -> tuple[Sampling, BoolArray | None]:
    """Return what was measured and what a mask file marks, on the rows that removing readout oversampling leaves.

    It is removed where whole readout lines were measured and are kept.
    """
    sampling, given, info = opened.sampling_of(marks, chosen[0]), given_mask(request, opened.info), opened.info
    if given is not None and given.ndim == 3:
        given = given[chosen[0] : chosen[-1] + 1]
    rows, recon_rows = info.rows, info.recon_rows
    masks = [] if given is None or given.ndim == 1 else [given.reshape(-1, *given.shape[-2:])]
    whole = [mask for mask in masks if mask.shape[-2] == rows]
    if rows <= recon_rows or not all(is_by_columns(mask) for mask in (sampling.measured, *whole)):
        if len(whole) < len(masks):
            raise ValueError(f"the mask has {masks[0].shape[-2]} rows, k-space has {rows}")
        return sampling, given
    if whole:
        given = crop_rows(whole[0], recon_rows)
    fewer = replace(
        sampling, measured=crop_rows(sampling.measured, recon_rows), positions=sampling.positions * recon_rows // rows
    )
    return fewer, given


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
