"""GRAPPA: samples that were not measured from measured neighbours in all coils (Griswold et al. 2002, MRM 47:1202)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from kdrift.methods import COUPLED_COILS, Measurement, Method, Options
from kdrift.mri.fourier import ifft2c
from kdrift.mri.kernels import calibration_data, kernel_width, ridge, window_gram


@dataclass(frozen=True)
class GrappaOptions(Options):
    """Settings of GRAPPA."""

    weight: float = 0.1
    """Tikhonov weight of the calibration, relative to the Frobenius norm of its normal matrix over its size."""
    levelling: float = 0.5
    """Each equation of the calibration is divided by the root mean square of its samples to this power. 0: the paper's
    least squares, which the few samples at the peak of k-space decide; 1: all positions of the ACS say as much."""
    kernel_size: int = 5
    """Width of the kernel, odd, along an axis that has no gaps: the readout of a line mask, both axes of points."""
    kernel_lines: int = 2
    """Measured lines in the kernel, even, half of them on either side, along an axis on which lines are left out."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"expected a finite weight >= 0, got {self.weight}")
        if not 0 <= self.levelling <= 1:
            raise ValueError(f"expected levelling from 0 to 1, got {self.levelling}")
        if self.kernel_size < 1 or self.kernel_lines < 2 or not self.kernel_size % 2 or self.kernel_lines % 2:
            raise ValueError(f"expected an odd kernel_size >= 1 and an even kernel_lines >= 2, got {self}")


def grappa(measurement: Measurement, *, options: GrappaOptions) -> Tensor:
    """Every sample that was not measured is a weighted sum of measured ones around it, in all coils.

    The weights are fitted to the ACS for each pattern of measured neighbours that occurs. Measured samples stay as they
    are; one without a measured neighbour in the kernel stays zero. Returns coil images, complex `(coil, row, col)`.
    Raises ValueError for one coil, and for too few calibration lines, or none.
    """
    kspace, mask = measurement.kspace, measurement.mask
    if bool(mask.all()):
        return ifft2c(kspace)
    if len(kspace) == 1:
        raise ValueError("grappa takes apart what coils see differently: expected 2 coils or more, got 1; take tv")
    acs = calibration_data(kspace, mask)
    gaps = [_largest_gap(mask.any(1 - axis)) for axis in (0, 1)]
    gapped = [axis for axis in (0, 1) if gaps[axis] > 1]
    reach = [_reach(gap, lines, options) for gap, lines in zip(gaps, acs.shape[1:], strict=True)]

    def windows(values: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(values, (reach[1], reach[1], reach[0], reach[0]))
        return padded.unfold(-2, 2 * reach[0] + 1, 1).unfold(-2, 2 * reach[1] + 1, 1)

    gram = cache(partial(window_gram, acs, levelling=options.levelling))
    missing = (~mask).nonzero()
    patterns, which, counts = torch.unique(windows(mask)[~mask], dim=0, return_inverse=True, return_counts=True)
    alike = torch.split(missing[which.argsort(stable=True)], counts.tolist())
    filled, around = kspace.clone(), windows(kspace)  # (coil, row, col, kernel row, kernel col)
    for pattern, places in zip(patterns, alike, strict=True):
        sources = pattern
        for axis in gapped:
            sources = _nearest(sources, axis, options.kernel_lines // 2, acs.shape[1 + axis])
        if bool(sources.any()):
            rows, cols = places.unbind(1)
            values = around[:, rows, cols][..., sources].movedim(0, 1).flatten(1)
            weights = _weights(gram, sources, len(kspace), options.weight)
            filled[:, rows, cols] = (values @ weights.to(kspace.dtype)).T
    return ifft2c(filled)


def _largest_gap(lines: Tensor) -> int:
    """Largest distance of measured lines, boolean `(line,)`, to the next one; 1 where there are no gaps."""
    return int(lines.nonzero().flatten().diff().max())


def _reach(gap: int, calibrated: int, options: GrappaOptions) -> int:
    """How far a kernel reaches to either side along an axis with this largest gap and so many calibration lines."""
    if gap == 1:
        return kernel_width(options.kernel_size, calibrated) // 2
    if gap // 2 >= calibrated:
        raise ValueError(
            f"lines that were not measured are up to {gap // 2} from the next one that was: expected at least"
            f" {gap // 2 + 1} calibration lines, got {calibrated}"
        )
    return min(options.kernel_lines // 2 * gap, calibrated - 1)


def _nearest(pattern: Tensor, axis: int, each_side: int, calibrated: int) -> Tensor:
    """Measured neighbours `(kernel row, kernel col)` in the lines through the sample itself and the nearest on either
    side of it, without the farthest ones where so many calibration lines do not hold all."""
    middle = pattern.shape[axis] // 2
    offsets = sorted((pattern.any(1 - axis).nonzero().flatten() - middle).tolist(), key=abs)
    sides = [[o for o in offsets if o < 0][:each_side], [o for o in offsets if o > 0][:each_side]]
    kept = sorted([*sides[0], 0, *sides[1]], key=abs)
    while max(kept) - min(kept) >= calibrated:
        kept.pop()
    lines = torch.zeros(pattern.shape[axis], dtype=torch.bool, device=pattern.device)
    lines[torch.tensor(kept) + middle] = True
    return pattern & (lines[:, None] if axis == 0 else lines)


def _weights(gram: Callable[[tuple[int, int]], Tensor], sources: Tensor, coils: int, weight: float) -> Tensor:
    """Weights `(coil x source, coil)` of sources, boolean `(kernel row, kernel col)` around the sample to be found.

    They are fitted in the smallest window that holds sources and sample, which has the most positions in the ACS.
    """
    window = sources.clone()
    middle = tuple(n // 2 for n in sources.shape)
    window[middle] = True
    used = window.nonzero()
    low, shape = used.amin(0), (used.amax(0) - used.amin(0) + 1).tolist()
    first = torch.arange(coils, device=sources.device)[:, None] * shape[0] * shape[1]

    def numbers(places: Tensor) -> Tensor:
        row, col = (places - low).unbind(-1)
        found: Tensor = first + row * shape[1] + col
        return found.flatten()

    found, near, here = gram(tuple(shape)), numbers(sources.nonzero()), numbers(torch.tensor(middle, device=low.device))
    weights: Tensor = torch.linalg.solve(ridge(found[near][:, near], weight), found[near][:, here])
    return weights


METHODS = {
    "grappa": Method(
        grappa, {"default": GrappaOptions()}, "GRAPPA: missing samples from measured neighbours in all coils",
        COUPLED_COILS, needs=None,
    ),
}  # fmt: skip
