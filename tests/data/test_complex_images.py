"""Complex images: combined from full k-space with the phase that was measured, stored, and trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch

from formats_helpers import random_kspace
from kdrift.data.centring import fft_centred
from kdrift.data.complex_images import complex_images
from kdrift.data.convert import ConvertConfig, _convert_task, convert
from kdrift.data.data_config import DataConfig
from kdrift.data.dataset import TrainingImages
from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.measured import find_sampling
from kdrift.data.simulate import simulate_volume
from kdrift.data.store import open_store
from kdrift.data.volume import ReadOptions, Volume
from kdrift.mri.birdcage import birdcage_maps
from kdrift.training.provenance import describe_data

SIZE = 48


def head(slices: int = 2) -> np.ndarray:
    """Complex images with a steep phase of their own (slice, row, col)."""
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    magnitude = (x**2 + (y / 0.8) ** 2 < 0.7) + 1.0 * ((x - 0.3) ** 2 + y**2 < 0.05)
    phases = [2 * x + 3 * y**2 + index for index in range(slices)]
    return np.stack([magnitude * np.exp(1j * phase) for phase in phases]).astype(np.complex64)


def scan(path: Path, images: np.ndarray, coils: int = 4, mask: np.ndarray | None = None) -> Path:
    """Write k-space of images seen by coils with smooth phases, in the fastMRI layout."""
    maps = np.asarray(birdcage_maps(coils, SIZE, SIZE))
    maps = maps / np.sqrt((np.abs(maps) ** 2).sum(0))
    kspace = fft_centred(images[:, None] * maps).astype(np.complex64)
    write_fastmri(path, kspace if mask is None else kspace * mask)
    return path


def stored(path: Path, store: Path, requested: tuple[str, ...] = ("complex_image",)) -> Volume:
    """Convert one source in this process."""
    with open_store(store, "a") as opened:
        outcome = _convert_task(str(path), "v", opened, requested, ReadOptions())
        assert not isinstance(outcome, str), outcome
        return opened.read_volume("v")


def test_the_measured_phase_is_kept_but_for_that_of_the_reference_coil(tmp_path: Path) -> None:
    images = head()
    with open_volume(scan(tmp_path / "a.h5", images)) as volume:
        made = complex_images(volume)
        assert (made.info.kind, made.info.num_coils, made.info.has_phase) == ("image", 1, True)
        found = made.read_complex_image(0, 2)
        inside = np.abs(images) > 0.5
        np.testing.assert_allclose(np.abs(found)[inside], np.abs(images)[inside], rtol=0.05)
        turned = found * images.conj()  # what is left is the smooth phase of the coils' combination
        steps = np.angle(turned[:, :, 1:] * turned[:, :, :-1].conj())[inside[:, :, 1:] & inside[:, :, :-1]]
        assert np.abs(steps).max() < 0.3
        np.testing.assert_allclose(made.read_image(0, 2), np.abs(found))


def test_one_coil_keeps_its_own_phase_and_is_cropped(tmp_path: Path) -> None:
    images = head()
    write_fastmri(tmp_path / "a.h5", fft_centred(images)[:, None], recon_size=(SIZE - 16, SIZE - 8))
    with open_volume(tmp_path / "a.h5") as volume:
        found = complex_images(volume).read_complex_image(0, 2)
    np.testing.assert_allclose(found, images[:, 8:-8, 4:-4], atol=1e-5)


def test_undersampled_and_padded_data(tmp_path: Path) -> None:
    lines = np.arange(SIZE) % 2 == 0
    lines[SIZE // 2 - 8 : SIZE // 2 + 8] = True
    with (
        open_volume(scan(tmp_path / "u.h5", head(), mask=lines)) as volume,
        pytest.raises(BadVolume, match="slice 1 is"),
    ):
        complex_images(volume)
    padded = (np.arange(SIZE) > 6) & (np.arange(SIZE) < SIZE - 4)
    with open_volume(scan(tmp_path / "p.h5", head(), mask=padded)) as volume:
        made = complex_images(volume)
        assert any("22.9% of k-space, at its ends, was not measured" in note for note in made.info.notes)
        assert made.read_complex_image(0, 2).any()


def test_gaps_are_missing_positions_between_measured_ones() -> None:
    full = np.ones((20, 24), dtype=bool)
    y, x = np.mgrid[-1:1:20j, -1:1:24j]
    scattered, comb, points = full.copy(), full.copy(), np.random.default_rng(0).random((20, 24)) < 0.4
    scattered[3, 5] = scattered[12, 20] = False
    comb[:, 5] = False
    for measured in (full, x**2 + y**2 < 1, x > -0.3, scattered, np.zeros_like(full)):
        assert not find_sampling(np.asarray(measured)[None]).has_gaps
    for measured in (comb, points, (np.arange(24) % 3 == 0) & full):
        assert find_sampling(measured[None]).has_gaps


def test_a_slice_of_zeros_is_an_image_of_zeros(tmp_path: Path) -> None:
    images = head(3)
    images[2] = 0
    with open_volume(scan(tmp_path / "a.h5", images)) as volume:
        found = complex_images(volume).read_complex_image(0, 3)
    assert found[:2].any()
    assert not found[2].any()


def test_the_store_has_complex_images_in_place_of_kspace(tmp_path: Path) -> None:
    path, store = scan(tmp_path / "a.h5", head()), tmp_path / "x.zarr"
    volume = stored(path, store)
    assert volume.array_names == ["complex_image"]
    with open_volume(path) as source:
        expected = complex_images(source).read_complex_image(0, 2)
    np.testing.assert_array_equal(volume.read_complex_image(0, 2), expected)
    np.testing.assert_array_equal(volume.read_image(1, 2), np.abs(expected[1:]))
    with pytest.raises(ValueError, match="holds images, not k-space"):
        volume.read_kspace(0, 1)
    with open_store(store) as opened:
        assert opened.verify() == []


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_complex_nifti_keeps_its_phase(suffix: str, tmp_path: Path) -> None:
    data = random_kspace((9, 8, 5))
    nibabel.save(nibabel.Nifti1Image(data, np.diag([-1.0, -1.0, 3.0, 1.0])), tmp_path / f"i{suffix}")
    volume = stored(tmp_path / f"i{suffix}", tmp_path / "x.zarr", ())  # nothing has to be asked for
    expected = data.transpose(2, 1, 0)
    np.testing.assert_array_equal(volume.read_complex_image(0, 5), expected)
    np.testing.assert_array_equal(volume.read_image(0, 5), np.abs(expected))


def test_complex_nifti_lies_as_its_magnitude_does(tmp_path: Path) -> None:
    data = random_kspace((6, 12, 10)).astype(np.complex128)
    affine = np.array([[0.0, 0.1, 2.0, -3], [-4.0, 0, 0.1, 5], [0.2, 2.0, 0, 7], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(data, affine), tmp_path / "complex.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.abs(data), affine), tmp_path / "magnitude.nii.gz")
    with open_volume(tmp_path / "complex.nii.gz") as volume, open_volume(tmp_path / "magnitude.nii.gz") as plain:
        count = volume.info.num_slices
        assert (volume.info.has_phase, plain.info.has_phase) == (True, False)
        np.testing.assert_allclose(volume.read_image(0, count), plain.read_image(0, count), rtol=1e-6)
        np.testing.assert_array_equal(volume.read_complex_image(2, 3), volume.read_complex_image(0, count)[2:3])


def test_a_reconstruction_has_a_phase_and_magnitudes_have_none(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "r.h5", "w") as file:
        file["reconstruction"] = head()
    np.testing.assert_array_equal(stored(tmp_path / "r.h5", tmp_path / "x.zarr").read_complex_image(0, 2), head())
    np.save(tmp_path / "m.npy", np.abs(head()))
    with open_store(tmp_path / "y.zarr", "a") as opened:
        outcome = _convert_task(str(tmp_path / "m.npy"), "m", opened, ("complex_image",), ReadOptions())
    assert outcome == "holds magnitudes: complex images need k-space, or images with a phase"
    with pytest.raises(ValueError, match="holds no complex image"), open_volume(tmp_path / "m.npy") as volume:
        volume.read_complex_image(0, 1)


@pytest.mark.slow
@pytest.mark.ray
def test_a_conversion_with_and_without_kspace_is_another_conversion(tmp_path: Path) -> None:
    scan(tmp_path / "a.h5", head())
    config = ConvertConfig([str(tmp_path / "a.h5")], str(tmp_path / "x.zarr"), complex_images=True, workers=1)
    assert convert(config, quiet=True).converted == ("a",)
    assert convert(config, quiet=True).skipped == ("a",)
    again = replace(config, complex_images=False, target=True)
    assert convert(again, quiet=True).converted == ("a",)
    assert open_store(config.store).read_volume("a").array_names == ["kspace", "target"]
    with pytest.raises(ValueError, match="leave out smaps and target"):
        convert(replace(again, complex_images=True))


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two volumes with a phase and one of magnitudes."""
    np.savez(tmp_path / "i.npz", a=head(3), b=head(2) * 5, plain=np.abs(head(2)))
    return tmp_path / "i.npz"


