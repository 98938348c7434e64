"""What classical methods with a penalty share: their settings, and sigpy's reconstruction apps without their quirks.

sigpy's regularisation weights depend on the scale of the data, its step sizes come from a power iteration
that starts from numpy's global random state, and it draws progress bars. Here the data are scaled so that the
zero-filled image has maximum 1 (and the answer is scaled back), the step sizes come from bounds on the
operator's norm, and nothing is drawn: the same input gives the same image, and a weight means the same on
every scanner.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdrift.methods import Measurement, Options


@dataclass(frozen=True)
class WeightedOptions(Options):
    """Settings of a method that minimises the data misfit and a weighted penalty; each has defaults of its own."""

    weight: float = 0.01
    """Weight of the penalty."""
    max_iter: int = 50
    """Most steps of the solver."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf or self.max_iter < 1:
            raise ValueError(f"expected a finite weight >= 0 and max_iter >= 1, got {self}")


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
