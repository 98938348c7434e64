"""CG-SENSE with Tikhonov regularisation (Pruessmann et al. 2001, MRM 46:638)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdrift.methods import Measurement, Method
from kdrift.methods.classical.penalised import WeightedOptions


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
    "cg_sense": Method(
        cg_sense, {"default": CGSenseOptions()}, "CG-SENSE: least squares with Tikhonov regularisation", noise=None
    )
}