MEASURED = DataConfig(images="complex", augment_phase="measured", crop=SIZE, flip=False, rot90=False, quantile=1.0)


@pytest.mark.parametrize("cache_mib", [0, 64])
def test_training_on_the_measured_phase(mixed: Path, cache_mib: int) -> None:
    data = TrainingImages(replace(MEASURED, stores=[str(mixed)], exclude=["plain"], cache_mib=cache_mib), seed=1)
    batch = data.batch(range(10))
    assert batch.shape == (10, 2, SIZE, SIZE)
    images, reference = batch.numpy()[:, 0] + 1j * batch.numpy()[:, 1], np.concatenate([head(3), head(2)]) / 2
    constants = []
    for image in images:
        products = (image * reference.conj()).sum((1, 2)) / (np.abs(reference) ** 2).sum((1, 2))
        which = int(np.argmax(np.abs(products)))
        np.testing.assert_allclose(image, products[which] * reference[which], atol=2e-3)  # float16 in the cache
        constants.append(np.angle(products[which]))
    assert np.std(constants) > 0.5  # no measurement fixes the constant
    assert torch.equal(data.batch(range(10)), TrainingImages(data.config, seed=1).batch(range(10)))
    np.testing.assert_allclose(data.validation_batch(5)[0, 0], reference[0].real, atol=1e-3)


