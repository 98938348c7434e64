"""ESPIRiT against sigpy and against known maps; combination and compression of coils."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import pytest
import sigpy.mri
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrift.mri.birdcage import birdcage_maps
from kdrift.mri.coils import (
    calibration_box,
    coil_compression,
    combine,
    espirit_maps,
    map_holes,
    normalise_maps,
    rss,
)
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.mri.masks import make_mask


def true_maps(coils: int, rows: int, cols: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, cols), indexing="ij")
    angles = 2 * math.pi * torch.arange(coils)[:, None, None] / coils
    distance = (y - 1.3 * angles.sin()) ** 2 + (x - 1.3 * angles.cos()) ** 2
    return normalise_maps(torch.polar(torch.exp(-distance), angles + x * angles.cos() - y))


def ellipse(rows: int, cols: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, cols), indexing="ij")
    body = ((y / 0.8) ** 2 + (x / 0.7) ** 2 < 1).float()
    return body * (1 + 0.4 * torch.cos(7 * x * y) + 0.5 * ((y - 0.2) ** 2 + x**2 < 0.05))


def simulated(coils: int, rows: int, cols: int, noise: float = 1e-3) -> torch.Tensor:
    kspace = fft2c(ellipse(rows, cols) * true_maps(coils, rows, cols))
    return kspace + noise * torch.randn(kspace.shape, dtype=kspace.dtype)


def centre(rows: int, cols: int, size: int = 24) -> tuple[slice, slice]:
    row, col = (slice(n // 2 - size // 2, n // 2 - size // 2 + size) for n in (rows, cols))
    return row, col


def distance(maps: torch.Tensor, reference: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """|S - S_ref| a pixel, after alignment of one phase a pixel."""
    phase = torch.sgn((maps.conj() * reference).sum(0))
    return rss(maps * phase - reference)[where]


@pytest.mark.parametrize(("coils", "rows", "cols"), [(4, 64, 64), (8, 72, 61)])
def test_maps_agree_with_sigpy_within_1_percent(coils, rows, cols):
    kspace = simulated(coils, rows, cols)
    reference, values = sigpy.mri.app.EspiritCalib(
        kspace.numpy(), show_pbar=False, output_eigenvalue=True, max_iter=300
    ).run()
    reference, values = torch.as_tensor(reference), torch.as_tensor(values)
    maps = espirit_maps(kspace, acs=centre(rows, cols))
    support = (maps != 0).any(0)
    assert not bool((support != (values > 0.95))[(values - 0.95).abs() > 2e-3].any())
    signal = support & (ellipse(rows, cols) > 0) & (reference != 0).any(0)
    assert float(distance(maps, reference, signal).max()) < 0.01


@pytest.mark.slow
def test_maps_of_a_real_slice_agree_with_sigpy(shared_data: Path):
    with h5py.File(shared_data / "kspace" / "graz_t2_4ch.h5") as file:
        kspace = torch.as_tensor(file["kspace"][0])
    reference = torch.as_tensor(sigpy.mri.app.EspiritCalib(kspace.numpy(), show_pbar=False, max_iter=300).run())
    maps = espirit_maps(kspace, acs=centre(256, 256))
    image = rss(ifft2c(kspace))
    signal = (image > 0.05 * image.max()) & (reference != 0).any(0)
    error = distance(maps, reference, signal)
    assert float(error.square().mean().sqrt()) < 0.01
    assert float(error.quantile(0.999)) < 0.01


@given(st.integers(1, 32), st.integers(20, 41), st.integers(20, 41))
@settings(max_examples=15, deadline=None)
def test_maps_are_unit_vectors_or_zero(coils, rows, cols):
    torch.manual_seed(coils)
    maps = espirit_maps(simulated(coils, rows, cols), acs=centre(rows, cols, 16))
    assert maps.shape == (coils, rows, cols)
    norm = rss(maps)
    assert bool(((norm - 1).abs() < 1e-4).logical_or(norm == 0).all())
    assert float((norm > 0)[ellipse(rows, cols) > 0].float().mean()) > 0.9


@pytest.mark.parametrize("acceleration", [2, 4])
def test_maps_from_undersampled_data_match_the_true_ones(acceleration):
    kspace = simulated(8, 96, 96)
    mask = make_mask("equispaced", (96, 96), acceleration=acceleration, acs_lines=16).mask
    maps = espirit_maps(kspace * mask)
    body = ellipse(96, 96) > 0
    assert float((maps != 0).any(0)[body].float().mean()) > 0.99
    error = distance(maps, true_maps(8, 96, 96), body & (maps != 0).any(0))
    assert float(error.square().mean().sqrt()) < 0.02


def test_a_batch_of_slices_equals_its_slices():
    kspace = torch.stack([simulated(3, 40, 33) for _ in range(4)]).reshape(2, 2, 3, 40, 33)
    maps = espirit_maps(kspace, acs=centre(40, 33, 16))
    assert maps.shape == kspace.shape
    assert torch.equal(maps[1, 0], espirit_maps(kspace[1, 0], acs=centre(40, 33, 16)))


def test_iteration_agrees_with_direct_eigenvectors_and_double_precision():
    kspace = simulated(6, 48, 48)
    iterated = espirit_maps(kspace, acs=centre(48, 48))
    direct = espirit_maps(kspace.to(torch.complex128), acs=centre(48, 48), max_iter=0)
    assert direct.dtype == torch.complex128
    both = (iterated != 0).any(0) & (direct != 0).any(0)
    assert float(rss(iterated - direct)[both].quantile(0.99)) < 2e-3


def test_two_sets_are_orthonormal_and_explain_aliased_signal():
    # An object wider than the field of view: two positions fold into one pixel, with two sensitivities.
    wide = ellipse(64, 96) * true_maps(6, 64, 96)
    folded = wide[..., 16:80].clone()
    folded[..., :16] += wide[..., 80:]
    folded[..., -16:] += wide[..., :16]
    kspace = fft2c(folded)
    maps = espirit_maps(kspace, acs=centre(64, 64), num_sets=2)
    assert maps.shape == (2, 6, 64, 64)
    inner = (maps[0].conj() * maps[1]).sum(0)
    assert float(inner.abs().max()) < 1e-3
    assert bool((maps[1] != 0).any())

    def residual(sets: torch.Tensor) -> float:
        explained = (sets * combine(folded[None], sets)[:, None]).sum(0)
        return float((folded - explained).norm() / folded.norm())

    assert residual(maps) < 0.5 * residual(maps[:1])


def test_phase_follows_the_principal_coil_combination():
    kspace = simulated(5, 40, 40)
    maps = espirit_maps(kspace, acs=centre(40, 40, 20))
    turned = espirit_maps(kspace * torch.polar(torch.tensor(1.0), torch.tensor(0.7)), acs=centre(40, 40, 20))
    assert float((maps - turned).abs().max()) < 1e-3
    _, matrix = coil_compression(kspace, 1, acs=centre(40, 40, 20))
    virtual = torch.einsum("vc,cyx->vyx", matrix, maps)[0]
    constant = torch.sgn(virtual[20, 20])
    inside = virtual.abs() > 0.1
    assert float((torch.sgn(virtual) - constant).abs()[inside].max()) < 1e-3


def test_one_coil_has_a_map_of_ones_where_there_is_signal():
    maps = espirit_maps(fft2c(ellipse(48, 48).to(torch.complex64))[None], acs=centre(48, 48))
    assert float((maps[0].abs() - (maps[0] != 0).float()).abs().max()) < 1e-5
    assert bool((maps[0] != 0)[ellipse(48, 48) > 0].float().mean() > 0.98)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_tiny_acs_still_gives_unit_maps(size):
    maps = espirit_maps(simulated(4, 32, 32), acs=centre(32, 32, size))
    norm = rss(maps)
    assert bool(((norm - 1).abs() < 1e-4).logical_or(norm == 0).all())
    assert bool((norm > 0).any())


def test_low_rank_and_empty_data():
    one = fft2c(ellipse(32, 32).to(torch.complex64))
    copies = torch.stack([one, 2 * one, 0 * one])  # rank one over coils, one coil dead
    maps = espirit_maps(copies, acs=centre(32, 32, 20))
    inside = (maps != 0).any(0) & (ellipse(32, 32) > 0)
    assert torch.allclose(maps.abs()[:, inside].mean(1), torch.tensor([0.2, 0.8, 0.0]).sqrt(), atol=1e-3)
    assert not bool(espirit_maps(0 * copies, acs=centre(32, 32, 20)).any())


def test_calibration_box_makes_up_for_a_short_axis():
    mask = make_mask("equispaced", (256, 256), acceleration=8, seed=1).mask
    box = calibration_box(mask)
    assert box[1].stop - box[1].start == 10
    assert box[0].stop - box[0].start == 58
    assert calibration_box(torch.ones(256, 200)) == (slice(116, 140), slice(88, 112))


def test_calibration_is_not_taken_around_a_spike():
    kspace = simulated(4, 64, 64)
    box = calibration_box(torch.ones(64, 64), kspace=kspace)
    kspace[:, 10, 12] = 5 * kspace.abs().max()
    assert calibration_box(torch.ones(64, 64), kspace=kspace) == box == (slice(20, 44), slice(20, 44))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda k: espirit_maps(k[0]), "needs to be complex"),
        (lambda k: espirit_maps(k, num_sets=9), "num_sets must lie between 1 and the 4 coils, got 9"),
        (lambda k: espirit_maps(0 * k), "no fully sampled centre"),
        (lambda k: espirit_maps(k * float("nan"), acs=centre(32, 32)), "NaN"),
        (lambda k: coil_compression(k, 5), "between 1 and the 4 coils of kspace, got 5"),
        (lambda k: combine(k, k[:3]), r"smaps have axes \(coil, row, col\) = \(3, 32, 32\)"),
    ],
)
def test_errors_say_what_came(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(simulated(4, 32, 32))


def test_combination_recovers_the_image():
    smaps, image = true_maps(8, 33, 40), ellipse(33, 40)
    assert torch.allclose(combine(image * smaps, smaps).real, image, atol=1e-5)
    assert torch.allclose(rss(image * smaps), image, atol=1e-5)
    zero = normalise_maps(torch.zeros(2, 3, 3, dtype=torch.complex64))
    assert not bool(zero.any())


@given(st.integers(1, 12), st.integers(12, 24), st.integers(12, 24))
@settings(max_examples=20, deadline=None)
def test_compression_keeps_noise_white_and_energy_first(coils, rows, cols):
    kspace = simulated(coils, rows, cols)
    kept = max(1, coils // 2)
    compressed, matrix = coil_compression(kspace, kept)
    assert compressed.shape == (kept, rows, cols)
    assert torch.allclose(matrix @ matrix.mH, torch.eye(kept, dtype=matrix.dtype), atol=1e-5)
    full, unitary = coil_compression(kspace, coils)
    assert float(full.norm()) == pytest.approx(float(kspace.norm()), rel=1e-5)
    assert torch.allclose(unitary.mH @ full.flatten(1), kspace.flatten(1), atol=1e-4)


def test_holes_of_maps_are_pixels_that_others_surround() -> None:
    maps = torch.as_tensor(birdcage_maps(3, 24, 24))
    assert map_holes(maps) == 0
    maps[:, :5], maps[:, 10:13, 11:13] = 0, 0  # the background is no hole
    assert map_holes(maps) == 6
    assert map_holes(torch.stack([maps, torch.zeros_like(maps)])) == 6
