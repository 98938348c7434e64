"""Images in half precision: what it costs, that nothing overflows, what a store with them promises."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from formats_helpers import random_kspace
from kdrift.cli import main
from kdrift.data.convert import ConvertConfig, convert
from kdrift.data.data_config import DataConfig
from kdrift.data.dataset import TrainingImages
from kdrift.data.half_precision import from_half, is_half, to_half
from kdrift.data.phantom import phantom_volume
from kdrift.data.store import open_store
from kdrift.data.store_write import write_volume
from kdrift.data.volume import BadVolume, Volume, VolumeInfo

SLICES, ROWS, COLS = 3, 40, 32


def images(scale: float = 1.0) -> np.ndarray:
    """Complex images with parts over many decades, the last slice empty."""
    rng = np.random.default_rng(0)
    size = (SLICES, ROWS, COLS, 2)
    parts = rng.standard_normal(size) * 10 ** rng.uniform(-6, 0, size)
    found = np.asarray(scale * parts, dtype=np.float32).view(np.complex64)[..., 0]
    found[-1] = 0
    return found


def volume_of(values: np.ndarray) -> Volume:
    has_phase = np.iscomplexobj(values)
    info = VolumeInfo("v", "image", len(values), 1, *values.shape[1:], *values.shape[1:], has_phase=has_phase)
    if has_phase:
        return Volume("v", info, load_complex_image=lambda start, stop: values[start:stop])
    return Volume("v", info, load_image=lambda start, stop: values[start:stop])


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1.0, 3.7, 65504.0, 1e33])
def test_rounding_costs_the_same_on_any_scale(scale: float) -> None:
    values = images(scale)
    stored, exponents = to_half(values)
    assert stored.shape == (*values.shape, 2)
    assert np.isfinite(stored).all()
    assert exponents[-1] == 0
    found = from_half(stored, exponents)
    assert found.dtype == np.complex64
    assert not found[-1].any()
    relative = np.abs(found - values)[:-1] / np.abs(values[:-1])
    assert relative.max() <= 2.0**-11
    assert np.median(relative) < 2e-4
    np.testing.assert_array_equal(from_half(*to_half(found)), found)  # what was rounded is exact


def test_the_ends_of_the_range() -> None:
    """The largest float32 does not overflow, nor does one that rounding carries over a power of two; next to nothing
    keeps what digits it has."""
    largest = np.finfo(np.float32).max
    for value in (largest / 2, np.float32(2) - np.finfo(np.float32).eps, np.float32(1e-36)):
        values = np.zeros((1, 2, 2), dtype=np.float32)
        values[0, 0, 0] = value
        stored, exponents = to_half(values)
        assert np.isfinite(stored).all()
        np.testing.assert_allclose(from_half(stored, exponents), values, rtol=2.0**-11)


@pytest.mark.parametrize("side", [32, 768])  # in one shard, and a file for each slice
def test_a_store_reads_them_as_complex64(side: int, tmp_path: Path) -> None:
    values = random_kspace((SLICES, side, side)) if side > 32 else images()
    with open_store(tmp_path / "x.zarr", "a") as store:
        size = write_volume(store, "v", volume_of(values), precision="float16")
        assert size == 4 * values.size
        volume = store.read_volume("v")
        assert is_half(volume.attributes)
        found = volume.read_complex_image(0, SLICES)
        assert found.dtype == np.complex64
        np.testing.assert_array_equal(found, from_half(*to_half(values)))
        np.testing.assert_array_equal(volume.read_complex_image(1, 2), found[1:2])
        np.testing.assert_array_equal(volume.read_image(0, 2), np.abs(found[:2]))
        array = store.array("v", "complex_image")
        assert (array.dtype, array.metadata.dimension_names) == (np.float16, ("slice", "row", "col", "part"))
        exponents = store.attributes("v")["arrays"]["complex_image"]["exponent"]
        np.testing.assert_array_equal(np.ldexp(array[0, ..., 0].astype(np.float32), exponents[0]), found[0].real)
        assert store.verify() == []


def test_magnitudes_take_half_as_well(tmp_path: Path) -> None:
    values = np.arange(SLICES * ROWS * COLS, dtype=np.float32).reshape(SLICES, ROWS, COLS)
    with open_store(tmp_path / "x.zarr", "a") as store:
        assert write_volume(store, "v", volume_of(values), precision="float16") == 2 * values.size
        found = store.read_volume("v").read_image(0, SLICES)
    np.testing.assert_array_equal(found[0], values[0])  # whole numbers up to 2048 are exact
    np.testing.assert_allclose(found, values, rtol=2.0**-11)


def test_damage_is_found(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.zarr", "a") as store:
        write_volume(store, "v", volume_of(images()), precision="float16")
        chunk = next(p for p in (tmp_path / "x.zarr" / "v" / "complex_image" / "c").rglob("*") if p.is_file())
        content = bytearray(chunk.read_bytes())
        content[100] ^= 1
        chunk.write_bytes(content)
        (fault,) = store.verify()
        assert fault.endswith("v/complex_image: checksum differs in row 0")
        with pytest.raises(BadVolume, match="slice 0 differs from what was written"):
            store.read_volume("v").read_complex_image(0, 1)
        metadata = tmp_path / "x.zarr" / "v" / "zarr.json"
        values = json.loads(metadata.read_text())
        values["attributes"]["arrays"]["complex_image"]["exponent"][0] += 1
        metadata.write_text(json.dumps(values, indent=2))
        with pytest.raises(BadVolume, match=r"zarr\.json is damaged"):
            store.read_volume("v")


def test_kspace_is_refused(tmp_path: Path) -> None:
    kspace = random_kspace((1, 2, 8, 8))
    info = VolumeInfo("v", "kspace", 1, 2, 8, 8, 8, 8)
    with open_store(tmp_path / "x.zarr", "a") as store:
        with pytest.raises(ValueError, match="precision float16 is for images; store complex images"):
            write_volume(store, "v", Volume("v", info, lambda start, stop: kspace), precision="float16")
        assert store.list_volumes() == []
    with pytest.raises(ValueError, match="leave out smaps and target"):
        convert(ConvertConfig(["absent"], str(tmp_path / "x.zarr"), target=True, precision="float16"))


@pytest.mark.slow
@pytest.mark.ray
def test_the_verb_converts_again_in_another_precision_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with a scan and images: complex images of the scan; and training reads what float32 has, nearly."""
    assert main(["phantom", "--out", str(tmp_path / "scan.h5"), "--size", "48", "--coils", "4", "--slices", "2"]) == 0
    store = str(tmp_path / "half.zarr")
    words = ["convert", str(tmp_path / "scan.h5"), "--store", store, "--complex-images", "--workers", "1", "--quiet"]
    half = [*words, "--precision", "float16"]
    assert main(half) == 0
    assert "1 converted" in capsys.readouterr().out
    assert main(half) == 0
    assert "0 converted, 1 unchanged" in capsys.readouterr().out
    whole = str(tmp_path / "whole.zarr")
    assert main([word if word != store else whole for word in words]) == 0
    assert main(["info", store]) == 0
    assert "precision: float16, with a power of two for each slice" in capsys.readouterr().out
    assert main(["info", f"{store}/scan", "--verify"]) == 0
    told = capsys.readouterr().out
    assert "precision: float16" in told
    config = DataConfig(stores=[store], crop=32, images="complex", augment_phase="measured", cache_mib=0)
    ours = TrainingImages(config).batch(range(6)).numpy()
    theirs = TrainingImages(replace(config, stores=[whole])).batch(range(6)).numpy()
    assert np.abs(ours - theirs).max() < 1e-3 * np.abs(theirs).max()
    assert not np.array_equal(ours, theirs)
    assert main(words) == 0
    assert "1 converted, 0 unchanged" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "scan.h5"), "--store", store, "--precision", "float16", "--quiet"]) == 1
    assert "scan is k-space" in capsys.readouterr().err


def test_an_image_of_a_phantom_loses_less_than_its_noise_by_far() -> None:
    """Median relative error of a complex image, as said in docs/store.md."""
    volume = phantom_volume(1, 64, 64, 4, seed=1)
    image = np.fft.ifft2(volume.kspace[:, 0]).astype(np.complex64)
    error = np.abs(from_half(*to_half(image)) - image)
    assert np.median(error / np.abs(image)) < 2e-4
    assert error.max() < 3e-4 * np.abs(image).max()
