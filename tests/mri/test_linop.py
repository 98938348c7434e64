"""What every operator owes, composition, and the solver behind solve_normal."""

from __future__ import annotations

import pickle

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from kdrift.mri.cg import conjugate_gradients
from kdrift.mri.linop import Adjoint, Composition, Fourier, Identity, LinearOperator, Sampling, Sensitivities
from kdrift.testing import check_operator, complex_normal, dense_matrix

quick = settings(max_examples=20, deadline=None, derandomize=True)


def primitives(coils: int, rows: int, cols: int) -> list[LinearOperator]:
    shape = (coils, rows, cols)
    generator = torch.Generator().manual_seed(coils * 100 + rows * 10 + cols)
    mask = torch.rand(rows, cols, generator=generator) < 0.5
    return [
        Identity(shape),
        Fourier(shape),
        Sampling(shape, mask),
        Sampling(shape, mask[0]),
        Sensitivities(complex_normal(shape)),
        Sensitivities(complex_normal((2, *shape))),
    ]


@quick
@given(
    coils=st.integers(1, 32),
    rows=st.integers(1, 7),
    cols=st.integers(1, 7),
    batch=st.lists(st.integers(1, 3), max_size=2),
)
def test_primitives_their_adjoints_and_compositions(coils: int, rows: int, cols: int, batch: list[int]) -> None:
    identity, fourier, sampling, lines, maps, two_sets = primitives(coils, rows, cols)
    for operator in (
        identity,
        fourier,
        sampling,
        lines,
        maps,
        two_sets,
        maps.H,
        sampling @ fourier @ two_sets,
    ):
        check_operator(operator, batch=tuple(batch))


def test_composition_is_the_matrix_product_and_flat() -> None:
    _, fourier, sampling, _, maps, _ = primitives(3, 4, 5)
    both = sampling @ (fourier @ maps)
    assert isinstance(both, Composition)
    assert len(both.factors) == 3
    expected = dense_matrix(sampling) @ dense_matrix(fourier) @ dense_matrix(maps)
    torch.testing.assert_close(dense_matrix(both), expected)
    torch.testing.assert_close(dense_matrix(both.H), expected.mH)
    assert (both.ishape, both.oshape) == ((4, 5), (3, 4, 5))


def test_adjoint_of_the_adjoint_is_the_operator() -> None:
    fourier = Fourier((2, 3))
    assert isinstance(fourier.H, Adjoint)
    assert fourier.H.H is fourier


def test_wrong_shapes_are_named() -> None:
    maps = Sensitivities(complex_normal((8, 4, 5)))
    with pytest.raises(ValueError, match=r"Fourier @ Sensitivities: Fourier takes \(..., 12, 4, 5\)"):
        Fourier((12, 4, 5)) @ maps
    with pytest.raises(ValueError, match=r"Sensitivities: forward takes \(..., 4, 5\), got \(5, 4\)"):
        maps.forward(complex_normal((5, 4)))
    with pytest.raises(ValueError, match=r"adjoint takes \(..., 8, 4, 5\), got \(4, 5\)"):
        maps.adjoint(complex_normal((4, 5)))
    with pytest.raises(ValueError, match=r"mask must be boolean, got torch.float32"):
        Sampling((4, 5), torch.ones(5))
    with pytest.raises(ValueError, match=r"mask has shape \(4,\), expected \(4, 5\) or \(5,\)"):
        Sampling((4, 5), torch.ones(4) > 0)
    with pytest.raises(ValueError, match=r"smaps must be .* got shape \(4, 5\)"):
        Sensitivities(complex_normal((4, 5)))
    with pytest.raises(ValueError, match=r"smaps must be complex, got torch.float32"):
        Sensitivities(torch.ones(2, 4, 5))


def test_wrong_lam_and_first_iterate_are_named() -> None:
    operator, b = Fourier((4, 5)), complex_normal((3, 4, 5))
    with pytest.raises(ValueError, match="lam must not be negative, got -1"):
        operator.solve_normal(b, -1.0)
    with pytest.raises(ValueError, match=r"lam must be real, got torch.complex64"):
        operator.solve_normal(b, torch.ones(3) + 0j)
    with pytest.raises(ValueError, match=r"lam has shape \(2,\), which does not broadcast to the batch \(3,\)"):
        operator.solve_normal(b, torch.ones(2))
    with pytest.raises(ValueError, match=r"x0 has shape \(4, 5\), expected that of b, \(3, 4, 5\)"):
        operator.solve_normal(b, 1.0, x0=b[0])


