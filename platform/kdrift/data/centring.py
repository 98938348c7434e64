"""The middle of k-space and of images: transforms and crops that keep it, and data whose origin lies at the corner.

Shifts of k-space move values; shifts of the image are phase ramps in k-space, so that exact zeros stay zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from kdrift.mri.plausibility import image_at_corner

Axes = tuple[int, ...]
Centre = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""Brings k-space `(*batch, row, col)` to the middle."""
_PLANE = (-2, -1)
_MOVED = "the image lay around the corner of its matrix, as a plain FFT leaves it, and was brought to the middle"
_UNKNOWN = "whether the image lies in the middle of its matrix or around its corner cannot be told: it is left as it is"


def fft_centred(values: npt.NDArray[Any], axes: tuple[int, ...] = (-2, -1)) -> npt.NDArray[Any]:
    """Return the centred orthonormal FFT along `axes`, in the precision of `values`."""
    shifted = scipy.fft.ifftshift(values, axes=axes)
    return np.asarray(scipy.fft.fftshift(scipy.fft.fftn(shifted, axes=axes, norm="ortho"), axes=axes))


def ifft_centred(values: npt.NDArray[Any], axes: tuple[int, ...] = (-2, -1)) -> npt.NDArray[Any]:
    """Return the inverse of `fft_centred`."""
    shifted = scipy.fft.ifftshift(values, axes=axes)
    return np.asarray(scipy.fft.fftshift(scipy.fft.ifftn(shifted, axes=axes, norm="ortho"), axes=axes))


def centre_crop(array: npt.NDArray[Any], rows: int, cols: int) -> npt.NDArray[Any]:
    """Return the centre `(*batch, rows, cols)` of `array`; index n//2 stays the centre, as in centred FFTs.

    Raises ValueError when `array` is smaller than the crop.
    """
    have_rows, have_cols = array.shape[-2:]
    if not (0 < rows <= have_rows and 0 < cols <= have_cols):
        raise ValueError(f"cannot crop {rows}x{cols} from {have_rows}x{have_cols}")
    top, left = have_rows // 2 - rows // 2, have_cols // 2 - cols // 2
    return array[..., top : top + rows, left : left + cols]


def from_corner(sample: npt.NDArray[Any], axes: Axes = _PLANE) -> tuple[Centre, tuple[str, ...]]:
    """Return what centres k-space whose zero frequency lies at index 0 of `axes`, and notes.

    `sample` is one slice of it, `(coil, row, col)`, which tells where the image lies. K-space is shifted; where the
    image then surely lies around the corner of its matrix, as that of a plain FFT (`numpy.fft.fft2`) of an image in
    the middle does, the image is shifted as well. Where it cannot be told, it is left, and a note says so.
    """
    at_corner = image_at_corner(np.fft.fftshift(sample, axes=_PLANE))
    if at_corner:
        return lambda kspace: np.fft.fftshift(kspace * _ramp(kspace, axes), axes=axes), (_MOVED,)
    return lambda kspace: np.fft.fftshift(kspace, axes=axes), (_UNKNOWN,) if at_corner is None else ()


def mask_from_corner(mask: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the mask `([*batch, row,] col)` of k-space that `from_corner` centres."""
    return np.fft.fftshift(mask, axes=_PLANE[-mask.ndim :])


def from_cornered_image(kspace: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return k-space `(*batch, row, col)` whose image is in the middle, of one that is in the middle of k-space alone.

    A plain inverse FFT shows the magnitude of such an image unshifted, since the shift of k-space is a phase there; a
    centred one shows it in four quarters that have changed places.
    """
    return np.asarray(kspace * np.fft.fftshift(_ramp(kspace), axes=_PLANE))


def _ramp(kspace: npt.NDArray[Any], axes: Axes = _PLANE) -> npt.NDArray[Any]:
    """Return exp(2 pi i k (n // 2) / n) along `axes`, zero frequency first, exact for even n; it broadcasts."""
    ramp = np.ones((1,) * kspace.ndim, dtype=np.result_type(kspace.dtype, np.complex64))
    for axis in axes:
        n = kspace.shape[axis]
        turns = (np.arange(n) * (n // 2)) % n / n
        along = np.round(np.exp(2j * np.pi * turns), 15).astype(ramp.dtype)
        ramp = ramp * along.reshape([n if place == axis % kspace.ndim else 1 for place in range(kspace.ndim)])
    return ramp
