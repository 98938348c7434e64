"""The head phantom, its coil maps and its command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrift.cli import main, parse
from kdrift.data.formats import open_volume
from kdrift.data.phantom import phantom_images, phantom_volume
from kdrift.mri.birdcage import birdcage_maps


def rss_image(kspace: np.ndarray) -> np.ndarray:
    axes = (-2, -1)
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes), norm="ortho"), axes)
    return np.sqrt((np.abs(images) ** 2).sum(-3))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(1, 32), st.integers(1, 40), st.integers(1, 40))
def test_maps_are_normalised(num_coils: int, rows: int, cols: int) -> None:
    maps = birdcage_maps(num_coils, rows, cols)
    assert maps.shape == (num_coils, rows, cols)
    assert maps.dtype == np.complex64
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(0), 1, rtol=1e-5)


@pytest.mark.parametrize("num_coils", [2, 8, 20, 32])
def test_maps_are_smooth_and_differ(num_coils: int) -> None:
    maps = birdcage_maps(num_coils, 64, 64)
    assert max(np.abs(np.diff(maps, axis=axis)).max() for axis in (1, 2)) < 0.1
    flat = maps.reshape(num_coils, -1)
    values = np.linalg.svd(flat, compute_uv=False)
    assert values[min(num_coils, 4) - 1] > 0.02 * values[0]
    assert np.abs(np.angle(maps[:, 32, 32])).max() < 0.2  # coils agree in phase at the centre


def test_noise_has_the_stated_level() -> None:
    phantom = phantom_volume(2, 96, 80, 6, seed=1, snr_db=30.0)
    clean = phantom_volume(2, 96, 80, 6, seed=1, snr_db=np.inf)
    noise = phantom.kspace - clean.kspace
    assert noise.real.std() == pytest.approx(phantom.noise_std, rel=0.02)
    assert noise.imag.std() == pytest.approx(phantom.noise_std, rel=0.02)
    assert clean.noise_std == 0
    np.testing.assert_allclose(rss_image(clean.kspace), clean.reference, atol=2e-6)
    np.testing.assert_array_equal(phantom.reference, clean.reference)
    object_mean = phantom.reference[phantom.reference > 0.1 * phantom.reference.max()].mean()
    assert 20 * np.log10(object_mean / phantom.noise_std) == pytest.approx(30, abs=0.1)


def test_seeds() -> None:
    one, same, other = (phantom_volume(1, 64, 64, 4, seed=seed) for seed in (0, 0, 4))
    np.testing.assert_array_equal(one.kspace, same.kspace)
    assert one.attrs["acquisition"] == other.attrs["acquisition"] == "AXT1"
    assert np.abs(one.reference - other.reference).mean() > 0.02


def test_contrasts() -> None:
    bright = {name: phantom_images(1, 128, 128, seed=2, contrast=name)[0] for name in ("T1", "T2", "FLAIR", "PD")}
    assert len({round(float(image.mean()), 3) for image in bright.values()}) == 4
    for image in bright.values():
        assert image[:4].max() == 0  # air
        assert 0.4 < image.max() < 1.5


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((0, 64, 64, 4), "phantom is 0 slices"),
        ((1, 4, 64, 4), "of 4x64"),
        ((1, 64, 64, 0), "at least 1 coil"),
    ],
)
def test_bad_sizes(arguments: tuple[int, int, int, int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        phantom_volume(*arguments)


def run(*words: str) -> int:
    parsed = parse(["phantom", *words])
    assert parsed is not None
    return parsed.module.run(parsed.options)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.h5"
    assert run("--out", str(path), "--slices", "2", "--size", "48x33", "--coils", "3", "--seed", "5") == 0
    assert "simulated, 2 x 3 x 48 x 33, AXT2" in capsys.readouterr().out
    with open_volume(path) as volume:
        info = volume.info
        assert (info.num_slices, info.num_coils, info.rows, info.cols) == (2, 3, 48, 33)
        assert info.has_reference
        assert not info.has_mask
        assert info.attrs["simulated"] is True
        assert info.attrs["receiver_channels"] == 3
        np.testing.assert_array_equal(volume.read_kspace(0, 2), phantom_volume(2, 48, 33, 3, seed=5).kspace)
    with pytest.raises(ValueError, match="--size is 'big'"):
        run("--out", str(path), "--size", "big")
    with pytest.raises(ValueError, match="--snr is 'loud'"):
        run("--out", str(path), "--snr", "loud")


def test_command_makes_the_folder_it_writes_to(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "scan.h5"
    assert main(["phantom", "--out", str(path), "--slices", "1", "--size", "32", "--coils", "2"]) == 0
    assert path.is_file()
