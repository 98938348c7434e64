"""Problems with an exact Gaussian score, and what a linear recursion makes of them, for tests of Langevin samplers."""

from __future__ import annotations

import torch
from torch import Tensor

from kdrift.methods import Measurement
from kdrift.mri.sense import sense_operator

TAU = 0.7


def gaussian_score(x: Tensor, sigma: float | Tensor) -> Tensor:
    """Exact score of white Gaussian images of deviation TAU a component."""
    return -x / (TAU**2 + sigma**2)


def complex_normal(*shape: int) -> Tensor:
    """N(0, 1) in each component."""
    return torch.randn(*shape, dtype=torch.complex128) * 2**0.5


def problem(coils: int, rows: int, cols: int, noise: float, kept: float = 0.5) -> Measurement:
    """Random smooth-free maps, a random mask and data of a Gaussian image."""
    torch.manual_seed(coils)
    smaps = complex_normal(coils, rows, cols)
    smaps = smaps / smaps.abs().square().sum(0).sqrt()
    if coils == 1:
        smaps = torch.ones_like(smaps)
    mask = torch.rand(rows, cols) < kept
    kspace = sense_operator(smaps, mask).forward(TAU * complex_normal(rows, cols))
    kspace = kspace + noise * complex_normal(coils, rows, cols)
    return Measurement(torch.where(mask, kspace, 0), mask, smaps, noise)


def dense_normal(measurement: Measurement) -> Tensor:
    """A^H A as a matrix."""
    operator = sense_operator(measurement.smaps, measurement.mask)
    rows, cols = operator.ishape
    basis = torch.eye(rows * cols, dtype=torch.complex128).reshape(-1, rows, cols)
    return operator.normal(basis).reshape(rows * cols, -1).T


def mean_and_variance_scores(parts: Tensor, mean: float, variance: float) -> tuple[float, float]:
    """Deviations of the mean and the variance of Gaussian numbers, in standard errors."""
    count = parts.numel()
    off = (float(parts.mean()) - mean) / (variance / count) ** 0.5
    spread = (float((parts - mean).square().mean()) / variance - 1) / (2 / count) ** 0.5
    return abs(off), abs(spread)
