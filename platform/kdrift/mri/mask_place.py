"""Whether a mask lies where k-space has its energy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kdrift.mri.plausibility import SMALLEST_SIDE

BoolArray = npt.NDArray[np.bool_]


def check_mask(kspace: npt.NDArray[Any], mask: BoolArray, name: str, *, stated: bool = False) -> tuple[str, ...]:
    """Return what is doubtful about a mask beside centred k-space `(slice, coil, row, col)`, and refuse a wrong one.

    The calibration lines of a mask, and so what it marks densely, belong where k-space has its energy. The slice with
    most energy is looked at. `mask` is anything that broadcasts to `(slice, row, col)`, `name` says which it is in
    sentences. Where zero frequency was `stated` to be in the middle, nothing is refused for its place.

    Raises ValueError, with the likely cause, for a mask that marks nothing but zeros, and for one with its zero
    frequency elsewhere that leaves most of the energy out.
    """
    index = int(np.argmax([np.abs(each).max(initial=0) for each in kspace]))
    most = np.abs(kspace[index]).max(initial=0)
    if not 0 < most < np.inf:
        return ()
    power = np.square(np.abs(kspace[index] / most), dtype=np.float64).sum(0)
    power /= power.sum()
    marked = np.broadcast_to(mask, (len(kspace), *power.shape))[index]
    kept = float(power[marked].sum())
    if not marked.any():
        return ()
    if kept == 0:
        inverse = "exactly the empty part of k-space" if (marked == (power == 0)).all() else "zeros alone"
        raise ValueError(f"{name} marks {inverse}, nothing that was measured: is it inverted, or of another scan?")
    if min(power.shape) < SMALLEST_SIDE:
        return ()
    here = _middle(marked)
    places = {"columns": (1,), "rows": (0,), "rows and columns": (0, 1)}
    for what, axes in places.items():
        moved = np.fft.fftshift(marked, axes=axes)
        there, there_kept = _middle(moved), float(power[moved].sum())
        calibrated = _middle(moved, 3).all() and here.mean() < there.mean() and not _middle(marked, 3).all()
        denser = there.mean() > 2 * max(here.mean(), marked.mean())
        if (calibrated or denser) and 1 - kept > 1.5 * (1 - there_kept):
            sentence = (
                f"{name} has its densest {what}, the calibration, at the ends of k-space, whose energy lies in the"
                f" middle: it keeps {kept:.0%} of the energy, and would keep {there_kept:.0%} shifted by half the"
                f" number of its {what} (fftshift); do that, unless it is meant so"
            )
            if kept < 0.5 and not stated:
                raise ValueError(f"{sentence} (then say --centred)")
            return (sentence,)
    centre = tuple(slice(size // 2 - 1, size // 2 + 2) for size in power.shape)
    if power[centre].any() and not (marked & (power > 0))[centre].any():
        return (
            f"{name} leaves out the middle of k-space: its zero frequency belongs in the middle (n // 2), also with"
            " --not-centred; shift it (fftshift) if it lies at the corner",
        )
    return ()


def _middle(mask: BoolArray, half: int | None = None) -> BoolArray:
    """Return what lies so far about the middle of a mask, by default a sixteenth of each side and at least 4."""
    reach = ((n // 2, half or max(4, n // 16)) for n in mask.shape)
    rows, cols = (slice(middle - far, middle + far) for middle, far in reach)
    return mask[rows, cols]
