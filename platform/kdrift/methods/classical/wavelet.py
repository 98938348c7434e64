"""l1-wavelet compressed sensing (Lustig, Donoho and Pauly 2007, MRM 58:1182)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdrift.methods.classical.sigpy_app import ScaledProblem, run_app


def l1_wavelet(
    kspace: Tensor,
    mask: Tensor,
    smaps: Tensor | None = None,
    *,
    weight: float = 0.001,
    max_iter: int = 100,
    wavelet: str = "db4",
) -> Tensor:
    """argmin_x 1/2 |M F S x - y|^2 + weight |W x|_1 by proximal gradients (FISTA; sigpy's L1WaveletRecon).

    kspace (coil, row, col), mask (row, col), smaps (coil, row, col) -> image (row, col). `weight` is in units
    of the zero-filled image's maximum; `wavelet` is a name that PyWavelets knows.
    """

    def app(problem: ScaledProblem) -> Any:
        from sigpy.mri.app import L1WaveletRecon

        return L1WaveletRecon(
            problem.kspace,
            problem.smaps,
            weight,
            weights=problem.weights,
            wave_name=wavelet,
            max_iter=max_iter,
            alpha=1.0 / problem.norm_bound,
            show_pbar=False,
        )

    return run_app(app, kspace, mask, smaps)