def test_mixing_is_said_and_what_is_missing_is_refused(mixed: Path) -> None:
    config = replace(MEASURED, stores=[str(mixed)])
    with pytest.raises(ValueError, match=r"'measured' and 1 of 3 volumes are magnitudes without a phase \(plain\)"):
        TrainingImages(config)
    as_stored = TrainingImages(replace(config, augment_phase="none"))
    assert as_stored.notes == ("2 of 3 volumes have a measured phase, the others (plain) none: their phase is zero",)
    assert [as_stored.slice(index).dtype.kind for index in (0, 6)] == ["c", "f"]
    with pytest.raises(ValueError, match="use augment_phase 'smooth'"):
        TrainingImages(replace(config, augment_phase="none", include=["plain"]))
    synthetic = TrainingImages(replace(config, augment_phase="smooth"))
    assert synthetic.notes[0].startswith("the measured phase of 2 of 3 volumes is left out")
    magnitudes = torch.linalg.vector_norm(synthetic.batch(range(7)), dim=1)
    plain = TrainingImages(replace(config, augment_phase="none", images="real")).batch(range(7))[:, 0]
    torch.testing.assert_close(magnitudes, plain, atol=2e-3, rtol=0)
    assert TrainingImages(replace(config, augment_phase="smooth", include=["plain"])).notes == ()


def test_zoomed_crops_and_real_parts_of_measured_images(mixed: Path) -> None:
    config = replace(MEASURED, stores=[str(mixed)], exclude=["plain"], crop=16, zoom=(0.5, 0.8), flip=True, rot90=True)
    whole, real = TrainingImages(config), TrainingImages(replace(config, images="real"))
    np.testing.assert_array_equal(whole.batch(range(6))[:, :1], real.batch(range(6)))
    assert float(real.batch(range(20)).min()) < -0.3


def test_a_prior_names_the_complex_volumes_that_it_was_made_from(tmp_path: Path) -> None:
    kspace, _ = simulate_volume(np.abs(head()), np.asarray(birdcage_maps(3, SIZE, SIZE)))
    np.save(tmp_path / "k.npy", kspace)
    stored(tmp_path / "k.npy", tmp_path / "x.zarr")
    (source,) = describe_data(replace(MEASURED, stores=[str(tmp_path / "x.zarr")]))
    assert [(volume.name, volume.num_slices, len(volume.checksum)) for volume in source.train] == [("v", 2, 64)]
