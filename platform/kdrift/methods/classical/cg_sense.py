"""CG-SENSE with Tikhonov regularisation (Pruessmann et al. 2001, MRM 46:638)."""

from __future__ import annotations

from torch import Tensor

from kdrift.methods.classical.sigpy_app import checked_maps
from kdrift.mri.sense import sense_operator


def cg_sense(
    kspace: Tensor, mask: Tensor, smaps: Tensor | None = None, *, weight: float = 0.01, max_iter: int = 50
) -> Tensor:
    """argmin_x 1/2 |M F S x - y|^2 + weight/2 |x|^2 by conjugate gradients; in closed form for one unit coil.

    kspace (coil, row, col), mask (row, col), smaps (coil, row, col) -> image (row, col). The problem is
    quadratic, so the weight does not depend on the scale of the data.
    """
    operator = sense_operator(checked_maps(kspace, mask, smaps), mask)
    return operator.solve_normal(operator.adjoint(kspace), weight, max_iter=max_iter)
