"""What tests of kdrift, and of operators built on it, share."""

from __future__ import annotations

import pickle

import torch
from torch import Tensor

from kdrift.mri.linop import LinearOperator, Shape
from kdrift.runs.seeds import torch_generator


def complex_normal(
    shape: Shape,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.complex128,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Complex noise, N(0, 1) in each real component, the same on every device."""
    real = torch.float64 if dtype == torch.complex128 else torch.float32
    generator = torch_generator("test", seed)
    return torch.view_as_complex(torch.randn(*shape, 2, generator=generator, dtype=real)).to(device)


def check_operator(
    operator: LinearOperator,
    *,
    batch: Shape = (2,),
    dtype: torch.dtype = torch.complex128,
    device: torch.device | str = "cpu",
    tol: float = 1e-10,
    seed: int = 0,
) -> None:
    """Assert what every operator owes: with ``x`` and ``y`` random and ``u . v = sum conj(u) v``,

    its shapes; ``y . A x = A^H y . x``; ``normal`` is ``A^H A`` and, as ``forward``, differentiable with the
    adjoint as its gradient; one element alone gives what it gives in the batch; a pickled copy is the same.

    ``tol`` is relative to the norms of the vectors. Raises AssertionError with the figure that is off.
    """
    x = complex_normal((*batch, *operator.ishape), seed=seed, dtype=dtype, device=device)
    y = complex_normal((*batch, *operator.oshape), seed=seed + 1, dtype=dtype, device=device)
    forward, adjoint = operator.forward(x), operator.adjoint(y)
    assert forward.shape == y.shape, f"forward returns {tuple(forward.shape)}, expected {tuple(y.shape)}"
    assert adjoint.shape == x.shape, f"adjoint returns {tuple(adjoint.shape)}, expected {tuple(x.shape)}"
    assert forward.dtype == adjoint.dtype == dtype, f"{dtype} became {forward.dtype}, {adjoint.dtype}"

    left, right = _dot(y, forward), _dot(adjoint, x)
    error = abs(left - right) / max(float(forward.norm() * y.norm()), 1e-300)
    assert error <= tol, f"y . A x = {left}, A^H y . x = {right}"
    _close(operator.H.forward(y), adjoint, tol, "H.forward and adjoint")

    normal = operator.normal(x)
    _close(normal, operator.adjoint(forward), tol, "normal and adjoint(forward)")
    _close(_gradient(operator.forward, x, y), adjoint, tol, "gradient of forward and adjoint")
    _close(_gradient(operator.adjoint, y, x), operator.forward(x), tol, "gradient of adjoint and forward")
    _close(_gradient(operator.normal, x, normal), operator.normal(normal), tol, "gradient of normal and normal")
    if batch:
        first = (0,) * len(batch)
        _close(operator.forward(x[first]), forward[first], tol, "forward of one element and of the batch")
        _close(operator.normal(x[first]), normal[first], tol, "normal of one element and of the batch")
    copy = pickle.loads(pickle.dumps(operator))
    assert torch.equal(copy.normal(x), normal), "a pickled copy computes something else"


def dense_matrix(
    operator: LinearOperator, *, dtype: torch.dtype = torch.complex128, device: torch.device | str = "cpu"
) -> Tensor:
    """``A`` as a matrix (outputs, inputs), flattened in C order; for small shapes."""
    num_inputs = torch.Size(operator.ishape).numel()
    basis = torch.eye(num_inputs, dtype=dtype, device=device).reshape(num_inputs, *operator.ishape)
    return operator.forward(basis).reshape(num_inputs, -1).T


def _gradient(function: object, at: Tensor, cotangent: Tensor) -> Tensor:
    assert callable(function)
    at = at.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(at), at, cotangent)
    return gradient


def _dot(a: Tensor, b: Tensor) -> complex:
    return complex(torch.vdot(a.flatten(), b.flatten()))


def _close(a: Tensor, b: Tensor, tol: float, what: str) -> None:
    error = float((a - b).norm()) / max(float(b.norm()), 1e-300)
    assert error <= tol or float((a - b).norm()) <= 1e-14, f"{what} differ by {error:.1e}"
