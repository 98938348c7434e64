"""Coil maps fitted to all of k-space, given the image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdrift.data.phantom import phantom_volume
from kdrift.mri.birdcage import birdcage_maps
from kdrift.mri.coils import espirit_maps, rss
from kdrift.mri.fourier import fft2c
from kdrift.mri.map_fit import fit_maps
from kdrift.mri.masks import make_mask

SIZE = 48


@pytest.fixture(scope="module")
def image() -> Tensor:
    volume = phantom_volume(1, SIZE, SIZE, 1, seed=3)
    found = torch.as_tensor(volume.reference[0])
    return (found / found.quantile(0.99)).to(torch.complex64)


@pytest.fixture(scope="module")
def maps() -> Tensor:
    return torch.from_numpy(birdcage_maps(4, SIZE, SIZE))


@pytest.fixture(scope="module")
def mask() -> Tensor:
    return torch.as_tensor(make_mask("equispaced", (SIZE, SIZE), acceleration=4, acs_lines=6).mask)


def error(found: Tensor, maps: Tensor, image: Tensor) -> float:
    """Share of the coil images' energy that the maps cannot explain."""
    coil_images = maps * image
    left = coil_images - found * (found.conj() * coil_images).sum(-3, keepdim=True)
    return float(left.abs().square().sum() / coil_images.abs().square().sum())


def test_the_true_image_halves_the_error_of_espirit_from_few_lines(image: Tensor, maps: Tensor, mask: Tensor) -> None:
    kspace = torch.where(mask, fft2c(maps * image), 0)
    found = first = espirit_maps(kspace, crop=0.0)
    # ESPIRiT's maps have a phase of their own, which the image that goes with them has the opposite of
    own = (first.conj() * maps * image).sum(0)
    for _ in range(5):
        found = fit_maps(found, own, kspace, mask)
    assert error(found, maps, image) < 0.6 * error(first, maps, image)
    torch.testing.assert_close(rss(found), torch.ones(SIZE, SIZE))


def test_maps_that_are_right_stay(image: Tensor, maps: Tensor, mask: Tensor) -> None:
    kspace = torch.where(mask, fft2c(maps * image), 0)
    torch.testing.assert_close(fit_maps(maps, image, kspace, mask), maps, atol=1e-5, rtol=0)


def test_the_support_stays_and_a_coil_is_fitted_by_itself(image: Tensor, maps: Tensor, mask: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    kspace = torch.where(mask, fft2c(maps * image), 0)
    kspace = kspace + mask * 0.1 * torch.randn(kspace.shape, generator=generator, dtype=torch.complex64)
    inside = torch.arange(SIZE)[:, None] < SIZE // 2
    found = fit_maps(maps * inside, image * inside, kspace, mask)
    assert not found[:, ~inside.expand(SIZE, SIZE)].any()
    torch.testing.assert_close(rss(found)[inside.expand(SIZE, SIZE)], torch.ones(SIZE * SIZE // 2))
    turned = fit_maps((maps * inside).flip(0), image * inside, kspace.flip(0), mask)
    torch.testing.assert_close(turned.flip(0), found, atol=1e-6, rtol=0)


def test_two_sets_are_fitted_together(image: Tensor, maps: Tensor, mask: Tensor) -> None:
    """Half of the coil images is explained by each set: with the second at zero the first alone is fitted."""
    second = torch.roll(image, 9, -1)
    sets = torch.stack([maps, maps.flip(0)])
    kspace = torch.where(mask, fft2c(maps * image + maps.flip(0) * second), 0)
    found = fit_maps(sets, torch.stack([image, second]), kspace, mask)
    torch.testing.assert_close(found, sets, atol=1e-5, rtol=0)
    alone = torch.where(mask, fft2c(maps * image), 0)
    one = fit_maps(maps.roll(1, 0), image, alone, mask)
    both = fit_maps(sets.roll(1, 1), torch.stack([image, 0 * second]), alone, mask)
    torch.testing.assert_close(both[0], one, atol=1e-5, rtol=0)
