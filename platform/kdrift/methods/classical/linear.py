"""Linear reconstructions: the data alone, and least squares (CG-SENSE; Pruessmann et al. 2001, MRM 46:638)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from kdrift.methods import Measurement, Method, Options


@dataclass(frozen=True)
class ZeroFilledOptions(Options):
    """Settings of the zero-filled reconstruction: there are none."""


def zero_filled(measurement: Measurement, *, options: ZeroFilledOptions) -> Tensor:
    """A^H y, the coil combination of the zero-filled coil images; complex `([set,] row, col)`."""
    return measurement.data


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


@dataclass(frozen=True)
class CGSenseOptions(WeightedOptions):
    """Settings of CG-SENSE."""

    weight: float = 0.01
    """Weight of |x|^2 / 2. The problem is quadratic: the weight does not depend on the scale of the data."""
    max_iter: int = 50
    """Most conjugate-gradient steps. One unit coil is solved in closed form."""


def cg_sense(measurement: Measurement, *, options: CGSenseOptions) -> Tensor:
    """argmin_x 1/2 |y - A x|^2 + weight/2 |x|^2 by conjugate gradients; complex `([set,] row, col)`."""
    return measurement.A.solve_normal(measurement.data, options.weight, max_iter=options.max_iter)


METHODS = {
    "zero_filled": Method(
        zero_filled, {"default": ZeroFilledOptions()}, "zero-filled: A^H y", needs=None, fits_data=False
    ),
    "cg_sense": Method(
        cg_sense, {"default": CGSenseOptions()}, "CG-SENSE: least squares with Tikhonov regularisation", needs=None
    ),
}
