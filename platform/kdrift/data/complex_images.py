"""Complex images of fully sampled k-space: coils combined, with the phase that was measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kdrift.data.centring import centre_crop
from kdrift.data.formats.fastmri import remove_readout_oversampling
from kdrift.data.measured import Sampling, has_gaps
from kdrift.data.volume import BadVolume, ComplexArray, Volume


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

    doubts: tuple[str, ...] = ()

    def read(index: int) -> tuple[ComplexArray, Sampling]:
        nonlocal doubts
        kspace = volume.read_kspace(index, index + 1)
        doubts = volume.doubts(kspace, index)
        sampling = volume.sampling(kspace, index)
        (pattern,) = sampling.measured
        if has_gaps(pattern):
            share = f"{int(pattern.sum())} of {pattern.size} positions"
            reason = f"slice {index} is undersampled ({share} measured): complex images are made of full k-space"
            raise BadVolume(volume.path, reason)
        return np.where(pattern, kspace[0], np.complex64(0)), sampling

    def load(start: int, stop: int) -> npt.NDArray[Any]:  # a slice at a time: k-space takes a hundred times the image
        made = (combined_image(read(index)[0], info.recon_rows, info.recon_cols) for index in range(start, stop))
        return np.stack(list(made))

    sampling = read(info.num_slices // 2)[1]  # says what is wrong before anything is written
    notes, missing = (*info.notes, *doubts, *sampling.notes), 1 - float(sampling.measured.mean())
    if missing > 0:
        notes += (f"{missing:.1%} of k-space, at its ends, was not measured and is zero in the complex images",)
    made = replace(
        info, kind="image", num_coils=1, rows=info.recon_rows, cols=info.recon_cols, has_mask=False,
        has_reference=False, has_phase=True, notes=notes,
    )  # fmt: skip
    return Volume(volume.path, made, load_complex_image=load, resources=volume.resources)


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
