"""Whether an array can be centred k-space `(coil, row, col)`: what is surely wrong, and what is doubtful.

K-space of an object has its energy around zero frequency, along rows and columns, while it is spread over coils. What
contradicts that is an array with other axes, with zero frequency elsewhere, or an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.ndimage

from kdrift.mri.spikes import spikes

Power = npt.NDArray[np.float64]

AXES = ("coil", "row", "col")
MOST_COILS = 128
"""No receive array has more channels."""
MANY_COILS = 32
"""More channels than this beside a side of less than `SMALLEST_SIDE` are rows or columns."""
HALF = (
    "zero frequency lies at the beginning of an axis, and nothing at its end: this is half a spectrum, as that of"
    " numpy.fft.rfft2; make k-space with fft2, and shift it (fftshift)"
)
"""What is wrong with one half of k-space."""
_STATED = (
    "zero frequency seems to lie elsewhere than --centred or --not-centred says, which is believed: leave that out,"
    " unless you are sure"
)
SMALLEST_SIDE = 16
"""Rows or columns; below it nothing can be said of where energy lies either."""


@dataclass(frozen=True)
class Doubt:
    """What is odd about k-space."""

    sentence: str
    is_sure: bool
    """Whether it is surely wrong, so that an image made of it is worthless."""


def check_kspace(
    kspace: npt.NDArray[Any], *, axes_stated: bool = False, centring_stated: bool = False,
    names: Sequence[str] = AXES,
) -> tuple[str, ...]:  # fmt: skip
    """Return what is doubtful about slices `(slice, coil, row, col)`, as sentences, and refuse what is surely wrong.

    The one with most energy is looked at. Who states axes or centring is believed, with a doubt where zero frequency
    seems to lie elsewhere, or coils in another place. `names` are those of the axes as they are stored. Raises
    ValueError with the likely cause and the option that says otherwise.
    """
    energies = np.array([np.abs(each).max(initial=0) for each in kspace])
    if not energies.any():
        return ()
    found = doubts(kspace[int(energies.argmax())], axes_stated, centring_stated, names)
    for doubt in found:
        if doubt.is_sure:
            raise ValueError(doubt.sentence)
    return tuple(doubt.sentence for doubt in found)


def doubts(
    kspace: npt.NDArray[Any], axes_stated: bool = False, centring_stated: bool = False, names: Sequence[str] = AXES
) -> list[Doubt]:
    """Return what is odd about one slice `(coil, row, col)` that is not zero; see `check_kspace`."""
    scaled = kspace / np.abs(kspace).max()  # squares of the data's own unit may overflow
    power = np.square(np.abs(scaled), dtype=np.float64)
    power /= power.sum()
    axes = _axes(power, names, axes_stated)
    if any(doubt.is_sure for doubt in axes):
        return axes
    plane = power.sum(0)
    if centring_stated:
        return [*axes, *(Doubt(_STATED, False) for doubt in _centring(plane) if doubt.is_sure)]
    spiked, told = _spikes(plane)
    scaled = np.where(spiked, 0, scaled)
    plane = np.where(spiked, 0, plane)
    plane /= plane.sum()
    kind = _kind(scaled, plane)
    if kind is not None:
        return [*axes, *told, kind]
    return [*axes, *told, *_centring(plane), *_image_place(scaled)]


def _spikes(plane: Power) -> tuple[npt.NDArray[np.bool_], list[Doubt]]:
    """Look for lone positions off the middle, where the rest has its energy in the middle."""
    found = spikes(plane)
    rest = np.where(found, 0, plane)
    if not found.any() or not rest.any() or _centring(rest / rest.sum()):
        return np.zeros(plane.shape, dtype=bool), []
    row, col = np.unravel_index(int(np.where(found, plane, 0).argmax()), plane.shape)
    count = int(found.sum())
    which = "one position of k-space lies" if count == 1 else f"{count} positions of k-space lie"
    sentence = (
        f"{which} far above all around, {'at' if count == 1 else 'the strongest at'} row {row} and column {col}:"
        " probably a spike (radio-frequency noise), which would leave stripes in the image; a reconstruction leaves it"
        " out"
    )
    return found, [Doubt(sentence, False)]


def is_peaked(kspace: npt.NDArray[Any]) -> bool:
    """Whether energy lies in one place along the first axis, as it does along any axis of k-space but that of coils."""
    levels = np.array([float(np.linalg.norm(each.astype(np.complex128))) for each in kspace])
    energies = np.square(levels / (levels.max() or 1.0))
    return len(energies) < 2 or not energies.any() or _concentration(energies / energies.sum()) > 0.5


def _axes(power: Power, names: Sequence[str], stated: bool) -> list[Doubt]:
    """Look for coils in the place of rows or columns; who states the axes is told, and believed."""
    coils, rows, cols = power.shape
    spread = [_concentration(power.sum(other)) for other in ((1, 2), (0, 2), (0, 1))]
    side = min(rows, cols)
    last = spread[2] <= spread[1] if min(spread[1:]) < 0.5 else cols <= rows
    by_energy = coils >= SMALLEST_SIDE and spread[0] > 0.7 and min(spread[1:]) < 0.5
    if coils > MOST_COILS or (coils > MANY_COILS and side < SMALLEST_SIDE) or by_energy:
        told = f"{coils} coils of {rows} x {cols} are unlikely"
        if stated:
            return [Doubt(f"{told}: are the axes what --axes says?", False)]
        seeming = f"--axes {','.join(names)} if they are as they seem"
        if "slice" in names and max(rows, cols) < SMALLEST_SIDE:
            one, other = (_exchanged(names, sides) for sides in (("slice", "coil"), ("coil", "slice")))
            return [Doubt(f"{told}: the axes are probably {one} or {other} (say which by --axes; or {seeming})", True)]
        likely = _renamed(names, last)
        return [Doubt(f"{told}: the axes are probably {likely} (say --axes {likely}; or {seeming})", True)]
    if coils > MOST_COILS // 2 and not stated:
        return [Doubt(f"{coils} coils are many: if these are slices of one coil, say --axes slice,row,col", False)]
    return []


def _renamed(names: Sequence[str], last: bool) -> str:
    """Return names of stored axes with coils in the place of columns (`last`) or rows, and rows before columns."""
    place = "col" if last else "row"
    sides = iter(("row", "col"))
    return ",".join("coil" if name == place else next(sides) if name in AXES else name for name in names)


def _exchanged(names: Sequence[str], sides: tuple[str, str]) -> str:
    """Return names of stored axes with rows and columns in the places of slices and coils, these named by `sides`."""
    images, others = iter(("row", "col")), iter(sides)
    named = {"slice": images, "coil": images, "row": others, "col": others}
    return ",".join(next(named[name]) if name in named else name for name in names)


def _kind(scaled: npt.NDArray[Any], plane: Power) -> Doubt | None:
    """Look for images in the place of k-space."""
    if min(plane.shape) < SMALLEST_SIDE:
        return None
    if not np.any(scaled.imag) and (scaled.real >= 0).all():
        return Doubt(
            "all values are real and not negative: this is a magnitude image, no k-space (k-space that is so:"
            " say --centred)",
            True,
        )
    transformed = np.square(np.abs(scipy.fft.fft2(scaled)), dtype=np.float64).sum(0)
    here, there = _brightest(plane), _brightest(transformed / transformed.sum())
    if here < 0.25 and there > max(0.5, 3 * here):
        return Doubt(
            "energy lies all over k-space, and in one place after a Fourier transform: this is an image, no k-space;"
            " transform it first (k-space that is so: say --centred)",
            True,
        )
    if here < 0.25:
        return Doubt("energy lies all over k-space, as that of noise does: is this k-space of an object?", False)
    return None


def _centring(plane: Power) -> list[Doubt]:
    """Look for zero frequency elsewhere than in the middle."""
    rows, cols = plane.shape
    if min(rows, cols) < SMALLEST_SIDE:
        return []
    middle = _around(plane, rows // 2, cols // 2)
    for row, col, where in ((0, 0, ""), (0, cols // 2, "rows"), (rows // 2, 0, "columns")):
        if _around(plane, row, col) > max(0.5, 4 * middle):
            sides = [(plane.sum(1), row), (plane.sum(0), col)]
            if any(at == 0 and _is_half(line) for line, at in sides):
                return [Doubt(HALF, True)]
            cure = "say --not-centred" if not where else f"shift the {where} by half their number (fftshift) first"
            place = "at the corner of k-space" if not where else f"at the edge of the {where}"
            return [Doubt(f"zero frequency lies {place}, expected in the middle (n // 2): {cure}", True)]
    smooth = scipy.ndimage.uniform_filter(plane, 3, mode="wrap")
    echo = np.unravel_index(int(smooth.argmax()), plane.shape)
    off = [int(place) - size // 2 for place, size in zip(echo, plane.shape, strict=True)]
    if any(abs(away) > max(2, size // 32) for away, size in zip(off, plane.shape, strict=True)):
        return [
            Doubt(
                f"the echo lies off the centre of k-space, by {off[0]:+d} rows and {off[1]:+d} columns: calibration"
                " lines are looked for around it",
                False,
            )
        ]
    return []


def _is_half(line: Power) -> bool:
    """Whether energy lies at the beginning of an axis, and none at its end, which is beside it in a whole spectrum."""
    width = max(3, len(line) // 8)
    return float(line[1 - width :].sum()) < 0.1 * float(line[1:width].sum())


def looks_like_kspace(image: npt.NDArray[Any]) -> bool:
    """Return whether the energy of magnitudes `(row, col)` lies in the middle alone, or at the corner, as that of
    k-space does and that of no image."""
    rows, cols = image.shape
    most = float(image.max(initial=0))
    if min(rows, cols) < 2 * SMALLEST_SIDE or not 0 < most < np.inf:
        return False
    plane = np.square(image / most, dtype=np.float64)
    plane /= plane.sum()
    there = max(_around(plane, rows // 2, cols // 2, 16), _around(plane, 0, 0, 16))
    return _brightest(plane) > 0.6 and there > 0.6


def _image_place(scaled: npt.NDArray[Any]) -> list[Doubt]:
    """Look for an image around the corner of its matrix."""
    corner, middle = _shares(scaled)
    if corner > max(0.5, 3 * middle):
        return [
            Doubt(
                "the image lies around the corner of its matrix: it was not shifted before its transform, and stays so;"
                " multiply k-space by (-1)^(row + column) to have it in the middle",
                False,
            )
        ]
    return []


def image_at_corner(kspace: npt.NDArray[Any]) -> bool | None:
    """Return whether the image of centred k-space `(coil, row, col)` lies around the corner of its matrix.

    None where that is not to be told: an image that fills its matrix, a small matrix, no finite values.
    """
    most = np.abs(kspace).max(initial=0)
    if not 0 < most < np.inf:
        return None
    corner, middle = _shares(kspace / most)
    return corner > middle if max(corner, middle) > 3 * min(corner, middle) else None


def _shares(scaled: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the energy of the image around its corner and around its middle, zero where the matrix is small.

    It is that of the middle of k-space alone, which has no gaps.
    """
    rows, cols = scaled.shape[-2:]
    if min(rows, cols) < 2 * SMALLEST_SIDE:
        return 0.0, 0.0
    window = np.zeros((rows, cols))
    half = SMALLEST_SIDE // 2
    taper = np.hanning(SMALLEST_SIDE + 1)[:-1]
    box = slice(rows // 2 - half, rows // 2 + half), slice(cols // 2 - half, cols // 2 + half)
    window[box] = np.outer(taper, taper)
    shown = np.square(np.abs(scipy.fft.ifft2(scipy.fft.ifftshift(scaled * window, axes=(-2, -1)))), dtype=np.float64)
    plane: Power = shown.sum(0)  # not shifted back: its middle is the image's corner
    if not plane.any():
        return 0.0, 0.0
    plane /= plane.sum()
    return _around(plane, rows // 2, cols // 2, 4), _around(plane, 0, 0, 4)


def _concentration(line: Power) -> float:
    """Return the energy in the best eighth of an axis, all around."""
    width = max(1, len(line) // 8)
    sums = np.concatenate([[0.0], np.cumsum(np.concatenate([line, line[: width - 1]]))])
    return float((sums[width:] - sums[:-width]).max())


def _brightest(plane: Power) -> float:
    """Return the energy in the brightest hundredth of the positions."""
    count = max(4, plane.size // 100)
    return float(np.partition(plane.ravel(), -count)[-count:].sum())


def _around(plane: Power, row: int, col: int, part: int = 8) -> float:
    """Return the energy within an eighth (or another `part`) of each side of a position, all around."""
    rows, cols = (
        np.arange(place - size // part, place + size // part + 1) % size
        for place, size in zip((row, col), plane.shape, strict=True)
    )
    return float(plane[np.ix_(rows, cols)].sum())
