"""Linear relations among neighbouring samples of multi-coil k-space: what they are calibrated on, and k-space that is
completed by them.

A window holds the samples of all coils in a small rectangle; relations are found from the Gram matrix of all windows of
the ACS.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdrift.mri.cg import conjugate_gradients
from kdrift.mri.coils import LEAST_SIDE, calibration_box

LEAST_ENERGY = 1e-8
"""Windows of less energy than this part of the largest sample's count as if they had as much: noise stays noise."""
Normal = Callable[[Tensor], Tensor]
"""A^H A of a linear map, from k-space `(coil, row, col)` to the same."""


def calibration_data(kspace: Tensor, mask: Tensor) -> Tensor:
    """The largest fully sampled box of k-space `(coil, row, col)` around its middle, or around the echo.

    `mask` is boolean `(row, col)`. Returns complex `(coil, box row, box col)`. Raises ValueError for a box of fewer
    than `kdrift.mri.coils.LEAST_SIDE` lines along an axis, and for values that are not finite.
    """
    box = calibration_box(mask, max(mask.shape), kspace=kspace)
    rows, cols = (side.stop - side.start for side in box)
    if min(rows, cols) < LEAST_SIDE:
        raise ValueError(
            f"expected calibration lines, a fully sampled box of at least {LEAST_SIDE} x {LEAST_SIDE} samples in the"
            f" middle of k-space, got {rows} x {cols}: give a mask with more of them (acs_fraction or acs_lines), or"
            " take a method that needs none, such as tv"
        )
    if not bool(torch.isfinite(kspace).all()):
        raise ValueError("kspace holds values that are not finite: check the data before reconstructing")
    return kspace[:, box[0], box[1]]


def kernel_width(wanted: int, lines: int) -> int:
    """`wanted`, which is odd, or the largest odd width that has two positions or more in so many calibration lines."""
    return min(wanted, lines - 1 if lines % 2 == 0 else lines - 2)


def window_gram(calibration: Tensor, shape: tuple[int, int], levelling: float = 0.0) -> Tensor:
    """W^H W of all windows W of calibration data `(coil, row, col)`, a row each, in complex128.

    `shape` is that of the windows; the result is `(n, n)`, n their samples in the order (coil, kernel row, kernel col).
    Each window is divided by its root mean square to the power of `levelling` first: 0 leaves it, 1 makes all alike.
    """
    size = len(calibration) * shape[0] * shape[1]
    windows = calibration.to(torch.complex128).unfold(1, shape[0], 1).unfold(2, shape[1], 1)
    least = LEAST_ENERGY * float(calibration.abs().max()) ** 2
    gram = windows.new_zeros(size, size)
    for row in windows.unbind(1):  # one by one: all windows together can be gigabytes
        part = row.permute(1, 0, 2, 3).reshape(-1, size)
        energy = part.abs().square().mean(1).clamp(min=max(least, torch.finfo(torch.float64).tiny))
        gram += (part.mH * energy**-levelling) @ part
    return gram


def ridge(gram: Tensor, weight: float) -> Tensor:
    """A Gram matrix `(n, n)` with `weight` |gram|_F / n added to its diagonal: a weight without a unit.

    The weight of nothing is that of rounding, so that noise-free data, whose matrix is singular, have a solution too.
    """
    limits = torch.finfo(gram.real.dtype)
    level = (weight + limits.eps) * float(torch.linalg.matrix_norm(gram)) / len(gram)
    return gram + max(level, limits.tiny) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


def complete(normal: Normal, kspace: Tensor, mask: Tensor, *, weight: float, max_iter: int) -> Tensor:
    """argmin_x |A x|^2 + weight |x - y|^2 over all x that are y where it was measured, by conjugate gradients.

    `normal` is A^H A, where A may be linear over the real numbers only; y is `kspace` `(coil, row, col)`, zero where
    `mask` `(row, col)` is False. Returns complex `(coil, row, col)`.
    """

    def free(z: Tensor) -> Tensor:
        return torch.where(mask, 0, normal(z))

    lam = torch.tensor(weight, dtype=kspace.real.dtype, device=kspace.device)
    return kspace + conjugate_gradients(free, -free(kspace), lam, num_axes=kspace.ndim, max_iter=max_iter)
