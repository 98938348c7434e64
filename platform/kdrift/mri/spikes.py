"""Spikes in k-space: single positions far above all that surround them, as sparks and radio-frequency noise leave."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.ndimage
import torch
from torch import Tensor

FAR_ABOVE = 100.0
"""A spike has so many times the power of the strongest position around it; k-space of objects has smooth neighbours."""
COUNTS = 1e-4
"""Part of all power below which a spike does no harm that is seen."""
SHOWN = 3
"""Spikes that are named one by one."""
_RING = np.pad(np.zeros((3, 3), dtype=bool), 2, constant_values=True)
"""What a position is compared with: a spike may touch the samples beside it."""


def spikes(power: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which positions of the power `(row, col)` of k-space are spikes.

    Not the middle, where k-space of an even object may have a lone peak, and not what has nothing measured around it.
    """
    rows, cols = power.shape
    if min(rows, cols) < 2 * len(_RING):
        return np.zeros((rows, cols), dtype=bool)
    around = scipy.ndimage.maximum_filter(power, footprint=_RING, mode="wrap")
    found = (power > FAR_ABOVE * around) & (around > 0) & (power > COUNTS * power.sum())
    near = [max(2, size // 32) for size in (rows, cols)]
    row, col = (np.abs(np.arange(size) - size // 2) <= width for size, width in zip((rows, cols), near, strict=True))
    measured = scipy.ndimage.convolve((power > 0).astype(np.uint8), _RING.astype(np.uint8), mode="wrap")
    lonely = measured < _RING.sum() // 4  # between lines far apart, the axes through the middle stand out as well
    found &= ~np.where(lonely, row[:, None] | col, row[:, None] & col)
    return np.asarray(found)


def without_spikes(kspace: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, list[str]]:
    """Leave out of k-space `(coil, row, col)` and its mask `(row, col)` what is a spike in the power of all coils.

    One such sample makes stripes over the whole image. Returns both, and a sentence where something is left out;
    k-space of nothing but spikes stays as it is.
    """
    found = torch.from_numpy(spikes(kspace.abs().square().sum(0).cpu().numpy())).to(mask.device) & mask
    if not bool(found.any()) or not bool((kspace * ~found != 0).any()):
        return kspace, mask, []
    places = [f"({row}, {col})" for row, col in found.nonzero().tolist()]
    named = ", ".join(places[:SHOWN]) + (f" and {len(places) - SHOWN} more" if len(places) > SHOWN else "")
    sentence = f"spikes (row, column) {named} of k-space lie far above all around and are left out"
    return torch.where(found, 0, kspace), mask & ~found, [sentence]
