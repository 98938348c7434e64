"""Complex images of fully sampled k-space: coils combined, with the phase that was measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kdrift.data.centring import centre_crop
from kdrift.data.formats.fastmri import remove_readout_oversampling
from kdrift.data.volume import BadVolume, BoolArray, ComplexArray, Volume

_SCATTERED = 0.02  # integer data holds a few measured exact zeros: fewer than this are no gaps


def complex_images(volume: Volume) -> Volume:
    """Return a volume of complex images `(slice, recon_row, recon_col)`, made of k-space as they are read.

    Equation: x = sum_c conj(S_c) F^-1 y_c with one set of ESPIRiT maps S, sum_c |S_c|^2 = 1 everywhere, so that |x| is
    close to the root sum of squares. The phase is that of the object and of the coil combination that measures most
    (the maps' reference); a single coil keeps its own. Images that have a phase already are returned as they are.

    Raises BadVolume where there are magnitudes alone, and, here or when a slice is read, for k-space with gaps:
    combining aliased coil images makes no image to learn from. Lines missing at the ends (padding, partial Fourier)
    and corners stay zero, and are noted.
    """
    info = volume.info
    if info.kind == "image":
        if not info.has_phase:
            raise BadVolume(volume.path, "holds magnitudes: complex images need k-space, or images with a phase")
        return volume
    stated = volume.mask()

    doubts: tuple[str, ...] = ()

    def read(start: int, stop: int) -> tuple[ComplexArray, BoolArray]:
        nonlocal doubts
        kspace = volume.read_kspace(start, stop)
        doubts = volume.doubts(kspace)
        measured = np.asarray((kspace != 0).any(axis=1))
        if stated is not None:
            measured &= stated[start:stop] if stated.ndim == 3 else stated
        for index, pattern in enumerate(measured, start):
            if has_gaps(pattern):
                share = f"{int(pattern.sum())} of {pattern.size} positions"
                reason = f"slice {index} is undersampled ({share} measured): complex images are made of full k-space"
                raise BadVolume(volume.path, reason)
        return kspace, measured

    def load(start: int, stop: int) -> npt.NDArray[Any]:
        return np.stack([combined_image(one, info.recon_rows, info.recon_cols) for one in read(start, stop)[0]])

    middle = info.num_slices // 2
    measured = read(middle, middle + 1)[1][0]  # says what is wrong before anything is written
    notes, missing = (*info.notes, *doubts), 1 - float(measured.mean())
    if missing > _SCATTERED or not (measured.any(axis=0).all() and measured.any(axis=1).all()):
        notes += (f"{missing:.1%} of k-space, at its ends, was not measured and is zero in the complex images",)
    made = replace(
        info, kind="image", num_coils=1, rows=info.recon_rows, cols=info.recon_cols, has_mask=False,
        has_reference=False, has_phase=True, notes=notes,
    )  # fmt: skip
    return Volume(volume.path, made, load_complex_image=load, resources=volume.resources)


def has_gaps(measured: BoolArray) -> bool:
    """Return whether positions `(row, col)` between measured ones were not measured.

    Each row and each column may begin late and end early; a few scattered zeros are measured values.
    """
    rows, cols = np.flatnonzero(measured.any(axis=1)), np.flatnonzero(measured.any(axis=0))
    if len(rows) == 0:
        return False
    box = measured[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    if len(rows) < box.shape[0] or len(cols) < box.shape[1]:
        return True
    return bool(((_between(box, 0) | _between(box, 1)) & ~box).mean() > _SCATTERED)


def _between(box: BoolArray, axis: int) -> BoolArray:
    """Return what lies between the first and the last measured position along an axis."""
    before = np.logical_or.accumulate(box, axis=axis)
    after = np.flip(np.logical_or.accumulate(np.flip(box, axis), axis=axis), axis)
    return np.asarray(before & after)


def combined_image(kspace: ComplexArray, rows: int, cols: int, device: str = "cpu") -> ComplexArray:
    """Return the combined image `(rows, cols)` of full k-space `(coil, row, col)`; a slice of zeros stays zero."""
    import torch

    from kdrift.mri.coils import combine, espirit_maps
    from kdrift.mri.fourier import ifft2c

    if not kspace.any():
        return np.zeros((rows, cols), dtype=np.complex64)
    cut = torch.tensor(remove_readout_oversampling(kspace, rows), device=device)  # a copy: what is mapped is read-only
    maps = torch.ones_like(cut) if len(cut) == 1 else espirit_maps(cut, crop=0.0)
    return np.asarray(centre_crop(combine(ifft2c(cut), maps).cpu().numpy(), rows, cols), dtype=np.complex64)
