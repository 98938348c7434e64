"""The one place that meets sigpy's reconstruction apps and their quirks.

sigpy's regularisation weights depend on the scale of the data, its step sizes come from a power iteration
that starts from numpy's global random state, and it draws progress bars. Here the data are scaled so that the
zero-filled image has maximum 1 (and the answer is scaled back), the step sizes come from bounds on the
operator's norm, and nothing is drawn: the same input gives the same image, and a weight means the same on
every scanner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdrift.mri.fourier import ifft2c


@dataclass(frozen=True)
class ScaledProblem:
    """A slice as sigpy wants it: numpy arrays at unit scale."""

    #: undersampled k-space (coil, row, col).
    kspace: np.ndarray
    #: coil maps (coil, row, col).
    smaps: np.ndarray
    #: the mask (row, col) as real numbers.
    weights: np.ndarray
    #: S^H F^-1 M y (row, col), maximum 1.
    start: np.ndarray
    #: bound on the largest eigenvalue of A^H A: the maximum over pixels of sum_c |S_c|^2.
    norm_bound: float


def checked_maps(kspace: Tensor, mask: Tensor, smaps: Tensor | None) -> Tensor:
    """Coil maps of one slice, ones for a single coil without maps; raises ValueError on a mismatch.

    kspace (coil, row, col) complex, mask (row, col) bool, smaps (coil, row, col) complex.
    """
    if kspace.ndim != 3 or not kspace.is_complex():
        raise ValueError(f"kspace must be complex (coil, row, col), got {kspace.dtype} {tuple(kspace.shape)}")
    if tuple(mask.shape) != tuple(kspace.shape[-2:]):
        raise ValueError(f"mask is {tuple(mask.shape)}, kspace has (row, col) {tuple(kspace.shape[-2:])}")
    if smaps is None:
        if kspace.shape[0] != 1:
            raise ValueError(f"kspace has {kspace.shape[0]} coils and no smaps: estimate maps first")
        return torch.ones_like(kspace)
    if smaps.shape != kspace.shape:
        raise ValueError(f"smaps is {tuple(smaps.shape)}, kspace is {tuple(kspace.shape)}: give one set of its shape")
    return smaps.to(kspace)


def combine(kspace: Tensor, mask: Tensor, smaps: Tensor) -> Tensor:
    """S^H F^-1 M y, the zero-filled image (row, col) of kspace (coil, row, col)."""
    return (smaps.conj() * coil_images(kspace, mask)).sum(0)


def coil_images(kspace: Tensor, mask: Tensor) -> Tensor:
    """F^-1 M y, (coil, row, col)."""
    return ifft2c(kspace * mask)


def run_app(make_app: Callable[[ScaledProblem], Any], kspace: Tensor, mask: Tensor, smaps: Tensor | None) -> Tensor:
    """Solve one slice with the sigpy app that `make_app` builds from the scaled problem; image (row, col)."""
    smaps = checked_maps(kspace, mask, smaps)
    start = combine(kspace, mask, smaps)
    scale = float(start.abs().max())
    if not np.isfinite(scale):
        raise ValueError("kspace holds values that are not finite: check the data before reconstructing")
    if scale == 0.0:
        return torch.zeros_like(kspace[0])
    problem = ScaledProblem(
        kspace=(kspace * mask / scale).cpu().numpy(),
        smaps=smaps.cpu().numpy(),
        weights=mask.cpu().numpy().astype(kspace.real.cpu().numpy().dtype),
        start=(start / scale).cpu().numpy(),
        norm_bound=float((smaps.abs() ** 2).sum(0).max()),
    )
    image = make_app(problem).run()
    return torch.from_numpy(np.ascontiguousarray(image)).to(kspace) * scale
