"""What an image leaves unexplained of sampled k-space: y - A x."""

from __future__ import annotations

import torch
from torch import Tensor

from kdrift.mri.fourier import fft2c
from kdrift.mri.sense import sense_operator
from kdrift.recon.slices import SliceData


def residual(x: Tensor, kspace: Tensor, mask: Tensor, smaps: Tensor | None) -> Tensor:
    """Return M (y - A x) of each sample, `(sample, coil, row, col)`; without maps x are coil images."""
    predicted = torch.where(mask, fft2c(x), 0) if smaps is None else sense_operator(smaps, mask).forward(x + 0j)
    return kspace - predicted


def heldout_residual(x: Tensor, data: SliceData, smaps: Tensor | None, coils: tuple[int, int] | None) -> Tensor | None:
    """Return what `ChunkResult.heldout` holds, of images `(sample, ...)` of the coils `(start, stop)`."""
    if data.heldout is None:
        return None
    mask, kspace = data.heldout.mask, data.heldout.kspace[slice(*(coils or (None,)))]
    return residual(x, kspace, mask, smaps)[..., mask].cpu()
