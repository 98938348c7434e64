"""Whether images are magnitudes: the one rule for all formats, decided by a few slices when a file is opened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from kdrift.mri.plausibility import looks_like_kspace

Load = Callable[[int, int], npt.NDArray[Any]]
TINY = 0.01
"""Negative values down to this part of the largest one are nothing."""
FEW = 0.01
"""Larger negative values are left by interpolation at edges where at most this part of the pixels has them."""
MOST_LABELS = 16
"""Whole numbers of so few different values look like labels."""
FEW_PIXELS = 1024


class NoMagnitudes(ValueError):
    """Images with values that no magnitude has."""


def as_magnitudes(load: Load, num_slices: int) -> tuple[Load, tuple[str, ...]]:
    """Return a loader of magnitude images `(slice, row, col)`, and notes on what three slices of them hold.

    Tiny or few negative values, as interpolation leaves them, are read as 0. Raises NoMagnitudes for others, here
    and when a slice is loaded, naming the least value: z-scores, phase, maps and CT numbers are no magnitudes.
    """
    looked_at = sorted({num_slices // 4, num_slices // 2, 3 * num_slices // 4})
    probes = [load(index, index + 1) for index in looked_at]
    values = np.concatenate([probe[np.isfinite(probe)].ravel() for probe in probes])  # others are refused when read
    high = float(values.max(initial=0))
    least = float(values.min(initial=0))
    _check(values, high)
    notes = [f"negative values down to {least:g}, as interpolation leaves them, are read as 0"] if least < 0 else []
    numbers = ", ".join(map(str, looked_at))
    if values.size and not values.any():
        notes.append(f"it holds nothing but 0 where it was looked at (slices {numbers} of {num_slices})")
    holes = [str(index) for index, probe in zip(looked_at, probes, strict=True) if not np.isfinite(probe).all()]
    if holes:
        notes.append(
            f"NaN or infinite values in slices {', '.join(holes)}: these cannot be read, set the values to 0 first"
        )
    if values.size >= FEW_PIXELS and (values == np.round(values)).all():
        different = np.unique(values)
        if 1 < len(different) <= MOST_LABELS:
            spread = f"{len(different)} different values, all whole ({different[0]:g} to {different[-1]:g})"
            notes.append(f"there are {spread}: labels or a mask rather than a magnitude image?")
    brightest = max(probes, key=lambda probe: float(np.nanmax(probe)))[0]
    if looks_like_kspace(np.where(np.isfinite(brightest), brightest, 0)):
        notes.append("energy lies in one place, as that of k-space does: are these magnitudes of k-space, no images?")

    def checked(start: int, stop: int) -> npt.NDArray[Any]:
        images = load(start, stop)
        for image in images:
            if image.min() < 0:
                _check(image, max(high, float(image.max())))
        return images if images.dtype.kind == "u" else np.maximum(images, 0)

    return checked, tuple(notes)


def _check(values: npt.NDArray[Any], high: float) -> None:
    share = float((values < -TINY * high).mean()) if values.size else 0.0
    if share > FEW:
        raise NoMagnitudes(
            f"{100 * share:.0f} % of the values are negative, down to {values.min():g} (the largest is {high:g}), which"
            " no magnitude is: normalised (z-scores), phase, or a map? --select values=any reads them as they are"
        )
