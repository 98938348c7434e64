"""Echo-planar lines: reversed readouts, and the phase between odd and even lines that makes the N/2 ghost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from kdrift.data.centring import fft_centred, ifft_centred
from kdrift.data.formats.header import Encoding
from kdrift.data.formats.ismrmrd_lines import Grid, Lines
from kdrift.data.formats.ismrmrd_table import Table, payloads
from kdrift.data.volume import BadVolume

Ramp = Callable[[int], npt.NDArray[np.complex64] | None]
"""Factors along the rows of the image `(row,)` for the reversed lines of a slab, None where there are none."""
_REFINEMENTS = 2


def check_trajectory(path: str, encoding: Encoding) -> list[str]:
    """Raise BadVolume unless lines are Cartesian with equidistant samples; return a note where an EPI header does not
    say whether they lie on the ramps of the gradient.
    """
    if encoding.trajectory not in ("cartesian", "epi"):
        raise BadVolume(path, f"trajectory is {encoding.trajectory!r}, expected cartesian (or epi without ramps)")
    if encoding.trajectory == "cartesian":
        return []
    ramp, delay = (encoding.parameters.get(name) for name in ("rampUpTime", "acqDelayTime"))
    if ramp is None or delay is None:
        return ["the header does not describe the EPI readout: its samples are taken as equidistant in k-space"]
    if ramp > delay:
        raise BadVolume(
            path,
            f"the EPI readout is sampled on gradient ramps (it starts after {delay:g} us, the ramp ends after {ramp:g}"
            " us): regrid its lines first, expected equidistant samples",
        )
    return []


def turned_lines(table: Table, lines: Lines, members: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield members of `lines` with their kept samples `(coil, sample)` along the rows, reversed ones turned round."""
    for line, stored in zip(members.tolist(), payloads(table, lines.index[members]), strict=True):
        samples = stored[:, lines.skipped[line] :][:, : lines.kept[line]]
        yield line, samples[:, ::-1] if lines.reverse[line] else samples


def directions(lines: Lines) -> dict[int, bool]:
    """Return of each slab whether it has lines of both directions."""
    forward, reverse = set(lines.slab[~lines.reverse].tolist()), set(lines.slab[lines.reverse].tolist())
    return {slab: slab in forward and slab in reverse for slab in forward | reverse}


def phase_ramp(table: Table, navigators: Lines, grid: Grid) -> Ramp:
    """Return what estimates, for a slab, the linear phase that its reversed lines lack.

    Navigators are read without phase encoding in both directions. With their images F and R along the rows, means over
    each direction, the phase of `sum_c conj(F_c) R_c` is fitted by `a x + b` (Ahn and Cho, IEEE Trans. Med. Imaging
    6:32, 1987: `a` from neighbouring rows, then by least squares), and reversed lines are multiplied by its conjugate.
    """

    def estimate(slab: int) -> npt.NDArray[np.complex64] | None:
        members = np.flatnonzero(navigators.slab == slab)
        sums: dict[bool, Any] = {}
        for line, samples in turned_lines(table, navigators, members):
            whole = np.zeros((len(samples), grid.rows), dtype=np.complex128)
            whole[:, navigators.place(line)[1]] = samples
            direction = bool(navigators.reverse[line])
            sums[direction] = sums.get(direction, 0) + whole
        if len(sums) < 2:
            return None
        forward, reverse = (ifft_centred(sums[direction], axes=(-1,)) for direction in (False, True))
        return fit_ramp((forward.conj() * reverse).sum(axis=0))

    return estimate


def fit_ramp(product: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex64]:
    """Return `exp(-i (a x + b))` for the line `a x + b` that fits the phase of `product` `(row,)` best."""
    x = np.arange(len(product)) - len(product) // 2
    slope = float(np.angle((product[1:] * product[:-1].conj()).sum()))
    offset = float(np.angle((product * np.exp(-1j * slope * x)).sum()))
    weights = np.abs(product) ** 2
    if (total := weights.sum()) > 0:
        spread = x - (weights * x).sum() / total
        for _ in range(_REFINEMENTS):  # residual phases are small by now, so they do not wrap
            residual = np.angle(product * np.exp(-1j * (slope * x + offset)))
            slope += float((weights * spread * residual).sum() / max((weights * spread**2).sum(), 1e-300))
            offset = float(np.angle((product * np.exp(-1j * slope * x)).sum()))
    return np.asarray(np.exp(-1j * (slope * x + offset)), dtype=np.complex64)


def read_slab(
    table: Table, lines: Lines, grid: Grid, coils: int, ramp: Ramp | None = None
) -> Callable[[int], npt.NDArray[np.complex64]]:
    """Return a reader of slabs `(partition, coil, row, col)`: repeated lines averaged, reversed ones times `ramp`."""

    def read(slab: int) -> npt.NDArray[np.complex64]:
        # lines are contiguous while they are filled in: columns of the result would be scattered over memory
        kspace = np.zeros((grid.partitions, grid.cols, coils, grid.rows), dtype=np.complex64)
        repeats = np.zeros((grid.partitions, grid.cols, 1, grid.rows), dtype=np.int32)
        members = np.flatnonzero(lines.slab == slab)
        factors = ramp(slab) if ramp is not None and lines.reverse[members].any() else None
        for line, samples in turned_lines(table, lines, members):
            partition, places, col = lines.place(line)
            if factors is not None and lines.reverse[line]:
                samples = _corrected(samples, places, factors)
            kspace[partition, col, :, places] += samples
            repeats[partition, col, 0, places] += 1
        if repeats.max() > 1:
            kspace /= np.maximum(repeats, 1)
        return kspace.transpose(0, 2, 3, 1)

    return read


def _corrected(samples: npt.NDArray[Any], places: slice, factors: npt.NDArray[np.complex64]) -> npt.NDArray[Any]:
    whole = np.zeros((len(samples), len(factors)), dtype=np.complex64)
    whole[:, places] = samples
    return fft_centred(ifft_centred(whole, axes=(-1,)) * factors, axes=(-1,))[:, places]
