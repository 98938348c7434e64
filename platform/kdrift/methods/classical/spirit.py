"""SPIRiT: k-space that is consistent with its own calibration (Lustig and Pauly 2010, MRM 64:457)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kdrift.methods import COUPLED_COILS, Measurement, Method
from kdrift.methods.classical.linear import WeightedOptions
from kdrift.mri.fourier import ifft2c
from kdrift.mri.kernels import calibration_data, complete, kernel_width, ridge, window_gram
from kdrift.mri.low_rank import LowRankOperator


@dataclass(frozen=True)
class SpiritOptions(WeightedOptions):
    """Settings of SPIRiT."""

    weight: float = 0.03
    """Weight of the energy of what was not measured, beside |(G - I) x|^2."""
    max_iter: int = 50
    """Most conjugate-gradient steps."""
    kernel_size: int = 5
    """Width of the kernels along both axes, odd."""
    calibration_weight: float = 0.1
    """Tikhonov weight of the calibration, relative to the Frobenius norm of its normal matrix over its size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.calibration_weight < math.inf or self.kernel_size < 3 or not self.kernel_size % 2:
            raise ValueError(f"expected a finite calibration_weight >= 0 and an odd kernel_size >= 3, got {self}")


def spirit(measurement: Measurement, *, options: SpiritOptions) -> Tensor:
    """argmin_x |(G - I) x|^2 + weight |x - y|^2 over all x that are y where it was measured.

    That is the paper's constrained problem with epsilon 0. G predicts every sample from all others around it, in all
    coils. Returns coil images, complex `(coil, row, col)`. Raises ValueError for one coil, and for k-space without an
    ACS.
    """
    kspace, mask = measurement.kspace, measurement.mask
    if bool(mask.all()):
        return ifft2c(kspace)
    if len(kspace) == 1:
        raise ValueError("spirit takes apart what coils see differently: expected 2 coils or more, got 1; take tv")
    acs = calibration_data(kspace, mask)
    rows, cols = (
        kernel_width(options.kernel_size, min(lines, whole // 2 + 1))
        for lines, whole in zip(acs.shape[1:], mask.shape, strict=True)
    )
    filters = prediction_errors(window_gram(acs, (rows, cols)), (rows, cols), options.calibration_weight)
    operator = LowRankOperator(filters.to(kspace.dtype), tuple(kspace.shape))
    weight = options.weight / math.prod(filters.shape[-2:])  # the operator is (G - I) / sqrt(kernel area)
    return ifft2c(complete(operator.normal, kspace, mask, weight=weight, max_iter=options.max_iter))


def prediction_errors(gram: Tensor, shape: tuple[int, int], weight: float) -> Tensor:
    """I - G as filters `(coil, coil, kernel row, kernel col)`, from the Gram matrix of the windows of the ACS.

    With K the inverse of the regularised Gram matrix, least squares predicts sample j from all others with the weights
    -K_ij / K_jj: one inverse serves all coils.
    """
    area = shape[0] * shape[1]
    coils = torch.arange(len(gram) // area, device=gram.device)
    centres = coils * area + area // 2
    columns: Tensor = torch.linalg.inv(ridge(gram, weight))[:, centres]
    return (columns / columns[centres, coils]).T.reshape(len(coils), -1, *shape)


METHODS = {
    "spirit": Method(
        spirit, {"default": SpiritOptions()}, "SPIRiT: k-space that agrees with its own calibration, by conjugate"
        " gradients", COUPLED_COILS, needs=None,
    ),
}  # fmt: skip
