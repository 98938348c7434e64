"""Simulated k-space: the stated SNR is the measured one, and everything about it is recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrift.cli import parse
from kdrift.data.formats import open_volume
from kdrift.data.simulate import (
    SimulationConfig,
    coil_maps,
    fit,
    mean_signal,
    normalise_maps,
    resize_maps,
    simulate_volume,
    simulated,
)
from kdrift.data.store import open_store
from kdrift.data.volume import Volume, VolumeInfo
from kdrift.mri.fourier import ifft2c


def disc(slices: int = 3, rows: int = 64, cols: int = 48) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : cols * 1j]
    image = np.where(x**2 + y**2 < 0.6, 100 + 40 * np.cos(3 * x) * np.sin(2 * y), 0)
    return np.stack([image * (1 + i / 10) for i in range(slices)]).astype(np.float32)


def magnitude_volume(images: np.ndarray) -> Volume:
    slices, rows, cols = images.shape
    attrs: dict = {"patient_id": "p7", "fov_mm": "200 x 150 x 4"}
    info = VolumeInfo("series", "image", slices, 1, rows, cols, rows, cols, attrs=attrs)
    return Volume("series", info, None, lambda start, stop: images[start:stop])


def combine(kspace: np.ndarray, smaps: np.ndarray) -> np.ndarray:
    return (ifft2c(torch.from_numpy(kspace)).numpy() * smaps.conj()).sum(1)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(1, 32), st.integers(2, 33), st.integers(2, 33))
def test_noise_free_combination_is_the_image(slices: int, coils: int, rows: int, cols: int) -> None:
    images = np.random.default_rng(0).random((slices, rows, cols), dtype=np.float32)
    smaps = coil_maps(SimulationConfig(num_coils=coils), rows, cols)
    np.testing.assert_allclose((np.abs(smaps) ** 2).sum(0), 1, rtol=1e-5)
    kspace, reference = simulate_volume(images, smaps)
    assert kspace.shape == (slices, coils, rows, cols)
    np.testing.assert_allclose(np.abs(combine(kspace, smaps)), images, atol=1e-5)
    np.testing.assert_allclose(reference, images, atol=1e-6)


@pytest.mark.parametrize("snr_db", [10.0, 35.0])
def test_measured_snr_is_the_stated_one(snr_db: float) -> None:
    images = disc(4, 96, 96)
    config = SimulationConfig(num_coils=6, snr_db=snr_db, seed=5)
    noisy, clean = (simulated(magnitude_volume(images), replace(config, snr_db=snr)) for snr in (snr_db, None))
    smaps = coil_maps(config, 96, 96)
    noise = combine(noisy.read_kspace(0, 4) - clean.read_kspace(0, 4), smaps)
    for part in (noise.real, noise.imag):  # std of each real component, 36864 samples: 0.4 %
        assert 20 * np.log10(mean_signal(images) / part.std()) == pytest.approx(snr_db, abs=0.1)
    assert noisy.info.attrs["simulation_noise_std"] == pytest.approx(noise.real.std(), rel=0.02)
    cov = noisy.noise_cov()
    assert cov is not None
    coil_noise = ifft2c(torch.from_numpy(noisy.read_kspace(0, 4) - clean.read_kspace(0, 4))).numpy()
    measured = np.einsum("icyx,idyx->cd", coil_noise, coil_noise.conj()) / (4 * 96 * 96)
    np.testing.assert_allclose(measured, cov, atol=0.03 * np.abs(cov).max())
    assert clean.noise_cov() is None
    np.testing.assert_array_equal(noisy.read_image(0, 4), images)


def test_blocks_and_slice_ranges_give_the_same_slices() -> None:
    volume = magnitude_volume(disc(4))
    config = SimulationConfig(num_coils=3, snr_db=None, seed=2)
    whole = simulated(volume, config)
    part = simulated(volume, config, 1, 3)
    assert part.info.num_slices == 2
    np.testing.assert_array_equal(whole.read_kspace(0, 4)[2:3], whole.read_kspace(2, 3))
    np.testing.assert_array_equal(whole.read_kspace(1, 3), part.read_kspace(0, 2))
    other = simulated(volume, replace(config, seed=3))
    assert not np.array_equal(other.read_kspace(0, 1), whole.read_kspace(0, 1))


def test_labels_record_every_parameter() -> None:
    made = simulated(magnitude_volume(disc()), SimulationConfig(num_coils=3, seed=11, size=(32, 96)))
    attrs = made.info.attrs
    assert attrs["simulated"] is True
    assert attrs["patient_id"] == "p7"
    for name in (
        "num_coils",
        "maps",
        "snr_db",
        "phase_order",
        "phase_rad",
        "size",
        "matrix",
        "seed",
        "noise_std",
        "reference",
    ):
        assert f"simulation_{name}" in attrs
    assert (attrs["simulation_seed"], attrs["simulation_size"]) == (11, "32x96")
    assert attrs["fov_mm"] == "100 x 300 x 4"  # 64x48 cropped to 32 rows and padded to 96 columns
    assert (made.info.rows, made.info.cols, made.info.recon_rows) == (32, 96, 32)


def test_matrix_lowers_the_resolution_over_the_same_field_of_view() -> None:
    config = SimulationConfig(num_coils=3, snr_db=None, size=(60, 60), matrix=(30, 20))
    made = simulated(magnitude_volume(disc()), config)
    assert (made.info.rows, made.info.cols, made.info.attrs["simulation_matrix"]) == (30, 20, "30x20")
    whole = fit(disc(), 60, 60)
    assert made.read_image(0, 1)[0].mean() == pytest.approx(whole[0].mean(), rel=0.1)  # ringing adds a little
    same_fov = simulated(magnitude_volume(disc()), replace(config, matrix=None)).info.attrs["fov_mm"]
    assert made.info.attrs["fov_mm"] == same_fov
    with pytest.raises(ValueError, match="resolution is only lowered"):
        simulated(magnitude_volume(disc()), replace(config, matrix=(61, 20)))


def test_measured_maps_are_interpolated_compressed_and_normalised(tmp_path: Path) -> None:
    truth = coil_maps(SimulationConfig(num_coils=8), 60, 60)
    np.save(tmp_path / "maps.npy", (truth * 17)[:, ::2, ::2])
    config = SimulationConfig(maps=str(tmp_path / "maps.npy"))
    made = coil_maps(config, 60, 48)
    assert made.shape == (8, 60, 48)
    np.testing.assert_allclose((np.abs(made) ** 2).sum(0), 1, rtol=1e-5)
    same = resize_maps(truth, 60, 60)
    np.testing.assert_allclose(same, truth, atol=1e-5)
    few = resize_maps(truth, 60, 60, 4)
    assert few.shape == (4, 60, 60)
    energy = np.abs(np.einsum("cyx,dyx->cd", truth, truth.conj()))
    assert np.linalg.eigvalsh(energy)[-4:].sum() / np.trace(energy) > 0.5
    with pytest.raises(ValueError, match="9 coils asked for, the measured maps have 8"):
        resize_maps(truth, 60, 60, 9)
    np.save(tmp_path / "bad.npy", np.ones((3, 4)))
    with pytest.raises(ValueError, match="expected finite complex"):
        coil_maps(replace(config, maps=str(tmp_path / "bad.npy")), 8, 8)
    np.testing.assert_array_equal(normalise_maps(np.zeros((2, 3, 3))), 0)


def test_fit_keeps_the_centre() -> None:
    for have, want in ((7, 4), (8, 5), (4, 9), (5, 8)):
        image = np.zeros((1, have, have))
        image[0, have // 2, have // 2] = 1
        assert fit(image, want, want)[0, want // 2, want // 2] == 1


def test_errors_name_the_reason() -> None:
    with pytest.raises(ValueError, match="rows and columns must agree"):
        simulate_volume(np.zeros((1, 4, 4)), np.zeros((2, 4, 5)))
    with pytest.raises(ValueError, match="slices 3:3 are empty"):
        simulated(magnitude_volume(disc()), SimulationConfig(), 3)
    for values in ({"num_coils": 0}, {"snr_db": float("nan")}, {"phase_order": 9}, {"size": (0, 4)}):
        with pytest.raises(ValueError, match="expected"):
            SimulationConfig(**values)


def run(*words: str) -> int:
    parsed = parse(["simulate", *words])
    assert parsed is not None
    return parsed.module.run(parsed.options)


def test_command_writes_a_file_or_a_store(tmp_path: Path) -> None:
    np.save(tmp_path / "series.npy", disc())
    out = tmp_path / "made.h5"
    options = ["--coils", "4", "--snr", "25", "--size", "40x40", "--seed", "3"]
    first, second = str(tmp_path / "series.npy"), str(tmp_path / "second.npy")
    assert run(first, *options, "--out", str(out)) == 0
    with open_volume(out) as volume:
        assert volume.info.kind == "kspace"
        assert volume.info.attrs["simulated"]
        assert (volume.info.num_slices, volume.info.num_coils, volume.info.rows) == (3, 4, 40)
        kspace, reference = volume.read_kspace(0, 3), volume.read_image(0, 3)
    np.testing.assert_allclose(reference, fit(disc(), 40, 40), rtol=1e-5)
    assert run(first, *options, "--store", str(tmp_path / "x.zarr")) == 0
    stored = open_store(tmp_path / "x.zarr").read_volume("series_sim")
    np.testing.assert_array_equal(stored.read_kspace(0, 3), kspace)
    assert stored.info.attrs["simulation_seed"] == 3
    np.save(second, disc())
    with pytest.raises(ValueError, match="is one file, there are 2 sources"):
        run(first, second, *options, "--out", str(out))
    assert run(first, second, *options, "--out", str(tmp_path / "folder"), "--slices", "0:1") == 0
    assert sorted(file.name for file in (tmp_path / "folder").iterdir()) == ["second_sim.h5", "series_sim.h5"]
    with pytest.raises(ValueError, match="expected two whole numbers"):
        run(first, *options, "--out", str(out), "--slices", "1")


def test_real_coil_maps_and_volume(shared_data: Path) -> None:
    maps = str(shared_data / "coils" / "neonate_head_32ch_128.npy")
    with open_volume(shared_data / "brain_nifti" / "patient12" / "study1_T1W.nii.gz") as source:
        made = simulated(source, SimulationConfig(maps=maps, num_coils=12), 20, 21)
        kspace, reference = made.read_kspace(0, 1), made.read_image(0, 1)
    smaps = coil_maps(SimulationConfig(maps=maps, num_coils=12), *kspace.shape[2:])
    error = np.abs(combine(kspace, smaps)) - reference
    assert np.sqrt((error**2).mean()) < 0.1 * mean_signal(reference)


def test_one_coil_without_phase_sees_real_images() -> None:
    config = SimulationConfig(num_coils=1, phase_rad=0.0, snr_db=None)
    image = np.abs(np.random.default_rng(0).normal(size=(1, 12, 16))).astype(np.float32)
    maps = coil_maps(config, 12, 16)
    kspace, _ = simulate_volume(image, maps, phase_rad=config.phase_rad)
    seen = ifft2c(torch.from_numpy(kspace))[0, 0]
    torch.testing.assert_close(seen, torch.from_numpy(image[0]) + 0j, rtol=1e-5, atol=1e-6)
