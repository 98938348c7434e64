"""AC-LORAKS: autocalibrated low-rank modelling of neighbourhoods in k-space (Haldar 2015, Proc. ISBI, 910; Haldar and
Zhuo 2016, MRM 75:1499)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kdrift.methods import COUPLED_COILS, Measurement, Method
from kdrift.methods.classical.linear import WeightedOptions
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.mri.kernels import calibration_data, complete, kernel_width, window_gram
from kdrift.mri.low_rank import LowRankOperator


@dataclass(frozen=True)
class LoraksOptions(WeightedOptions):
    """Settings of AC-LORAKS."""

    weight: float = 0.01
    """Weight of the energy of what was not measured, beside |C(x) V|^2."""
    max_iter: int = 50
    """Most conjugate-gradient steps."""
    matrix: Literal["C", "S"] = "C"
    """`C`: coils and limited support; `S`: smooth phase too, by conjugate-symmetric virtual coils."""
    radius: int = 2
    """Neighbourhoods are all samples within this distance, in samples."""
    rank: int | None = None
    """Rank of the matrix of neighbourhoods; null: by `threshold`."""
    threshold: float = 0.05
    """Singular values of the calibration matrix below this fraction of the largest are null space."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.radius < 1 or (self.rank is not None and self.rank < 1) or not 0 < self.threshold < 1:
            raise ValueError(f"expected radius and rank of at least 1 and 0 < threshold < 1, got {self}")


def loraks(measurement: Measurement, *, options: LoraksOptions) -> Tensor:
    """argmin_x |C(x) V|^2 + weight |x - y|^2 over all x that are y where it was measured.

    C(x) has a row for every sample, the neighbourhood of it in all coils; V spans the null space of C of the ACS. The
    S-matrix is the C-matrix of the coils and of conj(x(-k)), which are the coils of the conjugate images. Filters
    and edges are those of `kdrift.mri.low_rank`. Returns coil images, complex `(coil, row, col)`. Raises ValueError
    for k-space without an ACS.
    """
    kspace, mask = measurement.kspace, measurement.mask
    if bool(mask.all()):
        return ifft2c(kspace)
    both = options.matrix == "S"
    seen = torch.cat([kspace, mirrored(kspace)]) if both else kspace
    acs = calibration_data(seen, mask & _mirrored_mask(mask) if both else mask)
    rows, cols = (
        kernel_width(2 * options.radius + 1, min(lines, whole // 2 + 1))
        for lines, whole in zip(acs.shape[1:], mask.shape, strict=True)
    )
    filters = null_filters(window_gram(acs, (rows, cols)), (rows, cols), options)
    operator = LowRankOperator(filters.to(kspace.dtype), tuple(seen.shape))

    def normal(x: Tensor) -> Tensor:
        if not both:
            return operator.normal(x)
        own, conjugate = operator.normal(torch.cat([x, mirrored(x)])).chunk(2)
        return own + mirrored(conjugate)

    return ifft2c(complete(normal, kspace, mask, weight=options.weight, max_iter=options.max_iter))


def null_filters(gram: Tensor, shape: tuple[int, int], options: LoraksOptions) -> Tensor:
    """V as filters `(filter, coil, kernel row, kernel col)`, from the Gram matrix of the windows of the ACS.

    They are zero outside of the neighbourhood. Raises ValueError where nothing is null space.
    """
    offsets = [torch.arange(n, device=gram.device) - n // 2 for n in shape]
    disc = offsets[0][:, None].square() + offsets[1].square() <= options.radius**2
    kept = disc.flatten().repeat(len(gram) // disc.numel()).nonzero().flatten()
    values, vectors = torch.linalg.eigh(gram[kept][:, kept])
    count = int((values <= options.threshold**2 * values[-1]).sum())
    count = count if options.rank is None else len(kept) - options.rank
    if count < 1:
        raise ValueError(
            f"the calibration matrix has {len(kept)} columns and no null space: expected a larger radius, and a rank"
            f" below {len(kept)} or a threshold above {float((values[0].clamp(min=0) / values[-1]).sqrt()):.3g}"
        )
    filters = gram.new_zeros(len(gram), count)
    filters[kept] = vectors[:, :count]
    return filters.T.reshape(count, -1, *shape)


def mirrored(kspace: Tensor) -> Tensor:
    """conj(x(-k)) of k-space `(..., row, col)`, that of the conjugate image."""
    return fft2c(ifft2c(kspace).conj())


def _mirrored_mask(mask: Tensor) -> Tensor:
    """Where -k was measured; the middle of k-space is at `n // 2`."""
    return mask.flip(0, 1).roll([1 - n % 2 for n in mask.shape], (0, 1))


METHODS = {
    "loraks": Method(
        loraks, {"default": LoraksOptions()}, "AC-LORAKS: neighbourhoods of k-space of low rank, learned on the ACS",
        COUPLED_COILS, needs=None,
    ),
}  # fmt: skip
