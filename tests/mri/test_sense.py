"""The measurement operators: their fused normal operator, closed forms, norms and batches."""

from __future__ import annotations

import pickle

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from kdrift.mri import sense
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.mri.linop import LinearOperator
from kdrift.mri.sense import coil_operator, sense_operator
from kdrift.testing import check_operator, complex_normal, dense_matrix

quick = settings(max_examples=30, deadline=None, derandomize=True)
MASKS = ("lines", "rows", "points", "full", "nothing")


def make_mask(kind: str, rows: int, cols: int, seed: int = 0) -> Tensor:
    uniform = torch.rand(rows, cols, generator=torch.Generator().manual_seed(seed))
    return {
        "lines": uniform[0] < 0.5,
        "rows": (uniform[:, :1] < 0.5).expand(rows, cols),
        "points": uniform < 0.5,
        "full": torch.ones(cols, dtype=torch.bool),
        "nothing": torch.zeros(rows, cols, dtype=torch.bool),
    }[kind]


def make_maps(coils: int, rows: int, cols: int, sets: int = 1, dtype: torch.dtype = torch.complex128) -> Tensor:
    """Orthonormal maps: S^H S = 1 (one set), or the identity between two sets where the coils allow it."""
    maps = complex_normal((rows, cols, coils, sets), seed=coils, dtype=dtype)
    maps = torch.linalg.qr(maps).Q if coils >= sets else maps / maps.norm(dim=-1, keepdim=True)
    maps = maps.movedim((-1, -2), (0, 1)).contiguous()
    return maps if sets == 2 else maps[0]


@quick
@given(
    coils=st.integers(1, 32),
    rows=st.integers(1, 9),
    cols=st.integers(1, 9),
    sets=st.sampled_from([1, 2]),
    kind=st.sampled_from(MASKS),
    batch=st.lists(st.integers(1, 3), max_size=2),
)
def test_sense_operator_is_an_operator(
    coils: int, rows: int, cols: int, sets: int, kind: str, batch: list[int]
) -> None:
    check_operator(sense_operator(make_maps(coils, rows, cols, sets), make_mask(kind, rows, cols)), batch=tuple(batch))


@quick
@given(
    coils=st.integers(1, 32),
    rows=st.integers(1, 9),
    cols=st.integers(1, 9),
    kind=st.sampled_from(MASKS),
    batch=st.lists(st.integers(1, 3), max_size=2),
)
def test_coil_operator_is_an_operator(coils: int, rows: int, cols: int, kind: str, batch: list[int]) -> None:
    mask = make_mask(kind, rows, cols)
    check_operator(coil_operator(mask, (coils, rows, cols)), batch=tuple(batch))
    check_operator(coil_operator(mask, (rows, cols)), batch=(coils, *batch))


def test_sense_operator_is_mask_times_fourier_times_maps() -> None:
    maps, mask = make_maps(3, 5, 4, sets=2), make_mask("points", 5, 4)
    x = complex_normal((2, 2, 5, 4))
    expected = mask * fft2c(torch.einsum("scyx,bsyx->bcyx", maps, x))
    torch.testing.assert_close(sense_operator(maps, mask).forward(x), expected)
    torch.testing.assert_close(
        sense_operator(maps, mask).adjoint(expected),
        torch.einsum("scyx,bcyx->bsyx", maps.conj(), ifft2c(expected)),
    )


@pytest.mark.parametrize("sets", [1, 2])
@pytest.mark.parametrize("kind", MASKS)
def test_norm_is_at_most_one(kind: str, sets: int) -> None:
    operator = sense_operator(make_maps(4, 5, 6, sets), make_mask(kind, 5, 6))
    assert torch.linalg.matrix_norm(dense_matrix(operator), 2) <= 1 + 1e-12


