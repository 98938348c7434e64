"""The data's step where an image is known up to white Gaussian noise: a draw from that times the likelihood."""

from __future__ import annotations

from torch import Tensor

from kdrift.methods import ChainNoise, Measurement
from kdrift.mri.linop import LinearOperator


def draw(
    measurement: Measurement, mean: Tensor, deviation: float, s: float, *, rng: ChainNoise, spread: float = 1.0,
    x0: Tensor | None = None, max_iter: int = 12,
) -> Tensor:  # fmt: skip
    """Draw from N(x; mean, deviation^2) N(y; A x, s^2), up to scale; complex `(sample, [set,] row, col)` as `mean`.

    x ~ N(m, s^2 (A^H A + g)^-1), m = (A^H A + g)^-1 (A^H y + g mean), g = (s / deviation)^2: one solve, whose right
    side is perturbed (perturb and solve). `spread` is a factor on the noise of the draw, 0 returns m. `x0` and
    `max_iter` are the start and the most steps of the conjugate gradients.
    """
    weight = (s / deviation) ** 2
    right = measurement.data + weight * mean
    if spread:
        right = right + spread * _perturbation(measurement.A, measurement.sampled, rng, s, weight * deviation)
    return measurement.A.solve_normal(right, weight, x0=x0, max_iter=max_iter, tol=1e-4)


def _perturbation(operator: LinearOperator, sampled: Tensor, rng: ChainNoise, s: float, prior_weight: float) -> Tensor:
    """Noise of covariance s^2 (A^H A + g), whose solve has covariance s^2 (A^H A + g)^-1."""
    coil, rows, cols = operator.oshape
    drawn = rng(coil, len(sampled))
    drawn = drawn if len(rng.shape) == 1 else drawn[:, 0]  # one draw of k-space noise serves both map sets
    noise = drawn.new_zeros(*drawn.shape[:-1], rows * cols).index_copy_(-1, sampled, drawn)
    return s * operator.adjoint(noise.reshape(*noise.shape[:-1], rows, cols)) + prior_weight * rng(rows, cols)
