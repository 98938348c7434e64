"""Least squares with a penalty, by sigpy: total variation (Block, Uecker and Frahm 2007, MRM 57:1086) and l1-wavelet
compressed sensing (Lustig, Donoho and Pauly 2007, MRM 58:1182).

sigpy's regularisation weights depend on the scale of the data, its step sizes come from a power iteration
that starts from numpy's global random state, and it draws progress bars. Here the data are scaled so that the
zero-filled image has maximum 1 (and the answer is scaled back), the step sizes come from bounds on the
operator's norm, and nothing is drawn: the same input gives the same image, and a weight means the same on
every scanner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdrift.methods import Measurement, Method
from kdrift.methods.classical.linear import WeightedOptions

DUAL_STEP = 0.02
"""Step size of the dual variables (residual, weight), which are about 1e-3 of the image: on a real slice at 4x sigpy's
1 leaves the objective 20 % above its minimum after 100 iterations, and PSNR 6 dB short; 0.02 comes within 0.1 % in
400."""


@dataclass(frozen=True)
class TVOptions(WeightedOptions):
    """Settings of total variation."""

    weight: float = 0.0005
    """Weight of |D x|_1, in units of the zero-filled image's maximum."""
    max_iter: int = 400
    """Steps of primal-dual hybrid gradient (Chambolle and Pock 2011), from the zero-filled image."""


def total_variation(measurement: Measurement, *, options: TVOptions) -> Tensor:
    """argmin_x 1/2 |y - A x|^2 + weight |D x|_1, D periodic differences (sigpy); complex `(row, col)`."""

    def app(start: Any, norm_bound: float, **problem: Any) -> Any:
        from sigpy.mri.app import TotalVariationRecon

        # |[A; D]|^2 <= |A|^2 + 8, since a periodic difference along each of two axes has eigenvalues up to 4
        steps = {"sigma": DUAL_STEP, "tau": 1.0 / (DUAL_STEP * (norm_bound + 8.0))}
        return TotalVariationRecon(lamda=options.weight, x=start, max_iter=options.max_iter, **steps, **problem)

    return run_app(app, measurement)


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


def run_app(make_app: Callable[..., Any], measurement: Measurement) -> Tensor:
    """Solve one slice with a sigpy app; image `(row, col)`.

    `make_app(start, norm_bound, **problem)` builds the app. `start` is A^H y `(row, col)` with maximum 1, `norm_bound`
    is above the eigenvalues of A^H A, and `problem` holds what every app takes, at the scale of `start`.

    Raises ValueError for k-space that holds values that are not finite.
    """
    kspace, smaps, start = measurement.kspace, measurement.smaps, measurement.data
    scale = float(start.abs().max())
    if not np.isfinite(scale):
        raise ValueError("kspace holds values that are not finite: check the data before reconstructing")
    if scale == 0.0:
        return torch.zeros_like(start)
    problem = {
        "y": (kspace / scale).cpu().numpy(),
        "mps": smaps.cpu().numpy(),
        "weights": measurement.mask.to(kspace.real.dtype).cpu().numpy(),
        "show_pbar": False,
    }
    norm_bound = float(measurement.chains.energy(smaps).max())
    image = make_app((start / scale).cpu().numpy(), norm_bound, **problem).run()
    return torch.from_numpy(np.ascontiguousarray(image)).to(kspace) * scale


METHODS = {
    "tv": Method(
        total_variation, {"default": TVOptions()}, "total variation, by sigpy's primal-dual solver",
        needs=None, max_map_sets=1,
    ),
    "l1_wavelet": Method(
        l1_wavelet, {"default": WaveletOptions()}, "l1-wavelet compressed sensing, by sigpy's FISTA",
        needs=None, max_map_sets=1,
    ),
}  # fmt: skip
