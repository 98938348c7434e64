"""What is known of the coils and comes in files: their maps, and their noise."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdrift.data.array_file import read_array_file
from kdrift.data.formats.bart import read_bart_maps
from kdrift.data.formats.ismrmrd_table import read_noise
from kdrift.data.store import StoredVolume
from kdrift.data.volume import Volume
from kdrift.mri.noise import check_noise_cov, coil_noise_sigma, noise_covariance
from kdrift.recon.request import AcquisitionOptions
from kdrift.recon.slices import Coils

MAP_SETS = (2,)
"""Numbers of sets that a file of four axes can mean."""
FAR_ABOVE = 3.0
"""Noise of so many times the level at the periphery of k-space is doubtful."""
IN_FILE = "the noise scan in the file"
STORED = "store"
"""What to ask for to get the maps that `kdrift convert --smaps` made."""


def read_maps(where: str, volume: Volume, start: int, stop: int) -> Tensor:
    """Return the coil maps of slices `start:stop`, complex64 `(slice, [set,] coil, row, col)`.

    A file has axes (row, col) of one coil, (coil, row, col), ([slice or set,] coil, row, col), or (slice, set, coil,
    row, col); a slice axis of 1 serves all slices. Four axes are slices where their number is that of the volume, else
    sets. Raises ValueError for a file that is none, holds no maps, or is of another number of slices.
    """
    if where == STORED:
        if not isinstance(volume, StoredVolume):
            raise ValueError(f"smaps store: {volume.path} is no volume of a store; name a file of coil maps")
        return check_maps(torch.from_numpy(volume.read_smaps(start, stop)).to(torch.complex64), volume.path)
    maps, slices = read_array_file(where, "smaps", read_bart=read_bart_maps), volume.info.num_slices
    found = f"{maps.dtype} {maps.shape}"
    while maps.ndim > 5 and len(maps) == 1:
        maps = maps[0]
    if maps.ndim == 2 and volume.info.num_coils == 1:
        maps = maps[None]
    if maps.ndim == 3 or (maps.ndim == 4 and len(maps) != slices and len(maps) in (1, *MAP_SETS)):
        maps = (maps[0] if maps.ndim == 4 and len(maps) == 1 else maps)[None]
    if maps.ndim not in (4, 5) or not np.iscomplexobj(maps):
        raise ValueError(
            f"{where}: expected complex coil maps (coil, row, col), (slice, coil, row, col) or (slice, set, coil, row,"
            f" col), got {found}"
        )
    if len(maps) not in (1, slices):
        raise ValueError(f"{where} has maps of {len(maps)} slices, {volume.path} has {slices} slices")
    maps = np.broadcast_to(maps, (slices, *maps.shape[1:]))
    return check_maps(torch.from_numpy(np.array(maps[start:stop], dtype=np.complex64)), where)


def check_maps(smaps: Tensor, source: str) -> Tensor:
    """Return coil maps `(slice, [set,] coil, row, col)`; raise ValueError where they are not finite, or all zero."""
    finite = torch.isfinite(torch.view_as_real(smaps)).flatten(1).all(1)
    if not bool(finite.all()):
        raise ValueError(
            f"{source} holds coil maps that are not finite (slice {int((~finite).nonzero()[0])} of those read),"
            " expected numbers: set them to zero where there is no signal"
        )
    if not bool(smaps.any()):
        raise ValueError(
            f"{source}: the coil maps are zero everywhere, expected sensitivities of the coils: leave smaps out to"
            " estimate them from the calibration lines"
        )
    return smaps


def read_coils(options: AcquisitionOptions, volume: Volume) -> Coils:
    """Return what is known and asked of the coils: their noise from a file given, else from the scan's noise lines.

    Raises ValueError for a file that holds no covariance or noise scan of these coils, and for more virtual coils than
    there are.
    """
    coils, asked = volume.info.num_coils, options.virtual_coils
    if asked is not None and asked > coils:
        raise ValueError(f"virtual_coils must lie between 1 and the {coils} coils of {volume.path}, got {asked}")
    if options.noise_cov is not None:
        matrix, source = read_array_file(options.noise_cov, "noise_cov"), options.noise_cov
        if matrix.ndim > 2:
            matrix = matrix.squeeze()
        if matrix.dtype.kind not in "iufc":
            raise ValueError(f"{source}: a noise covariance holds numbers, this is {matrix.dtype}")
        cov = matrix.astype(np.complex128)
    elif options.noise_scan is not None:
        source = options.noise_scan
        cov = _covariance(source, coils)
    elif options.noise_sigma is not None or (own := volume.noise_cov()) is None:
        return Coils(noise_sigma=options.noise_sigma, virtual_coils=asked)
    else:
        source, cov = IN_FILE, own
    checked = check_noise_cov(torch.from_numpy(cov), coils, f"{volume.path}: {source}" if source == IN_FILE else source)
    name = source if source == IN_FILE else Path(source).name
    return Coils(checked, name, options.noise_sigma, asked)


def check_noise_sigma(sigma: float | None, kspace: Tensor) -> None:
    """Raise ValueError for a stated noise that is above all of k-space as read, which holds some noise too."""
    most = 0.0 if sigma is None else float(kspace.abs().max())
    if sigma is not None and 0 < most < sigma < math.inf:
        raise ValueError(
            f"noise_sigma is {sigma:g}, and the largest value of k-space {most:.3g}: expected the standard deviation of"
            " each real component of the noise, in the unit of the data"
        )


def noise_doubts(coils: Coils, kspace: Tensor) -> tuple[str, ...]:
    """Return what is doubtful about the noise that was measured, beside k-space `(slice, coil, row, col)` as read.

    The periphery of k-space bounds its noise from above, so a noise scan far above it holds more than noise.
    """
    if coils.noise_cov is None or not bool(kspace.any()):
        return ()
    level = (coils.noise_cov.diagonal().real.clamp(min=0) / 2).sqrt()  # a scan may state n n^H / N of both components
    strongest = int(kspace.abs().flatten(1).amax(1).argmax())
    bound = coil_noise_sigma(kspace[strongest : strongest + 1]).to(level)
    above = torch.isfinite(level) & (bound > 0) & (level > FAR_ABOVE * bound)
    if not bool(above.any()):
        return ()
    numbers, most = above.nonzero().flatten().tolist(), float((level / bound)[above].max())
    named = f"coil{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
    return (
        f"{coils.noise_source}: the noise of {named} is up to {most:.2g} times that of the periphery of k-space:"
        " it may hold a spike or signal, or k-space was averaged or filtered since, or has another unit; coils are"
        " weighted by it (--noise-sigma weights none)",
    )


def _covariance(path: str, coils: int) -> npt.NDArray[np.complex128]:
    """Return the covariance of the noise samples in a file, complex128 `(coil, coil)`."""
    lines = read_noise(path) if Path(path).is_file() and h5py.is_hdf5(path) else None
    samples = read_array_file(path, "noise", read_bart=read_bart_maps) if lines is None else lines
    while samples.ndim > 2 and len(samples) == 1 != coils:
        samples = samples[0]
    if samples.ndim < 2 or len(samples) != coils or not np.iscomplexobj(samples):
        raise ValueError(
            f"{path}: expected complex noise (coil, sample, ...) of {coils} coils, got {samples.dtype} {samples.shape}"
        )
    with np.errstate(invalid="ignore", over="ignore"):  # coils that are not finite are left out later
        return noise_covariance(torch.from_numpy(samples.astype(np.complex128))).numpy()
