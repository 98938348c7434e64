"""Noise made of counters: the published generator, normal numbers, and no dependence on device or split."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from kdrift.runs.counter_noise import complex_normal, key_words, philox

VECTORS = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)
"""Known answers of Philox4x32-10 as its authors publish them (Random123, kat_vectors)."""


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_philox_gives_the_published_words(
    counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    words = philox([torch.tensor([word]) for word in counter], [torch.tensor([word]) for word in key])
    assert tuple(int(word) for word in words) == expected


def test_the_noise_is_normal_and_its_parts_are_independent() -> None:
    noise = complex_normal(key_words([3, 2**63 + 1]), 5, 400_001)
    values = torch.view_as_real(noise)
    for series in (*values[0].T, *values[1].T):
        assert stats.kstest(series.numpy(), "norm").pvalue > 1e-3
    correlation = torch.corrcoef(torch.stack([*values[0].T, *values[1].T, values[0, :, 0].roll(1)]))
    assert (correlation - torch.eye(5)).abs().max() < 4 / math.sqrt(values.shape[1])
    assert noise.abs().square().mean() == pytest.approx(2, abs=0.01)
    assert values.abs().max() > 4.5


def test_it_depends_on_key_draw_and_position_alone() -> None:
    keys = key_words([1, 2, 3])
    noise = complex_normal(keys, 7, 200_000)
    assert torch.equal(complex_normal(keys[:, 1:2], 7, 200_000)[0], noise[1])
    assert torch.equal(complex_normal(keys, 7, 333), noise[:, :333])
    assert not torch.equal(complex_normal(keys, 8, 333), noise[:, :333])
    assert len(set(noise[0].tolist())) > 199_000
    assert complex_normal(keys, 2**32 + 7, 3).tolist() != noise[:, :3].tolist()
    assert complex_normal(keys, 0, 0).shape == (3, 0)


def test_no_library_function_rounds_it() -> None:
    """The same numbers from float64's functions, to float32's rounding: what is a series here is those functions."""
    words = philox([torch.arange(5000), *(torch.zeros(5000, dtype=torch.int64),) * 3], [torch.tensor(1)] * 2)
    radius, angle = words[0].double(), words[1]
    r = (-2 * ((radius + 0.5) / 2**32).log()).sqrt()
    turn = ((angle >> 30).double() + (angle & 2**30 - 1).double() / 2**30 - 0.5) * math.pi / 2
    noise = complex_normal(key_words([1 + 2**32]), 0, 10_000)[0, ::2]
    torch.testing.assert_close(noise.to(torch.complex128), torch.polar(r, turn), atol=1e-5, rtol=1e-5)


def test_every_operation_is_rounded_as_ieee_754_has_it() -> None:
    """NumPy's are: torch's square root of float32 is not on all CPUs, and devices would differ."""
    words = [torch.arange(100_000), *(torch.zeros(100_000, dtype=torch.int64),) * 3]
    radius, angle = (word.numpy() for word in philox(words, [torch.tensor(1), torch.tensor(0)])[:2])
    number = np.float32
    x = (radius.astype(number) + number(0.5)) * number(2**-32)
    exponent = (x.view(np.int32) - 0x3F3504F3) >> 23
    m = (x.view(np.int32) - (exponent << 23)).view(number)
    s = (m - number(1)) / (m + number(1))
    series = _horner(s * s, (2, 2 / 3, 2 / 5, 2 / 7, 2 / 9)) * s
    r = np.sqrt((exponent.astype(number) * number(math.log(2)) + series) * number(-2))
    a = ((angle & 2**30 - 1).astype(number) - number(2**29)) * number(math.pi / 2 * 2**-30)
    sine = _horner(a * a, (1, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880)) * a * r
    cosine = _horner(a * a, (1, -1 / 2, 1 / 24, -1 / 720, 1 / 40320, -1 / 3628800)) * r
    quarter = angle >> 30
    expected = np.choose(quarter, [cosine, -sine, -cosine, sine]) + 1j * np.choose(
        quarter, [sine, cosine, -sine, -cosine]
    )
    assert np.array_equal(complex_normal(key_words([1]), 0, 200_000)[0, ::2].numpy(), expected.astype(np.complex64))


def _horner(x: np.ndarray, coefficients: tuple[float, ...]) -> np.ndarray:
    value = x * np.float32(coefficients[-1])
    for coefficient in coefficients[-2:0:-1]:
        value = (value + np.float32(coefficient)) * x
    return value + np.float32(coefficients[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same_bits() -> None:
    keys = key_words([1, 2, 3])
    assert torch.equal(complex_normal(keys.cuda(), 7, 300_001).cpu(), complex_normal(keys, 7, 300_001))