@pytest.mark.parametrize("sets", [1, 2])
@pytest.mark.parametrize("kind", ["lines", "points"])
def test_normal_at_a_real_size_in_pieces(kind: str, sets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many coil images are taken at a time, complex64 meets complex128 at its precision."""
    maps, mask = make_maps(7, 160, 121, sets), make_mask(kind, 160, 121)
    x = complex_normal((3, *((2,) if sets == 2 else ()), 160, 121))
    precise = sense_operator(maps, mask)
    expected = precise.adjoint(precise.forward(x))
    operator = sense_operator(maps.to(torch.complex64), mask)
    for pieces in ((1, 1), (2, 1), (5, 1), (7, 1), (3, 2), (7, 4)):  # coils, chains
        monkeypatch.setattr(sense, "_steps", lambda shape, device, pieces=pieces: pieces)
        torch.testing.assert_close(precise.normal(x), expected, rtol=0, atol=1e-13)
        found = operator.normal(x.to(torch.complex64))
        assert found.dtype == torch.complex64
        assert (found - expected).norm() < 1e-6 * expected.norm()


def test_pieces_fit_their_limit() -> None:
    assert sense._steps(torch.Size((1, 15, 320, 320)), "cpu") == (4, 1)
    assert sense._steps(torch.Size((1, 15, 2000, 2000)), "cpu") == (1, 1)
    coils, chains = sense._steps(torch.Size((1, 15, 320, 320)), "cuda")
    assert coils == 15
    assert 1 <= chains * coils * 320 * 320 <= 2**26


def test_a_batch_gives_bit_for_bit_what_its_elements_give() -> None:
    maps = make_maps(5, 33, 40, dtype=torch.complex64)
    x = complex_normal((4, 33, 40), dtype=torch.complex64)
    for kind in ("lines", "points"):
        operator = sense_operator(maps, make_mask(kind, 33, 40))
        together = operator.normal(x)
        solved = operator.solve_normal(x, 0.01)
        for element in range(len(x)):
            assert torch.equal(together[element], operator.normal(x[element]))
            assert torch.equal(solved[element], operator.solve_normal(x[element], 0.01))


def solve_dense(operator: LinearOperator, b: Tensor, lam: Tensor) -> Tensor:
    matrix = dense_matrix(operator)
    system = matrix.mH @ matrix + lam[:, None, None] * torch.eye(matrix.shape[1])
    return torch.linalg.solve(system, b.flatten(1)).reshape(b.shape)


@quick
@given(
    coils=st.integers(1, 4),
    rows=st.integers(1, 6),
    cols=st.integers(1, 6),
    sets=st.sampled_from([1, 2]),
    kind=st.sampled_from(MASKS),
)
def test_solve_normal_meets_the_dense_solution(coils: int, rows: int, cols: int, sets: int, kind: str) -> None:
    """Conjugate gradients, and the closed forms for one unit coil, full sampling and coil images."""
    mask = make_mask(kind, rows, cols)
    lam = torch.tensor([0.1, 2.0], dtype=torch.float64)
    for operator in (
        sense_operator(make_maps(coils, rows, cols, sets), mask),
        coil_operator(mask, (coils, rows, cols)),
    ):
        b = complex_normal((2, *operator.ishape))
        found = operator.solve_normal(b, lam, max_iter=300, tol=1e-12)
        torch.testing.assert_close(found, solve_dense(operator, b, lam), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", MASKS)
def test_closed_forms_do_not_iterate(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdrift.mri.linop.conjugate_gradients", None)
    mask, b = make_mask(kind, 5, 6), complex_normal((2, 5, 6))
    operators = [coil_operator(mask, (5, 6)), sense_operator(make_maps(1, 5, 6), mask)]
    if kind == "full":
        operators.append(sense_operator(make_maps(3, 5, 6), mask))
    for operator in operators:
        for lam in (0.3, torch.tensor(0.3), torch.tensor([0.3, 1.0], dtype=torch.float64)):
            x = operator.solve_normal(b, lam)
            shaped = lam[:, None, None] if isinstance(lam, Tensor) and lam.ndim else lam
            torch.testing.assert_close(operator.normal(x) + shaped * x, b)
        projection = operator.solve_normal(operator.normal(b), 0.0)
        torch.testing.assert_close(projection, operator.normal(b))  # the pseudo-inverse where lam is 0


def test_closed_form_is_differentiable_in_lam() -> None:
    operator = coil_operator(make_mask("points", 3, 4), (3, 4))
    b = complex_normal((2, 3, 4)).requires_grad_()
    lam = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(operator.solve_normal, (b, lam))


def test_normal_has_second_gradients_and_takes_learned_maps() -> None:
    maps, mask = make_maps(2, 3, 4), make_mask("lines", 3, 4)
    x = complex_normal((3, 4)).requires_grad_()
    normal = sense_operator(maps, mask).normal
    assert torch.autograd.gradcheck(normal, (x,))
    assert torch.autograd.gradgradcheck(normal, (x,))
    learned = maps.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s, x: sense_operator(s, mask).normal(x), (learned, x))


def test_real_images_give_complex_results_and_real_gradients() -> None:
    operator = sense_operator(make_maps(3, 5, 6, dtype=torch.complex64), make_mask("lines", 5, 6))
    x = torch.rand(2, 5, 6, requires_grad=True)
    result = operator.normal(x)
    torch.testing.assert_close(result, operator.normal(x.detach() + 0j))
    (gradient,) = torch.autograd.grad(result.abs().square().sum(), x)
    assert gradient.dtype == torch.float32


def test_a_whole_mask_pickles_with_its_maps_and_little_else() -> None:
    maps = make_maps(8, 32, 32, dtype=torch.complex64)
    assert len(pickle.dumps(sense_operator(maps, make_mask("points", 32, 32)))) < maps.nbytes + 8000


def test_wrong_shapes_are_named() -> None:
    maps = make_maps(8, 4, 5)
    with pytest.raises(ValueError, match=r"mask has shape \(4,\), expected \(4, 5\) or \(5,\)"):
        sense_operator(maps, torch.ones(4) > 0)
    operator = sense_operator(maps, torch.ones(5) > 0)
    for method in (operator.normal, lambda x: operator.solve_normal(x, 1.0), operator.forward):
        with pytest.raises(ValueError, match=r"takes \(..., 4, 5\), got \(4, 4\)"):
            method(complex_normal((4, 4)))
    with pytest.raises(ValueError, match=r"takes \(..., 8, 4, 5\), got \(12, 4, 5\)"):
        operator.adjoint(complex_normal((12, 4, 5)))
