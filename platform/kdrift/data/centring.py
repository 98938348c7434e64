"""The middle of k-space and of images: transforms and crops that keep it, and data whose origin lies at the corner.

Shifts of k-space move values; shifts of the image are phase ramps in k-space, so that exact zeros stay zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

_PLANE = (-2, -1)


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


def from_corner(kspace: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return centred k-space `(*batch, row, col)` of what a plain FFT (`numpy.fft.fft2`) made of an image.

    Its zero frequency lies at index 0, and so does the origin of the image's own transform.
    """
    return np.asarray(np.fft.fftshift(kspace * _ramp(kspace), axes=_PLANE))


def from_cornered_image(kspace: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return k-space `(*batch, row, col)` whose image is in the middle, of one that is in the middle of k-space alone.

    A plain inverse FFT shows the magnitude of such an image unshifted, since the shift of k-space is a phase there; a
    centred one shows it in four quarters that have changed places.
    """
    return np.asarray(kspace * np.fft.fftshift(_ramp(kspace), axes=_PLANE))


def _ramp(kspace: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return exp(2 pi i k (n // 2) / n) along rows and columns, zero frequency first, exact for even n."""
    along = []
    for n in kspace.shape[-2:]:
        turns = (np.arange(n) * (n // 2)) % n / n
        along.append(np.round(np.exp(2j * np.pi * turns), 15).astype(np.result_type(kspace.dtype, np.complex64)))
    return np.asarray(along[0][:, None] * along[1])
