"""l1-wavelet compressed sensing (Lustig, Donoho and Pauly 2007, MRM 58:1182)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kdrift.methods.classical.sigpy_app import ScaledProblem, run_app
from kdrift.methods.classical.weighted import WeightedOptions
from kdrift.methods.measurement import Measurement
from kdrift.methods.method import Method


@dataclass(frozen=True)
class WaveletOptions(WeightedOptions):
    """Settings of l1-wavelet."""

    weight: float = 0.001
    """Weight of |W x|_1, in units of the zero-filled image's maximum."""
    max_iter: int = 100
    """Proximal gradient steps (FISTA)."""
    wavelet: str = "db4"
    """Name that PyWavelets knows."""

    def __post_init__(self) -> None:
        import pywt

        super().__post_init__()
        if self.wavelet not in pywt.wavelist(kind="discrete"):
            raise ValueError(f"wavelet must be a discrete one of PyWavelets, such as db4 or haar, got {self.wavelet!r}")


def l1_wavelet(measurement: Measurement, *, options: WaveletOptions) -> Tensor:
    """argmin_x 1/2 |y - A x|^2 + weight |W x|_1 by proximal gradients (sigpy); complex `(row, col)`."""

    def app(problem: ScaledProblem) -> Any:
        from sigpy.mri.app import L1WaveletRecon

        return L1WaveletRecon(
            problem.kspace,
            problem.smaps,
            options.weight,
            weights=problem.weights,
            wave_name=options.wavelet,
            max_iter=options.max_iter,
            alpha=1.0 / problem.norm_bound,
            show_pbar=False,
        )

    return run_app(app, measurement)


METHODS = {
    "l1_wavelet": Method(
        l1_wavelet, {"default": WaveletOptions()}, "l1-wavelet compressed sensing, by sigpy's FISTA",
        noise=None, max_map_sets=1,
    )
}  # fmt: skip
