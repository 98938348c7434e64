"""Noise covariance, prewhitening, and the noise level from undersampled data."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import shepp_logan_phantom
from skimage.transform import resize

from kdrift.mri.coil_space import coil_space
from kdrift.mri.coils import normalise_maps
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.mri.masks import make_mask
from kdrift.mri.noise import (
    BLOCK,
    RAYLEIGH_MEDIAN,
    coil_noise_sigma,
    estimate_noise_sigma,
    noise_covariance,
)


def complex_noise(*shape: int) -> torch.Tensor:
    """Unit sigma in each component."""
    return torch.complex(torch.randn(shape), torch.randn(shape))


@given(st.integers(1, 32), st.integers(5, 9), st.integers(5, 9))
@settings(max_examples=20, deadline=None)
def test_whitened_noise_has_one_sigma_and_no_correlation(coils, rows, cols):
    torch.manual_seed(coils)
    mixing = torch.eye(coils) + 0.3 * complex_noise(coils, coils) / math.sqrt(coils)
    noise = torch.einsum("vc,cs->vs", mixing, complex_noise(coils, 20_000))
    cov = noise_covariance(noise)
    space = coil_space(torch.ones(coils, dtype=torch.bool), cov)
    data = noise[:, : rows * cols].reshape(coils, rows, cols)
    white = space.apply(data)
    assert white.shape == (coils, rows, cols)
    torch.testing.assert_close(torch.einsum("cv,vyx->cyx", space.back.to(white.dtype), white), data)
    whole = space.apply(noise[:, None, :])[:, 0]
    level = cov.diagonal().real.median()
    assert torch.allclose(noise_covariance(whole) / level, torch.eye(coils, dtype=whole.dtype), atol=2e-3)


def test_covariance_is_of_each_component():
    cov = noise_covariance(3 * complex_noise(2, 100, 200))
    assert cov.diagonal().real.tolist() == pytest.approx([9, 9], rel=0.05)


def test_errors_say_what_came():
    kspace = complex_noise(4, 8, 8)
    with pytest.raises(ValueError, match="noise has 3 samples for 4 coils"):
        noise_covariance(complex_noise(4, 3))
    with pytest.raises(ValueError, match=r"noise_cov has shape \(3, 3\), kspace has 4 coils"):
        coil_space(torch.ones(4, dtype=torch.bool), torch.eye(3))
    with pytest.raises(ValueError, match="not positive definite"):
        coil_space(torch.ones(4, dtype=torch.bool), torch.ones(4, 4))
    with pytest.raises(ValueError, match="no sampled points"):
        estimate_noise_sigma(0 * kspace)
    with pytest.raises(ValueError, match="needs axes"):
        estimate_noise_sigma(kspace[0])


@pytest.fixture(scope="module")
def phantom() -> torch.Tensor:
    """Noise-free k-space (coil, row, col) of a phantom with maximum 1 under 6 coils."""
    size = 192
    image = torch.zeros(size, size)
    image[16:-16, 24:-24] = torch.as_tensor(resize(shepp_logan_phantom(), (size - 32, size - 48)))
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, size),) * 2, indexing="ij")
    angles = 2 * math.pi * torch.arange(6)[:, None, None] / 6
    away = (y - 1.2 * angles.sin()) ** 2 + (x - 1.2 * angles.cos()) ** 2
    return fft2c(image * normalise_maps(torch.polar(torch.exp(-away), angles + x)))


@pytest.mark.parametrize("snr", [5, 20, 50])
@pytest.mark.parametrize(
    ("kind", "acceleration"),
    [
        ("equispaced", 1),
        ("equispaced", 4),
        ("equispaced", 8),
        ("gaussian1d", 4),
        ("random", 4),
        ("poisson", 8),
    ],
)
def test_sigma_from_undersampled_data_within_15_percent(phantom, kind, acceleration, snr):
    sigma = 1 / snr
    mask = make_mask(kind, (192, 192), acceleration=acceleration, seed=3).mask
    kspace = (phantom + sigma * complex_noise(*phantom.shape)) * mask
    assert estimate_noise_sigma(kspace, mask) == pytest.approx(sigma, rel=0.15)


def test_sigma_of_centre_heavy_points_at_moderate_snr(phantom):
    mask = make_mask("gaussian2d", (192, 192), acceleration=8, seed=3).mask
    kspace = (phantom + 0.05 * complex_noise(*phantom.shape)) * mask
    assert estimate_noise_sigma(kspace) == pytest.approx(0.05, rel=0.15)


@pytest.mark.parametrize(("kind", "seed"), [("gaussian2d", 3), ("gaussian2d", 4), ("poisson", 3)])
def test_sigma_of_one_coil_whose_periphery_is_signal(phantom: torch.Tensor, kind: str, seed: int) -> None:
    """The middle of k-space, as of a low resolution: only the margin of the field of view tells signal from noise."""
    image = torch.nn.functional.pad(ifft2c(phantom).abs().square().sum(0).sqrt(), (48, 48, 48, 48))
    kspace = fft2c(image.to(torch.complex64))[None, 96:192, 96:192]
    mask = make_mask(kind, (96, 96), acceleration=4, seed=seed).mask
    peak = float(kspace.abs().max())
    sigma = 2e-5 * peak
    outer = kspace[0, :6].abs().median() / RAYLEIGH_MEDIAN
    assert float(outer) > 5 * sigma  # what the periphery alone would say
    assert 0.8 * sigma < estimate_noise_sigma((kspace + sigma * complex_noise(1, 96, 96)) * mask, mask) < 2 * sigma


@given(st.integers(1, 8), st.integers(24, 61), st.integers(24, 61))
@settings(max_examples=20, deadline=None)
def test_sigma_of_pure_noise_of_any_shape(coils, rows, cols):
    torch.manual_seed(rows)
    # Five standard errors of the median of Rayleigh magnitudes (0.72 / sqrt n) for the smaller of the two sets the
    # estimate is the minimum of: the periphery, and the outer readout positions of the outer half of the lines.
    samples = min(max(rows * cols // 20, BLOCK), 2 * max(1, rows // 16) * (cols // 2))
    assert estimate_noise_sigma(2.5 * complex_noise(coils, rows, cols)) == pytest.approx(2.5, rel=3.6 / samples**0.5)


def test_every_coil_has_its_own_sigma(phantom):
    levels = torch.tensor([0.1, 0.2, 0.3, 0.05, 0.1, 0.15])
    kspace = phantom + levels[:, None, None] * complex_noise(*phantom.shape)
    assert torch.allclose(coil_noise_sigma(kspace), levels, rtol=0.15)
    assert torch.allclose(coil_noise_sigma(torch.stack([kspace, kspace])), levels, rtol=0.15)


def test_zero_filled_periphery_does_not_count(phantom):
    kspace = phantom + 0.1 * complex_noise(*phantom.shape)
    kspace[:, :, :20] = 0
    kspace[:, :, -20:] = 0
    assert estimate_noise_sigma(kspace) == pytest.approx(0.1, rel=0.15)


def test_sigma_of_a_real_slice_agrees_with_its_background(shared_data: Path):
    with h5py.File(shared_data / "kspace" / "graz_t2_4ch.h5") as file:
        kspace = torch.as_tensor(file["kspace"][0])
    image = ifft2c(kspace)
    corners = torch.cat(
        [image[:, a, b].flatten(1) for a in (slice(16), slice(-16, None)) for b in (slice(16), slice(-16, None))],
        1,
    )
    background = corners.abs().median(1).values / RAYLEIGH_MEDIAN
    assert torch.allclose(coil_noise_sigma(kspace), background, rtol=0.15)
    mask = make_mask("equispaced", (256, 256), acceleration=4).mask
    assert torch.allclose(coil_noise_sigma(kspace * mask), background, rtol=0.25)
