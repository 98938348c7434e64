"""Structured low rank of multi-coil k-space: annihilation filters from the ACS, and |H(z) N|_F^2 as an operator.

A Hankel matrix H(z) has a row for every position of a kernel in k-space and the kernel's samples in it; coils and a
limited field of view make its rank low, and filters N from the null space of the ACS annihilate it (Jacob et al.
2020). Kernels go round the edge of k-space, so that a filter is a product in the image domain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kdrift.mri.coils import calibration_box
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.mri.kernels import window_gram
from kdrift.mri.linop import LinearOperator, Shape
from kdrift.mri.masks import Box


def annihilation_filters(kspace: Tensor, box: Box, *, kernel_size: int = 5, threshold: float = 0.05) -> Tensor:
    """Filters N that annihilate the ACS, complex `(filter, coil, kernel row, kernel col)`, of norm 1.

    Of k-space `(coil, row, col)` only `box` (row slice, col slice), fully sampled, is read. Filters have `kernel_size`
    samples along each axis, at most 2/5 of the ACS and half of k-space. Singular vectors of the calibration matrix
    below the fraction `threshold` of the largest singular value are null space. Raises ValueError if there is no fully
    sampled centre.
    """
    calibration = kspace[:, box[0], box[1]]
    if calibration.numel() == 0:
        raise ValueError("no fully sampled centre for annihilation filters: sample ACS lines, or set slr_weight to 0")
    sizes = zip(calibration.shape[1:], kspace.shape[1:], strict=True)
    rows, cols = (max(1, min(kernel_size, 2 * acs // 5, whole // 2)) for acs, whole in sizes)
    values, vectors = torch.linalg.eigh(window_gram(calibration, (rows, cols)))
    null: Tensor = vectors[:, values <= threshold**2 * values[-1]]
    return null.T.reshape(-1, len(kspace), rows, cols).to(kspace.dtype)


@dataclass(frozen=True, eq=False)
class LowRankOperator(LinearOperator):
    """z -> H(z) N / sqrt(kernel area), from k-space `(coil, row, col)` to `(filter, row, col)`.

    With that scale the normal operator F Q F^-1, Q a matrix of coils at every pixel, has eigenvalues in [0, 1].
    """

    filters: Tensor
    """`(filter, coil, kernel row, kernel col)`; the bound on eigenvalues holds for orthonormal ones."""
    shape: Shape
    """Shape of k-space, `(coil, row, col)`."""
    _gram: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Make Q `(row, col, coil, coil)`: a trigonometric polynomial of the filters' autocorrelation."""
        filters, (coils, rows, cols) = self.filters, self.shape
        kernel = filters.shape[-2:]
        if kernel[0] > (rows + 1) // 2 or kernel[1] > (cols + 1) // 2:
            raise ValueError(f"filters of {kernel[0]} x {kernel[1]} are too wide for k-space of {rows} x {cols}")
        flat = filters.flatten(1).to(torch.complex128)
        products = (flat.mH @ flat).reshape(coils, *kernel, coils, *kernel)
        lags = products.new_zeros(rows, cols, coils, coils)
        first = (rows // 2 - kernel[0] + 1, cols // 2 - kernel[1] + 1)
        for y in range(kernel[0]):
            for x in range(kernel[1]):
                # sample k = (y, x) of one filter with all k' of the other: lag k - k' runs backwards
                block = products[:, y, x].permute(2, 3, 0, 1).flip(0, 1)
                lags[first[0] + y : first[0] + y + kernel[0], first[1] + x : first[1] + x + kernel[1]] += block
        gram = ifft2c(lags, (0, 1)).mul_(math.sqrt(rows * cols) / (kernel[0] * kernel[1])).to(filters.dtype)
        object.__setattr__(self, "_gram", gram)

    @property
    def ishape(self) -> Shape:
        """`(coil, row, col)`."""
        return self.shape

    @property
    def oshape(self) -> Shape:
        """`(filter, row, col)`."""
        return (len(self.filters), *self.shape[-2:])

    def _forward(self, x: Tensor) -> Tensor:
        return fft2c((self._weights() * ifft2c(x).unsqueeze(-4)).sum(-3))

    def _adjoint(self, y: Tensor) -> Tensor:
        return fft2c((self._weights().conj() * ifft2c(y).unsqueeze(-3)).sum(-4))

    def _normal(self, x: Tensor) -> Tensor:
        """`F Q F^-1 x`: no filter is applied by itself."""
        return fft2c(self._apply_gram(ifft2c(x)))

    def attract(self, x: Tensor, num_steps: int) -> Tensor:
        """Return x after gradient steps x <- x - A^H A x on |A x|^2 / 2, towards what the filters annihilate.

        From a start x that is the projection which AK-Diffusion's T(z) = argmin |H(z) N|^2 stands for (section VI.B).
        """
        self._check("attract", self.ishape, x)
        images = ifft2c(x)
        for _ in range(num_steps):
            images = images - self._apply_gram(images)
        return fft2c(images)

    def _apply_gram(self, images: Tensor) -> Tensor:
        flat = images.reshape(-1, *self.shape)  # one chain at a time: rounding cannot depend on the batch
        done = [torch.einsum("yxcd,dyx->cyx", self._gram, chain) for chain in flat]
        return torch.stack(done).reshape(images.shape)

    def _weights(self) -> Tensor:
        """What each filter multiplies coil images by: `(filter, coil, row, col)`."""
        rows, cols = self.shape[-2:]
        kernel = self.filters.shape[-2:]
        padded = self.filters.new_zeros(*self.filters.shape[:2], rows, cols)
        padded[..., rows // 2 : rows // 2 + kernel[0], cols // 2 : cols // 2 + kernel[1]] = self.filters
        return fft2c(padded) * math.sqrt(rows * cols / (kernel[0] * kernel[1]))


def low_rank_operator(kspace: Tensor, mask: Tensor, *, kernel_size: int, threshold: float) -> LowRankOperator:
    """The operator of undersampled k-space `(coil, row, col)` from its ACS; see `annihilation_filters`."""
    filters = annihilation_filters(
        kspace, calibration_box(mask, kspace=kspace), kernel_size=kernel_size, threshold=threshold
    )
    return LowRankOperator(filters, tuple(kspace.shape))
