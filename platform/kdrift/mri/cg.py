"""Conjugate gradients for a batch of independent normal equations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kdrift.runs.hardware import asks_freely


def conjugate_gradients(
    normal: Callable[[Tensor], Tensor],
    b: Tensor,
    lam: Tensor,
    *,
    num_axes: int,
    x0: Tensor | None = None,
    max_iter: int = 50,
    tol: float = 1e-5,
) -> Tensor:
    """Solve `(normal + lam) x = b` (Hestenes and Stiefel 1952), every batch element with its own steps.

    An element that has converged keeps its iterate, so the answer does not depend on what else is in the
    batch. Where asking costs nothing (on a CPU) the loop ends once all have; an accelerator, which would have to wait
    for the answer, does all `max_iter` steps. Differentiable in `b`, `lam` and `x0`.

    Parameters
    ----------
    normal
        A Hermitian positive semi-definite map, such as `LinearOperator.normal`.
    b
        Right-hand sides; the last `num_axes` axes are one problem, the others are batch.
    lam
        Non-negative, real, broadcastable to `b`.
    x0
        First iterate of the shape of `b`; zero if absent.
    max_iter, tol
        An element stops after `max_iter` steps, or once `|b - (normal + lam) x| <= tol |b|`.
    """
    if x0 is None:
        x, residual = torch.zeros_like(b), b
    else:
        if x0.shape != b.shape:
            raise ValueError(f"x0 has shape {tuple(x0.shape)}, expected that of b, {tuple(b.shape)}")
        x, residual = x0, b - normal(x0) - lam * x0
    direction = residual
    energy = _inner(residual, residual, num_axes)
    threshold = tol**2 * _inner(b, b, num_axes).detach()
    for _ in range(max_iter):
        active = energy.detach() > threshold
        if asks_freely(b.device) and not bool(active.any()):
            break
        image = normal(direction) + lam * direction
        curvature = _inner(direction, image, num_axes)
        active = active & (curvature.detach() > 0)  # a direction that neither lam nor the data see
        step = torch.where(active, energy, 0) / torch.where(active, curvature, 1)
        x = x + step * direction
        residual = residual - step * image
        previous, energy = energy, _inner(residual, residual, num_axes)
        ratio = torch.where(active, energy, 0) / torch.where(active, previous, 1)
        direction = residual + ratio * direction
    return x


def _inner(a: Tensor, b: Tensor, num_axes: int) -> Tensor:
    """`Re <a, b>` over the last axes, kept as size 1.

    Row by row, and then over the rows: one sum over all of an element would be split between threads where it is alone
    in its batch, and would round differently there.
    """
    products = a.real * b.real + a.imag * b.imag if a.is_complex() else a * b
    rows = products.sum(-1, keepdim=True)
    return rows.sum(tuple(range(-num_axes, -1)), keepdim=True) if num_axes > 1 else rows
