"""The scans that verdicts are tried on: complete, deterministic, disturbed as they say, and told apart by split."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from benchmarks import trust_disturbances as wrong
from benchmarks.held_out import DATA, FOUR, MEASURED_MAPS
from benchmarks.trust_data import FullSlice, measured, seen
from benchmarks.trust_drawings import SIDE, ball, fine_axes, grid, lesion, metal, resolution
from benchmarks.trust_scans import SCANS, Expected, Step, TrustScan, draw

from kdrift.data.formats import open_volume
from kdrift.data.simulate import SimulationConfig, simulated
from kdrift.mri.birdcage import birdcage_maps
from kdrift.mri.coils import combine, espirit_maps, rss
from kdrift.mri.fourier import ifft2c
from kdrift.recon.request import MaskRequest

N = 64
NAMED = {scan.name: scan for scan in SCANS}
HELD_OUT, TUNING = ("graz", "p12"), ("larson", "wastling", "p09", "dicom")


@pytest.fixture(scope="module")
def head() -> FullSlice:
    """An object in the middle, 48 rows and 38 columns of 64, seen by 4 computed coils."""
    y, x = np.mgrid[-1 : 1 : N * 1j, -1 : 1 : N * 1j]
    image = np.where((y / 0.75) ** 2 + (x / 0.6) ** 2 < 1, 1 + 0.3 * np.cos(7 * y + 3 * x), 0).astype(np.float32)
    return seen(image, np.asarray(birdcage_maps(4, N, N)), 5)


def made(full: FullSlice, *steps: Step) -> TrustScan:
    return TrustScan("made", "simulated", "tuning", "trusted", "a test", lambda: full, steps)


def unexplained(scan: FullSlice) -> float:
    """Part of the energy that maps of 8 % of calibration lines do not explain."""
    maps, images = espirit_maps(made(scan).load(FOUR)[0].kspace, crop=0.0), ifft2c(scan.clean)
    return float(rss(images - maps * combine(images, maps)).square().sum() / rss(images).square().sum())


def test_the_list_says_what_each_scan_is() -> None:
    assert len(NAMED) == len(SCANS)
    for scan in SCANS:
        assert 5 < len(scan.why) < 60, scan.name
        assert pickle.loads(pickle.dumps(scan)).name == scan.name  # it travels to another process
    for expected in get_args(Expected):
        assert {scan.split for scan in SCANS if scan.expected == expected} == {"tuning", "held out"}


def test_every_patient_and_view_is_in_one_split() -> None:
    for scan in SCANS:
        start = scan.name.partition("_")[0]
        if start in HELD_OUT + TUNING:
            assert (scan.split == "held out") == (start in HELD_OUT), scan.name
    torsos = [scan.split for scan in SCANS if scan.name.startswith("torso")]
    assert torsos == ["tuning", "held out"] * 3  # from the side, from below


def test_every_fault_is_in_both_splits() -> None:
    def faults(start: str) -> set[str]:
        return {scan.why for scan in SCANS if "disturbed" in scan.group and scan.name.startswith(start)}

    assert faults("graz") - faults("p12") == set()
    assert {why for why in faults("p12") - faults("p09") if "field" not in why} == {
        "4 times the noise", "given computed maps",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["graz_t2_moved", "graz_t2_other_maps", "larson_t1", "torso_02", "grid", "p09_metal"])
def test_scans_of_each_kind_load_alike_twice(name: str) -> None:
    try:
        raw, reference = NAMED[name].load(FOUR)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    again, _ = NAMED[name].load(FOUR)
    assert torch.equal(raw.kspace, again.kspace)
    assert raw.kspace.dtype == torch.complex64
    assert reference.dtype == torch.float32
    assert reference.shape == raw.mask.shape == raw.kspace.shape[-2:]
    assert not raw.kspace[:, ~raw.mask].any()
    assert 3.5 < raw.mask.numel() / int(raw.mask.sum()) < 4.5
    zero_filled = rss(ifft2c(raw.kspace))
    assert 0.5 < float(zero_filled.norm() / reference.norm()) < 1.1  # on one scale


def test_a_simulated_slice_is_that_of_held_out() -> None:
    volume = DATA / "brain_nifti" / "patient12" / "study1_T1W.nii.gz"
    if not volume.is_file():
        pytest.skip(f"{volume} is absent (set KDRIFT_DATA)")
    config = SimulationConfig(num_coils=8, maps=MEASURED_MAPS[1], size=(320, 320), matrix=(128, 128), seed=0)
    with open_volume(str(volume)) as opened, simulated(opened, config) as expected:
        kspace, image = expected.read_kspace(22, 23)[0], expected.read_image(22, 23)[0]
    scan = NAMED["p12_t1"].full()
    torch.testing.assert_close(scan.kspace, torch.from_numpy(kspace))
    torch.testing.assert_close(scan.reference, torch.from_numpy(image), rtol=1e-4, atol=1e-4 * float(image.max()))


def test_an_object_moves_and_its_coils_and_noise_stay(head: FullSlice) -> None:
    assert head.true_maps is not None
    moved = wrong.moving(head, ((0, 0, 0), (3, -2, 0)), "blocks")
    torch.testing.assert_close(moved.kspace[..., : N // 2], head.kspace[..., : N // 2])
    assert moved.reference is head.reference
    throughout = wrong.moving(head, ((3, -2, 0),), "blocks")
    torch.testing.assert_close(moved.kspace[..., N // 2 :], throughout.kspace[..., N // 2 :])
    image = combine(ifft2c(head.clean), head.true_maps).roll((3, -2), (0, 1))
    expected = head.true_maps * image
    torch.testing.assert_close(ifft2c(throughout.clean), expected, atol=1e-3, rtol=1e-3)
    waves = wrong.moving(head, wrong.to_and_fro(2, 0), "waves")
    still = (torch.arange(N) // 4) % 8 == 0
    torch.testing.assert_close(waves.kspace[..., still], head.kspace[..., still])
    assert not torch.allclose(waves.kspace[..., ~still], head.kspace[..., ~still], atol=0.1)


def test_an_object_turns_about_the_middle(head: FullSlice) -> None:
    turned = wrong.moving(head, ((0, 0, 90),), "blocks")
    expected = torch.rot90(head.reference, 1).roll(1, 0)  # the middle is at N // 2
    torch.testing.assert_close(rss(ifft2c(turned.clean)), expected, atol=1e-2, rtol=1e-2)


def test_a_small_field_of_view_folds_the_edges_in(head: FullSlice) -> None:
    small = wrong.small_field_of_view(head, 0.7)
    width = small.kspace.shape[-1]
    assert width == 26
    assert small.reference.shape == (N, width)
    images, folded = ifft2c(head.clean), ifft2c(small.clean)
    left, right = N // 2 - width // 2, N // 2 + width // 2
    beyond = images[..., right : right + 5]
    torch.testing.assert_close(folded[..., :5] - images[..., left : left + 5], beyond, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(folded.sum(-1), images.sum(-1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(small.reference, rss(folded))


@pytest.mark.parametrize("kind", ["equispaced", "gaussian2d", "center"])
def test_a_spike_is_one_sampled_position_of_one_coil(head: FullSlice, kind: str) -> None:
    mask = MaskRequest(kind)
    raw, _ = made(head, partial(wrong.spiked, height=3)).load(mask)
    without, _ = made(head).load(mask)
    change = raw.kspace - without.kspace
    assert int((change != 0).sum()) == 1
    assert bool(raw.mask[(change != 0).any(0)].all())
    assert float(change.abs().max()) == pytest.approx(3 * float(without.kspace.abs().max()), rel=1e-4)


def test_noise_is_told_wrong_or_is_more(head: FullSlice) -> None:
    raw, _ = made(head, partial(wrong.told_noise, factor=4)).load(FOUR)
    assert raw.coils.noise_sigma == pytest.approx(4 * head.noise_sigma)
    more = wrong.noisier(head, 4)
    torch.testing.assert_close(more.clean, head.clean, atol=1e-5, rtol=1e-5)
    assert float((more.kspace - head.clean).real.std()) == pytest.approx(4 * head.noise_sigma, rel=0.03)
    with pytest.raises(ValueError, match="take a simulated one"):
        wrong.noisier(FullSlice(head.kspace, head.reference, 0.1), 4)


def test_the_other_axis_is_undersampled(head: FullSlice) -> None:
    upright, reference = made(head, wrong.by_rows).load(FOUR)
    assert torch.equal(upright.mask, upright.mask[:, :1].expand(N, N))
    torch.testing.assert_close(reference, head.reference)
    lying, reference = made(head, wrong.turned).load(FOUR)
    torch.testing.assert_close(reference, head.reference.mT)
    torch.testing.assert_close(lying.kspace, upright.kspace.mT)


@pytest.mark.parametrize("step", [wrong.mirrored_maps, wrong.computed_maps, wrong.reordered_maps])
def test_wrong_maps_are_normalised_and_wrong(head: FullSlice, step: Step) -> None:
    coils = wrong.steep_coils((N, N))
    scan = seen(head.reference.numpy(), coils, 5)
    smaps = step(scan).smaps
    assert smaps is not None
    assert smaps.shape == scan.kspace.shape
    torch.testing.assert_close(rss(smaps), torch.ones(N, N), atol=1e-3, rtol=1e-3)
    explained = combine(ifft2c(scan.clean), smaps).abs().norm() / scan.reference.norm()
    assert float(explained) < 0.8


def test_steep_coils_are_more_than_espirit_can_follow(head: FullSlice) -> None:
    coils = wrong.steep_coils((SIDE, SIDE))
    assert np.array_equal(coils, wrong.steep_coils((SIDE, SIDE)))
    assert not np.allclose(coils, wrong.steep_coils((SIDE, SIDE), seed=1))
    image = np.kron(head.reference.numpy(), np.ones((2, 2), dtype=np.float32))
    usual = seen(image, np.asarray(birdcage_maps(4, SIDE, SIDE)), 5)
    assert unexplained(seen(image, coils, 5)) > 10 * unexplained(usual)


def test_drawings_are_what_they_say() -> None:
    y, x = fine_axes()
    for phantom in (ball, resolution, grid):
        image = phantom(y, x)
        assert image.shape == (4 * SIDE, 4 * SIDE)
        assert image.min() == 0
        assert image.max() == pytest.approx(1, abs=1e-6)
    area = ball(y, x, radius=0.5).sum() * (2 / len(y)) ** 2
    assert area == pytest.approx(np.pi * 0.25, rel=1e-3)


def test_edges_of_drawings_lie_between_pixels() -> None:
    maps = np.asarray(birdcage_maps(2, 4 * SIDE, 4 * SIDE))
    reference = seen(ball(*fine_axes(), centre=(0, 0)), maps, 1, shape=(SIDE, SIDE)).reference
    far = torch.from_numpy(np.hypot(*np.mgrid[-1 : 1 - 2 / SIDE : SIDE * 1j, -1 : 1 - 2 / SIDE : SIDE * 1j]))
    assert 1.02 < float(reference[far < 0.7].max()) < 1.2  # it rings, as edges do that were measured
    assert 0.01 < float(reference[far > 0.8].max()) < 0.2


def test_what_is_painted_into_a_head_is_local(head: FullSlice) -> None:
    image = head.reference.numpy()
    ill = lesion(image, centre=(0.1, -0.2), radius=0.15)
    there = np.abs(ill - image) > 1e-6
    assert 0.01 < there.mean() < 0.05
    implanted = metal(image, centre=(0.1, -0.2), radius=0.15)
    row, col = round((1 + 0.1) * N / 2), round((1 - 0.2) * N / 2)
    assert np.abs(implanted[row - 2 : row + 3, col - 2 : col + 3]).max() == 0
    assert np.abs(np.abs(implanted) - image)[:10].max() < 1e-3


def test_a_sheet_shows_scans_and_says_what_is_absent(tmp_path: Path, head: FullSlice) -> None:
    lost = TrustScan("lost", "real", "tuning", "trusted", "a test", partial(measured, "kspace/no_such_file.h5"))
    absent = draw(str(tmp_path / "sheet.png"), [made(head), lost, made(head, wrong.computed_maps)])
    assert len(absent) == 1
    assert "lost: skipped, no kspace/no_such_file.h5 in" in absent[0]
    assert (tmp_path / "sheet.png").stat().st_size > 10_000


def test_a_mask_file_fits_one_size_alone(head: FullSlice) -> None:
    with pytest.raises(ValueError, match="give the kind of a mask that is drawn"):
        made(head).load(MaskRequest(file="mask.npy"))
