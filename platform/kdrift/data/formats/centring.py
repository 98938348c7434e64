"""k-space and images whose origin lies at the corner, brought to the middle, as all volumes have it.

Shifts of k-space move values; shifts of the image are phase ramps in k-space, so that exact zeros stay zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_PLANE = (-2, -1)


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
