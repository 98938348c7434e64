"""Spikes are lone positions of k-space; objects have none, however even they are and however few lines are sampled."""

from __future__ import annotations

import numpy as np
import pytest

from kdrift.mri.spikes import spikes


def power(image: np.ndarray) -> np.ndarray:
    return np.abs(np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image), norm="ortho"))) ** 2


def objects() -> dict[str, np.ndarray]:
    y, x = np.mgrid[-1 : 1 : 96 * 1j, -1 : 1 : 80 * 1j]
    noise = np.random.default_rng(0).normal(size=(96, 80)) * 1e-2
    return {
        "fills the field": np.ones((96, 80)) + noise,
        "fills it along rows": (np.abs(x) < 0.6) + noise,
        "fills it along columns": (np.abs(y) < 0.6) + noise,
        "rectangle": (np.abs(y) < 0.5) * (np.abs(x) < 0.5) + 0 * noise,
        "disc": (x**2 + y**2 < 0.5) + noise,
        "point": ((np.abs(x) < 0.02) & (np.abs(y) < 0.02)) + 0 * noise,
        "noise": noise,
    }


@pytest.mark.parametrize("name", sorted(objects()))
@pytest.mark.parametrize("every", [1, 2, 3, 4, 6, 10])
def test_objects_have_none(name: str, every: int) -> None:
    found = power(objects()[name])
    mask = (np.arange(80) % every == 0) | (np.abs(np.arange(80) - 40) < 5)
    assert not spikes(found * mask).any()


@pytest.mark.parametrize("every", [1, 2, 4])
def test_a_spike_is_found_also_over_two_samples(every: int) -> None:
    found = power(objects()["disc"]) * (np.arange(80) % every == 0)
    found[20:22, 60] = found.max()
    np.testing.assert_array_equal(np.argwhere(spikes(found)), [[20, 60], [21, 60]])


def test_small_kspace_is_not_judged() -> None:
    found = np.ones((8, 80))
    found[2, 10] = 1e6
    assert not spikes(found).any()
