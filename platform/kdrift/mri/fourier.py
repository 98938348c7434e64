"""Centred orthonormal Fourier transforms, and filters that are diagonal in k-space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def fft2c(x: Tensor, dim: Sequence[int] = (-2, -1)) -> Tensor:
    """Image `(*batch, row, col)` to k-space: `F x`, centred and orthonormal along the axes `dim`.

    Zero frequency is at index `n // 2`, for odd and even sizes.
    """
    kspace: Tensor = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(x, dim), dim=dim, norm="ortho"), dim)
    return kspace


def ifft2c(x: Tensor, dim: Sequence[int] = (-2, -1)) -> Tensor:
    """k-space to image: `F^-1 x = F^H x`, the inverse of `fft2c`, of the same shape."""
    image: Tensor = torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(x, dim), dim=dim, norm="ortho"), dim)
    return image


def filter2c(x: Tensor, weights: Tensor, dim: Sequence[int] = (-2, -1)) -> Tensor:
    """Apply `F^-1 diag(weights) F` to an image.

    `weights`, in centred k-space, broadcast to `x` `(*batch, row, col)` and vary along the axes `dim` alone; the
    transform along any other axis cancels and is not computed. A circular convolution commutes with circular shifts,
    so only the weights are shifted, never the image.
    """
    if not dim:
        return x * weights
    spectrum = torch.fft.fftn(x, dim=dim, norm="ortho")
    shifted = torch.fft.ifftshift(weights, dim)
    # real weights in place, as real numbers: half the work, and no graph needs the spectrum itself
    if weights.is_complex() or weights.requires_grad:
        spectrum = spectrum * shifted
    else:
        torch.view_as_real(spectrum).mul_(shifted[..., None])
    image: Tensor = torch.fft.ifftn(spectrum, dim=dim, norm="ortho")
    return image
