"""Which coils take part and in which combination; where calibration lines are; a phase that no library decides."""

from __future__ import annotations

import math

import pytest
import torch

from kdrift.mri.coil_space import coil_space, live_coils, maps_of, mix
from kdrift.mri.coils import calibration_box, canonical_phase, coil_compression, espirit_maps, normalise_maps, rss
from kdrift.mri.fourier import fft2c
from kdrift.mri.masks import acs_region
from kdrift.mri.unit import LARGEST, SMALLEST, out_of_range, unit_of
from kdrift.testing import complex_normal


def _kspace(coils: int = 4, rows: int = 48, cols: int = 40) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, cols), indexing="ij")
    angles = 2 * math.pi * torch.arange(coils)[:, None, None] / coils
    maps = torch.exp(-((y - angles.sin()) ** 2) - (x - angles.cos()) ** 2) * torch.polar(torch.ones(1), angles + x)
    body = ((y / 0.8) ** 2 + (x / 0.6) ** 2 < 1) * (1 + 0.4 * torch.cos(5 * x * y))
    return fft2c(body * normalise_maps(maps)) + 0.003 * complex_normal((coils, rows, cols), seed=1)


def _cov(coils: int, seed: int = 2) -> torch.Tensor:
    mixing = torch.eye(coils) + 0.4 * complex_normal((coils, coils), seed=seed)
    return (mixing @ mixing.mH).to(torch.complex128)


@pytest.mark.parametrize("coils", [1, 3, 8])
def test_equal_noise_changes_no_bit(coils: int) -> None:
    data = complex_normal((coils, 5, 4), seed=0)
    for level in (1.0, 3.7e-12):
        space = coil_space(torch.ones(coils, dtype=torch.bool), level * torch.eye(coils, dtype=torch.complex128))
        assert torch.equal(space.apply(data), data)
        assert torch.equal(space.back.abs(), torch.eye(coils, dtype=torch.float64))


def test_the_way_back_is_the_inverse_and_leaves_dead_coils_zero() -> None:
    live = torch.tensor([True, False, True, True, False])
    data = complex_normal((5, 6, 7), seed=3)
    space = coil_space(live, _cov(5))
    torch.testing.assert_close(space.into @ space.back, torch.eye(3, dtype=torch.complex128))
    again = mix(space.back, space.apply(data))
    torch.testing.assert_close(again[live], data[live])
    assert not bool(again[~live].any())
    compressed = space.then(coil_compression(space.apply(data), 2)[1])
    torch.testing.assert_close(
        compressed.into @ compressed.back, torch.eye(2, dtype=torch.complex128), atol=1e-6, rtol=0
    )


def test_coils_that_measured_nothing_are_named() -> None:
    kspace = complex_normal((5, 6, 7), seed=4)
    kspace[1], kspace[4] = 0, 1e-9 * kspace[4]
    live, notes = live_coils(kspace)
    assert live.tolist() == [True, False, True, True, False]
    assert notes == ["each of the coils 1, 4 measured nothing: left out"]
    cov = torch.eye(5, dtype=torch.complex128)
    cov[0, 0], cov[2, 2] = 0, float("nan")
    live, notes = live_coils(kspace, cov)
    assert live.tolist() == [False, False, False, True, False]
    assert notes[1].startswith("each of the coils 0, 2 has noise that is zero or not finite")


def test_maps_of_whitened_coils_are_orthonormal_sets() -> None:
    smaps = normalise_maps(complex_normal((2, 4, 6, 5), seed=5))
    maps = maps_of(coil_space(torch.ones(4, dtype=torch.bool), _cov(4)), smaps)
    torch.testing.assert_close(rss(maps), torch.ones(2, 6, 5).to(rss(maps)))
    assert float((maps[0].conj() * maps[1]).sum(0).abs().max()) < 1e-5
    same = maps_of(coil_space(torch.ones(4, dtype=torch.bool)), torch.stack([smaps[0], smaps[0]]))
    assert not bool(same[1].any())


@pytest.mark.parametrize("coils", [2, 6])
def test_a_phase_that_no_library_decides(coils: int) -> None:
    vectors = torch.linalg.eigh(_cov(coils))[1]
    turned = vectors * torch.polar(torch.ones(coils), torch.linspace(0, 5, coils)).to(vectors.dtype)
    torch.testing.assert_close(canonical_phase(vectors), canonical_phase(turned))
    equals = torch.polar(torch.ones(coils), torch.linspace(0, 2, coils))[:, None]  # as symmetric coils have them
    shaken = equals * (1 + 1e-6 * torch.arange(coils))[:, None]
    torch.testing.assert_close(canonical_phase(equals), canonical_phase(shaken), atol=1e-5, rtol=0)


def test_maps_do_not_depend_on_the_order_in_which_lapack_works() -> None:
    kspace = _kspace()
    maps = espirit_maps(kspace)
    torch.testing.assert_close(
        espirit_maps(kspace * torch.polar(torch.ones(1), torch.tensor(2.0))), maps, atol=1e-4, rtol=0
    )
    double = espirit_maps(kspace.to(torch.complex128), max_iter=0)
    assert float(rss(double.to(maps.dtype) - maps).quantile(0.99)) < 5e-3


@pytest.mark.parametrize("away", [(0, 0), (0, 9), (-7, 5), (11, -8)])
def test_calibration_lines_are_found_around_the_echo(away: tuple[int, int]) -> None:
    kspace = _kspace()
    for axis, acs in ((1, 14), (0, 12)):
        mask = torch.zeros(kspace.shape[axis + 1], dtype=torch.bool)
        mask[::3] = True
        middle = len(mask) // 2
        mask[middle - acs // 2 : middle + acs // 2] = True
        sampled = mask.expand(48, 40) if axis == 1 else mask[:, None].expand(48, 40)
        moved, around = kspace.roll(away, (1, 2)), sampled.roll(away, (0, 1))
        box = calibration_box(around, kspace=moved * around)
        for side, shift, n in zip(box, away, (48, 40), strict=True):
            assert side.start <= n // 2 + shift < side.stop
        assert bool(around[box].all())
        assert box[axis].stop - box[axis].start >= acs
    if away == (0, 0):
        assert box == calibration_box(around)


def test_an_echo_beside_the_middle_takes_no_calibration_lines_away() -> None:
    mask = torch.zeros(48, 40, dtype=torch.bool)
    mask[:, ::4] = mask[:, 14:26] = True
    moved = _kspace().roll(3, 2) * mask
    assert calibration_box(mask, kspace=moved) == calibration_box(mask)
    assert acs_region(mask, (24, 16))[1] == slice(14, 20)
    assert acs_region(mask, (24, 27))[1] == slice(27, 27)


@pytest.mark.parametrize("size", [1e-37, 1e-20, 0.3, 1.0, 5e7, 1e30])
def test_the_unit_is_a_power_of_two(size: float) -> None:
    kspace = size * complex_normal((2, 4, 4), seed=6)
    unit = unit_of(kspace)
    assert 1 <= float(torch.view_as_real(kspace / unit).abs().max()) < 2
    assert math.frexp(unit)[0] == 0.5
    assert torch.equal(kspace / unit * unit, kspace)


def test_what_single_precision_cannot_hold() -> None:
    assert unit_of(torch.zeros(1, 2, 2, dtype=torch.complex64)) == 1
    for fine in (0.0, SMALLEST, 1.0, LARGEST, math.inf, math.nan):
        assert out_of_range(fine) == ""
    assert "too small for single precision: the largest is 1.0e-40" in out_of_range(1e-40)
    assert "divide the data by a power of ten" in out_of_range(1e37)
