"""From a file to what `reconstruct` takes: read, prewhiten, crop the readout, undersample, find the reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdrift.data.formats import open_volume
from kdrift.data.formats.fastmri import remove_readout_oversampling
from kdrift.data.store import is_store, open_stored_volume
from kdrift.data.volume import Volume, VolumeInfo, centre_crop
from kdrift.mri.coils import coil_compression, rss
from kdrift.mri.fourier import ifft2c
from kdrift.mri.masks import acs_region, make_mask
from kdrift.mri.noise import prewhiten


@dataclass(frozen=True)
class MaskRequest:
    """Retrospective undersampling; see `kdrift.mri.masks.make_mask`."""

    kind: str
    """Key of `kdrift.mri.masks.KINDS`."""
    acceleration: float = 4.0
    """Nominal factor."""
    acs_fraction: float | None = None
    """Fully sampled centre as a fraction of the width."""
    acs_lines: int | None = None
    """Fully sampled centre in lines; give one of the two."""
    seed: int = 0
    """Of the draw."""
    released: bool = False
    """Draw as the published code does."""


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
    image_shape: tuple[int, int]
    """Rows and columns results are cropped to."""

    def crop(self, images: Tensor) -> Tensor:
        """Cut the centre of `(*batch, row, col)` to `image_shape`."""
        return torch.from_numpy(centre_crop(images.numpy(), *self.image_shape).copy())


def load_acquisition(
    source: str | Path,
    *,
    mask: MaskRequest | None = None,
    slices: slice | None = None,
    num_virtual_coils: int | None = None,
    max_bytes: int | None = None,
) -> Acquisition:
    """Read slices of a k-space file, or of a volume in a store (`X.zarr/NAME`), and undersample full data by `mask`.

    Data that were measured undersampled keep their own mask. `max_bytes` bounds the k-space read into memory, as the
    header declares it. The reference of retrospectively undersampled data is the
    stored one, else the root sum of squares of the full coil images.

    Raises
    ------
    ValueError
        Images instead of k-space, slices outside the volume, more than `max_bytes`, a mask for data that already have
        one, a file that cannot be read (`BadVolume`, which names it).
    """
    with _open(str(source)) as opened:
        info = opened.info
        if info.kind != "kspace":
            raise ValueError(f"{source} holds images: make k-space from it with kdrift simulate")
        chosen = range(info.num_slices)[slices or slice(None)]
        if not chosen:
            raise ValueError(f"{source} has {info.num_slices} slices; none is in the range asked for")
        declared = 8 * len(chosen) * info.num_coils * info.rows * info.cols
        if max_bytes is not None and declared > max_bytes:
            raise ValueError(
                f"{source} declares {declared >> 20} MiB of k-space in {len(chosen)} slices, at most {max_bytes >> 20}"
                " MiB are read: ask for fewer slices"
            )
        start, stop = chosen[0], chosen[-1] + 1
        kspace = torch.tensor(opened.read_kspace(start, stop))  # a copy: what a file maps into memory is read-only
        own_mask, noise_cov = opened.mask(), opened.noise_cov()
        stored = torch.from_numpy(opened.read_image(start, stop)) if info.has_reference else None
    if own_mask is not None and mask is not None:
        raise ValueError(f"{source} was measured undersampled and has a mask: leave out --mask")
    readout_only = own_mask is None or own_mask.ndim == 1
    if info.rows > info.recon_rows and readout_only:
        kspace = torch.from_numpy(remove_readout_oversampling(kspace.numpy(), info.recon_rows))
    if noise_cov is not None:
        kspace = prewhiten(kspace, torch.from_numpy(noise_cov))
    rows, cols = kspace.shape[-2:]
    shape = (min(info.recon_rows, rows), min(info.recon_cols, cols))
    reference, definition = None, ""
    if own_mask is not None:
        kept = torch.from_numpy(own_mask).expand(rows, cols)
        sampling = f"as measured, {kept.numel() / int(kept.sum()):.2f}x net"
    else:
        reference = stored if stored is not None and noise_cov is None else rss(ifft2c(kspace))
        reference = torch.from_numpy(centre_crop(reference.numpy(), *shape).copy())
        definition = "stored reconstruction" if stored is not None and noise_cov is None else "rss of full k-space"
        kept, sampling = torch.ones(rows, cols, dtype=torch.bool), "fully sampled"
        if mask is not None:
            drawn = make_mask(
                mask.kind, (rows, cols), acceleration=mask.acceleration, acs_fraction=mask.acs_fraction,
                acs_lines=mask.acs_lines, seed=mask.seed, released=mask.released,
            )  # fmt: skip
            kept, sampling = drawn.mask, drawn.description
    kspace = torch.where(kept, kspace, 0)
    if num_virtual_coils is not None:
        kspace, _ = coil_compression(kspace, num_virtual_coils, acs=acs_region(kept))
    return Acquisition(info, list(chosen), kspace, kept, sampling, reference, definition, shape)


def _open(source: str) -> Volume:
    in_store = is_store(source) or is_store(source.rstrip("/").rpartition("/")[0])
    return open_stored_volume(source) if in_store else open_volume(source)
