"""The one place that meets sigpy's reconstruction apps and their quirks.

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
import numpy.typing as npt
import torch
from torch import Tensor

from kdrift.methods.measurement import Measurement


@dataclass(frozen=True)
class ScaledProblem:
    """A slice as sigpy wants it: numpy arrays at unit scale."""

    kspace: npt.NDArray[Any]
    """k-space `(coil, row, col)`."""
    smaps: npt.NDArray[Any]
    """Coil maps `(coil, row, col)`."""
    weights: npt.NDArray[Any]
    """The mask `(row, col)` as real numbers."""
    start: npt.NDArray[Any]
    """A^H y `(row, col)`, maximum 1."""
    norm_bound: float
    """Bound on the largest eigenvalue of A^H A: the maximum over pixels of sum_c |S_c|^2."""


def run_app(make_app: Callable[[ScaledProblem], Any], measurement: Measurement) -> Tensor:
    """Solve one slice with the sigpy app that `make_app` builds from the scaled problem; image `(row, col)`.

    Raises ValueError for k-space that holds values that are not finite.
    """
    kspace, smaps, start = measurement.kspace, measurement.smaps, measurement.data
    scale = float(start.abs().max())
    if not np.isfinite(scale):
        raise ValueError("kspace holds values that are not finite: check the data before reconstructing")
    if scale == 0.0:
        return torch.zeros_like(start)
    problem = ScaledProblem(
        kspace=(kspace / scale).cpu().numpy(),
        smaps=smaps.cpu().numpy(),
        weights=measurement.mask.cpu().numpy().astype(kspace.real.cpu().numpy().dtype),
        start=(start / scale).cpu().numpy(),
        norm_bound=float(measurement.chains.energy(smaps).max()),
    )
    image = make_app(problem).run()
    return torch.from_numpy(np.ascontiguousarray(image)).to(kspace) * scale
