"""Classical reconstructions, each of one slice, in one table.

A new baseline is one file and one line here. All take ``(kspace, mask, smaps, *, weight, max_iter)`` with
kspace (coil, row, col) undersampled, mask (row, col) bool, smaps (coil, row, col) or None for a single coil,
and return a complex image (row, col) on the scale of the data.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from kdrift.methods.classical.cg_sense import cg_sense
from kdrift.methods.classical.total_variation import total_variation
from kdrift.methods.classical.wavelet import l1_wavelet
from kdrift.methods.classical.zero_filled import zero_filled


class Baseline(Protocol):
    """What every baseline is called like."""

    def __call__(
        self,
        kspace: Tensor,
        mask: Tensor,
        smaps: Tensor | None = None,
        *,
        weight: float = ...,
        max_iter: int = ...,
    ) -> Tensor:
        """Reconstruct one slice; complex image (row, col)."""
        ...


BASELINES: dict[str, Baseline] = {
    "zero_filled": zero_filled,
    "cg_sense": cg_sense,
    "tv": total_variation,
    "l1_wavelet": l1_wavelet,
}

__all__ = ["BASELINES", "Baseline", "cg_sense", "l1_wavelet", "total_variation", "zero_filled"]
