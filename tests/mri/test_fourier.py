"""Centred orthonormal transforms against their definition, and filters in k-space."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from kdrift.mri.fourier import fft2c, filter2c, ifft2c
from kdrift.testing import complex_normal

sizes = st.integers(1, 9)
quick = settings(max_examples=25, deadline=None, derandomize=True)


def dft(n: int) -> torch.Tensor:
    """The centred orthonormal transform by its definition: index n // 2 is zero frequency and the origin."""
    index = torch.arange(n, dtype=torch.float64) - n // 2
    return torch.exp(-2j * math.pi * index[:, None] * index[None, :] / n) / math.sqrt(n)


@quick
@given(rows=sizes, cols=sizes, batch=st.lists(st.integers(1, 3), max_size=2))
def test_is_the_centred_transform_by_definition(rows: int, cols: int, batch: list[int]) -> None:
    x = complex_normal((*batch, rows, cols))
    torch.testing.assert_close(fft2c(x), dft(rows) @ x @ dft(cols).T)
    torch.testing.assert_close(ifft2c(fft2c(x)), x)
    torch.testing.assert_close(fft2c(x).norm(), x.norm())


@pytest.mark.parametrize("dim", [(-1,), (-2,), (0,), (0, 2)])
def test_transforms_the_axes_it_is_given(dim: tuple[int, ...]) -> None:
    x = complex_normal((4, 5, 6))
    expected = x
    for axis in dim:
        expected = torch.movedim(torch.movedim(expected, axis, -1) @ dft(x.shape[axis]).T, -1, axis)
    torch.testing.assert_close(fft2c(x, dim), expected)
    torch.testing.assert_close(ifft2c(fft2c(x, dim), dim), x)


def test_keeps_the_precision_and_takes_real_images() -> None:
    assert fft2c(torch.ones(3, 4)).dtype == torch.complex64
    assert ifft2c(complex_normal((3, 4))).dtype == torch.complex128


@quick
@given(rows=sizes, cols=sizes, dim=st.sampled_from([(), (-1,), (-2,), (-2, -1)]), seed=st.integers(0, 9))
def test_filter_multiplies_in_centred_kspace(rows: int, cols: int, dim: tuple[int, ...], seed: int) -> None:
    shape = (rows if -2 in dim else 1, cols if -1 in dim else 1)
    weights = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = complex_normal((2, rows, cols), seed=seed)
    torch.testing.assert_close(filter2c(x, weights, dim), ifft2c(weights * fft2c(x)))
    torch.testing.assert_close(filter2c(x, weights * (1 + 2j), dim), (1 + 2j) * filter2c(x, weights, dim))


def test_filter_is_differentiable_in_image_and_weights() -> None:
    x = complex_normal((2, 3, 4)).requires_grad_()
    weights = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(filter2c, (x, weights))
    assert torch.autograd.gradcheck(lambda x: filter2c(x, weights.detach()), (x,))
