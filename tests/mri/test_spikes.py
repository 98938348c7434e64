"""Spikes are lone positions of k-space; objects have none, however even they are and however few lines are sampled."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdrift.data.phantom import phantom_volume
from kdrift.mri.spikes import spikes, without_spikes


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


def test_spikes_are_left_out_of_data_and_mask_and_named() -> None:
    kspace = torch.from_numpy(np.asarray(phantom_volume(1, 64, 64, 4, seed=2).kspace))[0]
    mask = torch.ones(64, 64, dtype=torch.bool)
    kept, same, said = without_spikes(kspace, mask)
    assert said == []
    assert torch.equal(kept, kspace)
    assert torch.equal(same, mask)
    spoiled = kspace.clone()
    spoiled[2, 9, 50] = 3 * kspace.abs().max()  # of one coil
    kept, left, said = without_spikes(spoiled, mask)
    assert (~left).nonzero().tolist() == [[9, 50]]
    assert not kept[:, 9, 50].any()
    assert said == ["spikes (row, column) (9, 50) of k-space lie far above all around and are left out"]


def test_one_point_that_was_measured_alone_is_no_spike() -> None:
    kspace = torch.zeros(1, 32, 32, dtype=torch.complex64)
    kspace[0, 5, 7] = 1
    kept, _, said = without_spikes(kspace, kspace[0] != 0)
    assert said == []
    assert torch.equal(kept, kspace)
