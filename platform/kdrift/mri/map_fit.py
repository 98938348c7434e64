"""Coil maps fitted to all of the measured k-space, given the image: one half of estimating both together."""

from __future__ import annotations

import torch
from torch import Tensor

from kdrift.mri.cg import conjugate_gradients
from kdrift.mri.coils import rss
from kdrift.mri.fourier import fft2c, ifft2c

WIDTH, ORDER = 8.6, 8
"""How smooth corrections are: their spectrum is weighted by (1 + |k / width|^2)^-ORDER, k in cycles a field of view."""


def fit_maps(
    smaps: Tensor, image: Tensor, kspace: Tensor, mask: Tensor, *, width: float = WIDTH, weight: float = 0.03,
    max_iter: int = 4,
) -> Tensor:  # fmt: skip
    """Return coil maps with a smooth correction that explains k-space better, given the image.

    The correction D minimises |M (y - F sum_k (S_k + D_k) x_k)|^2 + weight |W^-1 F D|^2, a linear problem of each coil,
    by a few conjugate gradients from D = 0, which keeps it small where the data say little. The weighting W of its
    spectrum is that of NLINV (Uecker et al. 2008). Unlike ESPIRiT this uses every measured line and not the ACS alone.
    An image that is wrong leaves its traces in the maps: the caller alternates this with steps that improve the image.

    Parameters
    ----------
    smaps
        Complex `([set,] coil, row, col)`, sum_c |S_c|^2 = 1, or 0 outside of the support.
    image
        Complex `([set,] row, col)`, of values about 1: `weight` is in the unit of |x|^2.
    kspace, mask
        Complex `(coil, row, col)`, zero where the boolean `(row, col)` is false.
    width
        How smooth corrections are; see `WIDTH`.

    Returns
    -------
    Tensor
        Maps like `smaps`, normalised and with the same support.
    """
    sets = smaps.reshape(-1, *smaps.shape[-3:])
    images = image.reshape(-1, 1, *image.shape[-2:])
    spectrum = _spectrum(mask, width)

    def forward(correction: Tensor) -> Tensor:
        """(coil, set, row, col) to (coil, row, col)."""
        return torch.where(mask, fft2c((images[:, 0] * ifft2c(spectrum * correction)).sum(1)), 0)

    def adjoint(residual: Tensor) -> Tensor:
        return spectrum * fft2c(images[:, 0].conj() * ifft2c(torch.where(mask, residual, 0))[:, None])

    left = kspace - fft2c((images * sets).sum(0))
    found = conjugate_gradients(
        lambda x: adjoint(forward(x)), adjoint(left), torch.tensor(weight, device=mask.device),
        num_axes=3, max_iter=max_iter, tol=1e-3,
    )  # fmt: skip
    corrected, norm = sets + ifft2c(spectrum * found).movedim(0, 1), rss(sets)
    scale = torch.where(norm > 0, norm / rss(corrected).clamp(min=torch.finfo(norm.dtype).tiny), 0)
    return (corrected * scale[:, None]).reshape(smaps.shape)


def _spectrum(mask: Tensor, width: float) -> Tensor:
    rows, cols = (((torch.arange(n) - n // 2) / width).square() for n in mask.shape)
    return ((1 + rows[:, None] + cols) ** -ORDER).to(mask.device)
