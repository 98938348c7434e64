"""Centred orthonormal Fourier transforms, and filters that are diagonal in k-space."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def fft2c(x: Tensor, dim: Sequence[int] = (-2, -1)) -> Tensor:
    """Image to k-space: `F x`, centred and orthonormal, for odd and even sizes.

    Parameters
    ----------
    x
        Image `(*batch, row, col)`, real or complex.
    dim
        Axes to transform (any number of them).

    Returns
    -------
    Tensor
        k-space of the same shape, zero frequency at index `n // 2`.
    """
    kspace: Tensor = torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(x, dim), dim=dim, norm="ortho"), dim)
    return kspace


def ifft2c(x: Tensor, dim: Sequence[int] = (-2, -1)) -> Tensor:
    """k-space to image: `F^-1 x = F^H x`, the inverse of `fft2c`, of the same shape."""
    image: Tensor = torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(x, dim), dim=dim, norm="ortho"), dim)
    return image


def filter2c(x: Tensor, weights: Tensor, dim: Sequence[int] = (-2, -1)) -> Tensor:
    """Apply `F^-1 diag(weights) F` to an image.

    A circular convolution commutes with circular shifts, so only the weights are shifted, never the image.

    Parameters
    ----------
    x
        Image `(*batch, row, col)`.
    weights
        Weights in centred k-space, broadcastable to `x`; size 1 along the axes that are not in `dim`
        means that they do not depend on that axis.
    dim
        Axes along which the weights vary; the transform along any other axis cancels and is not computed.
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
