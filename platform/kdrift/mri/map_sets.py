"""How many sets of coil maps a scan needs, by its calibration lines: two where the object is wider than the field of
view, so that two places of it fold into one pixel and the coils see both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdrift.mri.coils import COARSE, calibration_box, rss
from kdrift.mri.espirit_gram import gram_matrices, kernel_autocorrelation, kernel_shape, waves
from kdrift.mri.fourier import ifft2c
from kdrift.mri.masks import detect_mask

CROP = 0.8
"""A second eigenvalue above this says that a second signal is there; maps of a second set end where it is not."""
SHARE, SHARE_OF_FEW = 0.1, 0.3
"""Share of the image's energy with such a second eigenvalue from which on there are two sets, and where the kernels are
of `FEW` rows or columns, since these tell less. Heads inside of the field of view have 0 to 0.07 (0 to 0.1), those of
1.1 times its width 0.12 (0.5) and more; four coils that turn the phase twice over it 0.8 (1)."""
FEW = 2
"""Kernels of so many rows or columns come from 5 to 7 calibration lines. Those of one tell nothing."""
MEANING = (
    "as of an object wider than the field of view, of coils whose phase turns faster than calibration lines resolve,"
    " or of motion between these lines"
)


@dataclass(frozen=True)
class SetsSeen:
    """What the eigenvalues of ESPIRiT say of an image."""

    second: float
    """Share of the image's energy where the second largest eigenvalue is above `CROP`."""
    kernel: tuple[int, int]
    """Rows and columns of the kernels that they come from."""


def see_sets(kspace: Tensor, *, kernel_size: int = 6, threshold: float = 0.02, noise_sigma: float = 0.0) -> SetsSeen:
    """Return what the calibration data in k-space `(coil, row, col)`, of two coils or more, say of its map sets.

    The energy is that of the image of the calibration data alone, root sum of squares of the coils. `kernel_size` and
    `threshold` are those of `kdrift.mri.coils.espirit_maps`, `noise_sigma` that of the noisiest coil, the standard
    deviation of each real component: singular values that it alone can have count as null space too.
    """
    rows, cols = calibration_box(detect_mask(kspace), kspace=kspace)
    calibration = kspace[..., rows, cols]
    low = torch.zeros_like(kspace)
    low[..., rows, cols] = calibration
    lags = kernel_autocorrelation(calibration, kernel_size, threshold, noise_sigma)
    size = kspace.shape[-2:]
    along = [waves(torch.arange(0, n, COARSE), n, lags.shape[axis], lags) for axis, n in enumerate(size)]
    values = torch.linalg.eigvalsh(gram_matrices(lags, *along)).flip(-1)
    energy = rss(ifft2c(low))[::COARSE, ::COARSE].square()
    energy = energy / energy.sum()
    return SetsSeen(float(energy[values[..., 1] > CROP].sum()), kernel_shape(calibration, kernel_size))


def choose_sets(seen: SetsSeen, most: int = 2) -> tuple[int, str]:
    """Return how many sets to take, at most `most`, and a sentence where the calibration lines ask for two."""
    narrow = min(seen.kernel)
    if seen.second < (SHARE if narrow > FEW else SHARE_OF_FEW):
        return 1, ""
    what = f"the second eigenvalue of ESPIRiT is above {CROP:g} in about {round(seen.second, 1):.0%} of the object"
    if narrow < FEW:
        return 1, f"one set of coil maps: {what}, but so few calibration lines do not tell why: two sets may do better"
    if most < 2:
        return 1, f"one set of coil maps, all that the method takes: {what}, {MEANING}: a method that takes two fits it"
    return 2, f"two sets of coil maps: {what}, {MEANING}"


def stack_maps(maps: Sequence[Tensor | None]) -> Tensor | None:
    """Put the maps `([set,] coil, row, col)` of slices together, `(slice, [set,] coil, row, col)`.

    Slices without maps, and sets that a slice has fewer of than another, are zeros. None where no slice has maps.
    """
    known = [each for each in maps if each is not None]
    if not known:
        return None
    like = max(known, key=lambda each: each.shape[:-3].numel())
    stacked = like.new_zeros((len(maps), like.shape[:-3].numel(), *like.shape[-3:]))
    for row, each in zip(stacked, maps, strict=True):
        if each is not None:
            row[: each.shape[:-3].numel()] = each
    return stacked if like.ndim == 4 else stacked[:, 0]