def test_operators_are_immutable() -> None:
    with pytest.raises(AttributeError):
        Fourier((4, 5)).shape = (5, 4)  # type: ignore[misc]


def test_sampling_keeps_the_mask_small_and_drops_nan() -> None:
    lines = torch.tensor([True, False, True]).expand(400, 3)
    sampling = Sampling((400, 3), lines)
    assert sampling.mask.shape == (1, 3)
    assert sampling.axes == (-1,)
    assert len(pickle.dumps(sampling)) < 2000
    assert Sampling((400, 3), torch.ones(3) > 0).full
    x = torch.full((400, 3), torch.nan, dtype=torch.complex64)
    x[lines] = 1
    assert torch.equal(sampling.forward(x), lines.to(torch.complex64))


@quick
@given(coils=st.integers(1, 4), rows=st.integers(2, 6), cols=st.integers(2, 6), sets=st.sampled_from([1, 2]))
def test_solve_normal_meets_the_dense_solution(coils: int, rows: int, cols: int, sets: int) -> None:
    _, fourier, sampling, _, maps, two_sets = primitives(coils, rows, cols)
    operator = sampling @ fourier @ (maps if sets == 1 else two_sets)
    matrix = dense_matrix(operator)
    b = complex_normal((3, *operator.ishape))
    lam = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    found = operator.solve_normal(b, lam, max_iter=500, tol=1e-11)
    for element, one in enumerate(lam):
        system = matrix.mH @ matrix + one * torch.eye(matrix.shape[1])
        expected = torch.linalg.solve(system, b[element].flatten()).reshape(operator.ishape)
        torch.testing.assert_close(found[element], expected, rtol=1e-7, atol=1e-8)


def test_every_batch_element_takes_its_own_steps() -> None:
    """An easy, a zero and a hard problem together give, bit for bit, what each gives alone."""
    operator = Sensitivities(complex_normal((2, 8, 8), dtype=torch.complex64))
    b = complex_normal((4, 8, 8), seed=3, dtype=torch.complex64)
    b[1], b[2] = 0, 1e-6 * b[2]
    lam = torch.tensor([100.0, 1.0, 1e-3, 1e-4])
    together = operator.solve_normal(b, lam)
    for element in range(4):
        assert torch.equal(together[element], operator.solve_normal(b[element], lam[element]))
    assert torch.equal(together[1], torch.zeros(8, 8) + 0j)


def test_solver_starts_where_it_is_told_and_stops_there_when_done() -> None:
    operator = Sensitivities(complex_normal((2, 4, 4)))
    b = complex_normal((4, 4))
    solution = operator.solve_normal(b, 0.1, max_iter=300, tol=1e-12)
    assert torch.equal(operator.solve_normal(b, 0.1, x0=solution, tol=1e-9), solution)
    cold = operator.solve_normal(b, 0.1, max_iter=2, tol=0)
    warm = operator.solve_normal(b, 0.1, x0=solution + 1e-3 * b, max_iter=2, tol=0)
    assert (warm - solution).norm() < 0.1 * (cold - solution).norm()


def test_a_singular_direction_is_left_alone() -> None:
    """With lam = 0 the solution is the least-norm one, and what no data see stays zero."""
    sampling = Sampling((2, 2), torch.tensor([True, False]))
    b = torch.tensor([[2.0, 0], [4.0, 0]], dtype=torch.complex128)
    torch.testing.assert_close(sampling.solve_normal(b, 0.0), b)
    unseen = torch.tensor([[0, 1.0], [0, 0]], dtype=torch.complex128)
    assert torch.isfinite(torch.view_as_real(sampling.solve_normal(unseen, 0.0))).all()


def test_solver_is_differentiable_in_b_and_lam() -> None:
    operator = Sensitivities(complex_normal((2, 2, 2)))
    b = complex_normal((2, 2, 2), seed=1).requires_grad_()
    lam = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b, lam: operator.solve_normal(b, lam, tol=1e-13), (b, lam))


def test_solver_takes_real_problems() -> None:
    matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    b = torch.tensor([1.0, 2.0])
    found = conjugate_gradients(lambda x: matrix @ x, b, torch.tensor(0.0), num_axes=1)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, b))
