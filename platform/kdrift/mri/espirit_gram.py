"""The Gram matrices G(r) whose eigenvectors are coil maps (ESPIRiT, Uecker et al. 2014), and their eigenvectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

PRODUCTS = 3
"""Products with the pixel matrices between two checks of convergence."""


NO_CENTRE = "no fully sampled centre for coil maps: sample ACS lines, or give the maps"
"""What is wrong with k-space that has no calibration data."""


def kernel_autocorrelation(calibration: Tensor, kernel_size: int, threshold: float, noise_sigma: float = 0.0) -> Tensor:
    """Return the autocorrelation `(row lag, col lag, coil, coil)` of the kernels that span calibration data.

    Parameters
    ----------
    calibration
        Complex `(coil, row, col)`.
    kernel_size, threshold
        Of `kdrift.mri.coils.espirit_maps`.
    noise_sigma
        Standard deviation of each real component of the noise. Singular values that noise alone can have, up to
        sigma sqrt(2) (sqrt(m) + sqrt(n)) of an m x n matrix, count as null space too.
    """
    if calibration.numel() == 0:
        raise ValueError(NO_CENTRE)
    coils = len(calibration)
    size = kernel_shape(calibration, kernel_size)
    blocks = calibration.unfold(1, size[0], 1).unfold(2, size[1], 1)
    # Complex128 here costs little and keeps singular values well below the threshold out of rounding.
    matrix = blocks.permute(1, 2, 0, 3, 4).reshape(-1, coils * size[0] * size[1]).to(torch.complex128)
    noise = noise_sigma * math.sqrt(2) * sum(math.sqrt(n) for n in matrix.shape)
    if len(matrix) < matrix.shape[1]:
        values, left = torch.linalg.eigh(matrix @ matrix.mH)
        kept = values > max(threshold**2 * float(values[-1]), noise**2)
        kernels = (matrix.mH @ left[:, kept]) * values[kept].rsqrt()
    else:
        values, right = torch.linalg.eigh(matrix.mH @ matrix)
        kernels = right[:, values > max(threshold**2 * float(values[-1]), noise**2)]
    projector = (kernels.conj() @ kernels.mT).reshape(coils, *size, coils, *size)

    lags = torch.zeros((2 * size[0] - 1, 2 * size[1] - 1, coils, coils), dtype=projector.dtype, device=projector.device)
    for y in range(size[0]):
        for x in range(size[1]):
            # p = (y, x), all q at once: lag p - q runs backwards over a block of the kernel's size.
            block = projector[:, y, x].permute(2, 3, 0, 1).flip(0, 1)
            lags[y : y + size[0], x : x + size[1]] += block
    return (lags / (size[0] * size[1])).to(calibration.dtype)


def kernel_shape(calibration: Tensor, kernel_size: int) -> tuple[int, int]:
    """Return rows and columns of the kernels on calibration data `(coil, row, col)`: at most 2/5 of these."""
    rows, cols = (min(kernel_size, max(1, 2 * n // 5)) for n in calibration.shape[1:])
    return rows, cols


def waves(positions: Tensor, length: int, num_lags: int, like: Tensor) -> Tensor:
    """exp(2 pi i lag r / n) as (position, lag), r counted from the image centre."""
    lag = torch.arange(num_lags, dtype=torch.float64) - num_lags // 2
    turns = (positions.to(torch.float64) - length // 2)[:, None] * lag / length
    return torch.polar(torch.ones_like(turns), 2 * torch.pi * turns).to(like.device, like.dtype)


def gram_matrices(lags: Tensor, waves_row: Tensor, waves_col: Tensor) -> Tensor:
    """G(r) as (row, col, coil, coil) at the rows and columns of the waves."""
    coils = lags.shape[-1]
    along_cols = waves_col @ lags.reshape(*lags.shape[:2], -1)
    gram = waves_row @ along_cols.reshape(len(lags), -1)
    return gram.reshape(len(waves_row), len(waves_col), coils, coils)


def leading(gram: Tensor, start: Tensor, crop: Tensor, max_iter: int, tol: float) -> tuple[Tensor, Tensor]:
    """Leading eigenvectors (pixel, coil, set) and eigenvalues (pixel, set) of `gram` (pixel, coil, coil).

    Subspace iteration from `start` on the pixels that may lie in the support, where an eigenvalue is above the `crop`
    (set,) of its set, and have not converged; those that are left after `max_iter` products are solved directly.
    """
    num_sets = start.shape[-1]
    vectors, values = start.clone(), torch.empty_like(start[:, 0].real)
    active = torch.arange(len(gram), device=gram.device)
    for step in range(0, max_iter + 1, PRODUCTS):
        matrices, current = gram if len(active) == len(gram) else gram[active], vectors[active]
        if step:
            for _ in range(PRODUCTS):
                current = matrices @ current
            current = _orthonormal(current)
        product = matrices @ current
        if num_sets > 1:  # Rayleigh-Ritz: the subspace converges before its basis does
            rotation = torch.linalg.eigh(current.mH @ product)[1].flip(-1)
            current, product = current @ rotation, product @ rotation
        ritz = (current.conj() * product).sum(-2).real
        vectors[active], values[active] = current, ritz
        residual = torch.linalg.vector_norm(product - current * ritz[:, None, :], dim=-2)
        # An eigenvalue lies within the residual of its estimate.
        active = active[((residual > tol) & (ritz + residual > crop)).any(-1)]
        if len(active) == 0:
            return vectors, values
    exact, basis = torch.linalg.eigh(gram[active])
    vectors[active], values[active] = basis[..., -num_sets:].flip(-1), exact[:, -num_sets:].flip(-1)
    return vectors, values


def _orthonormal(vectors: Tensor) -> Tensor:
    """Gram-Schmidt over the last axis."""
    tiny = torch.finfo(vectors.real.dtype).tiny
    done: list[Tensor] = []
    for column in vectors.unbind(-1):
        for other in done:
            column = column - other * (other.conj() * column).sum(-1, keepdim=True)
        done.append(column / torch.linalg.vector_norm(column, dim=-1, keepdim=True).clamp(min=tiny))
    return torch.stack(done, -1)
