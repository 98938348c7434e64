"""From a file to what `reconstruct` takes: read, crop the readout, undersample, find the reference."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from kdrift.data.formats import open_volume
from kdrift.data.formats.fastmri import remove_readout_oversampling
from kdrift.data.store import is_store, open_stored_volume
from kdrift.data.volume import AS_THE_FILE_SAYS, ReadOptions, Volume, VolumeInfo, centre_crop
from kdrift.mri.coils import rss
from kdrift.mri.fourier import ifft2c
from kdrift.mri.masks import make_mask
from kdrift.mri.unit import unit_of
from kdrift.recon.given_maps import read_coils, read_maps
from kdrift.recon.request import AcquisitionRequest
from kdrift.recon.slices import Coils, RawSlice


@dataclass(frozen=True)
class Acquisition:
    """Some slices of a volume, ready to be reconstructed."""

    info: VolumeInfo
    slice_indices: list[int]
    kspace: Tensor
    """Complex `(slice, coil, row, col)`, zero where not sampled."""
    mask: Tensor
    """Boolean `(row, col)`."""
    sampling: str
    """One line: how the mask came about, with nominal and net acceleration."""
    reference: Tensor | None
    """Magnitude `(slice, row, col)` of the fully sampled data, of `image_shape`."""
    reference_definition: str
    """How the reference was made; empty where there is none."""
    image_shape: tuple[int, int]
    """Rows and columns results are cropped to."""
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
        return RawSlice(self.slice_indices[position], self.kspace[position], self.mask, smaps, calibration, self.coils)

    def crop(self, images: Tensor) -> Tensor:
        """Cut the centre of `(*batch, row, col)` to `image_shape`."""
        return torch.from_numpy(centre_crop(images.numpy(), *self.image_shape).copy())


def load_acquisition(request: AcquisitionRequest) -> Acquisition:
    """Read slices of a k-space file, or of a volume in a store, and undersample full data by the mask asked for.

    Data that were measured undersampled keep their own mask. The reference of retrospectively undersampled data is the
    stored one, else the root sum of squares of the full coil images; full data that are not undersampled have none,
    since they would be compared with themselves.

    Raises ValueError for images instead of k-space, slices outside the volume, more than `max_bytes`, a mask for data
    that already have one, coil maps or a noise covariance that do not fit, and a file that cannot be read (`BadVolume`,
    which names it).
    """
    source = request.source
    with _open(source, request.how) as opened:
        info = opened.info
        if info.kind != "kspace":
            raise ValueError(f"{source} holds images: make k-space from it with kdrift simulate")
        chosen = range(info.num_slices)[request.slice]
        if not chosen:
            raise ValueError(f"{source} has {info.num_slices} slices; none is in the range asked for")
        declared, limit = 8 * len(chosen) * info.num_coils * info.rows * info.cols, request.max_bytes
        if limit is not None and declared > limit:
            raise ValueError(
                f"{source} declares {declared >> 20} MiB of k-space in {len(chosen)} slices, at most {limit >> 20}"
                " MiB are read: ask for fewer slices"
            )
        start, stop = chosen[0], chosen[-1] + 1
        kspace = torch.tensor(opened.read_kspace(start, stop))  # a copy: what a file maps into memory is read-only
        own_mask, coils = opened.mask(), read_coils(request, opened)
        calibrated = opened.read_calibration(start, stop)
        stored = torch.from_numpy(opened.read_image(start, stop)) if info.has_reference else None
        smaps = read_maps(request.smaps, opened, start, stop) if request.smaps is not None else None
    if own_mask is not None and request.mask is not None:
        raise ValueError(f"{source} was measured undersampled and has a mask: leave out --mask")
    calibration = None if calibrated is None else torch.tensor(calibrated)
    readout_only = own_mask is None or own_mask.ndim == 1
    if info.rows > info.recon_rows and readout_only:
        kspace = torch.from_numpy(remove_readout_oversampling(kspace.numpy(), info.recon_rows))
        if calibration is not None:
            calibration = torch.from_numpy(remove_readout_oversampling(calibration.numpy(), info.recon_rows))
    if smaps is not None:
        smaps = _fitted(smaps, kspace, info.rows)
    rows, cols = kspace.shape[-2:]
    shape = (min(info.recon_rows, rows), min(info.recon_cols, cols))
    reference, definition = None, ""
    if own_mask is not None:
        kept = torch.from_numpy(own_mask).expand(rows, cols)
        sampling = f"as measured, {kept.numel() / int(kept.sum()):.2f}x net"
    elif request.mask is None:
        kept = torch.ones(rows, cols, dtype=torch.bool)
        sampling = "fully sampled, nothing left out: there is no reference to compare with"
    else:
        definition = "rss of full k-space" if stored is None else "stored reconstruction"
        unit = unit_of(kspace)  # of which squares stay in the range of float32
        reference = unit * rss(ifft2c(kspace / unit)) if stored is None else stored
        reference = torch.from_numpy(centre_crop(reference.numpy(), *shape).copy())
        drawn = make_mask(shape=(rows, cols), **asdict(request.mask))
        kept, sampling = drawn.mask, drawn.description
    kspace = torch.where(kept, kspace, 0)
    return Acquisition(
        info, list(chosen), kspace, kept, sampling, reference, definition, shape, smaps, calibration, coils, info.notes
    )


def _fitted(smaps: Tensor, kspace: Tensor, measured_rows: int) -> Tensor:
    """Crop maps of the oversampled readout as k-space was; raise ValueError where they do not fit it."""
    rows, cols = kspace.shape[-2:]
    if smaps.shape[-2] == measured_rows > rows and smaps.shape[-1] == cols:
        smaps = torch.from_numpy(centre_crop(smaps.numpy(), rows, cols).copy())
    if smaps.shape[-3:] != kspace.shape[-3:]:
        raise ValueError(
            f"smaps have (coil, row, col) {tuple(smaps.shape[-3:])}, k-space has {tuple(kspace.shape[-3:])}: give maps"
            " of all coils as measured, of the matrix before or after readout oversampling is removed"
        )
    return smaps


def _open(source: str, how: ReadOptions) -> Volume:
    if not (is_store(source) or is_store(source.rstrip("/").rpartition("/")[0])):
        return open_volume(source, how)
    if how != AS_THE_FILE_SAYS:
        raise ValueError(f"{source} is a volume of a store: select, axes and centred are said when it is converted")
    return open_stored_volume(source)
