"""l1-wavelet compressed sensing (Lustig, Donoho and Pauly 2007, MRM 58:1182)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kdrift.methods import Measurement, Method
from kdrift.methods.classical.penalised import WeightedOptions, run_app


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

    def app(start: Any, norm_bound: float, **problem: Any) -> Any:
        from sigpy.mri.app import L1WaveletRecon

        settings = {"wave_name": options.wavelet, "max_iter": options.max_iter, "alpha": 1.0 / norm_bound}
        return L1WaveletRecon(lamda=options.weight, **settings, **problem)

    return run_app(app, measurement)


METHODS = {
    "l1_wavelet": Method(
        l1_wavelet, {"default": WaveletOptions()}, "l1-wavelet compressed sensing, by sigpy's FISTA",
        noise=None, max_map_sets=1,
    )
}  # fmt: skip
