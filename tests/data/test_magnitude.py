"""Whether images are magnitudes is one rule, whatever the format."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.magnitude import as_magnitudes
from kdrift.data.phantom import phantom_volume
from kdrift.data.volume import ReadOptions


def loaded(images: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    load, notes = as_magnitudes(lambda start, stop: images[start:stop], len(images))
    return load(0, len(images)), notes


def test_unsigned_and_empty_images_stay_as_they_are() -> None:
    images = np.random.default_rng(0).integers(0, 60000, (3, 40, 40)).astype(np.uint16)
    found, notes = loaded(images)
    np.testing.assert_array_equal(found, images)
    assert notes == ()
    empty, notes = loaded(np.zeros((2, 40, 40), np.float32))
    assert not empty.any()
    assert notes == ("it holds nothing but 0 where it was looked at (slices 0, 1 of 2)",)


def test_the_decision_does_not_depend_on_what_is_read_together() -> None:
    images = np.random.default_rng(0).random((9, 20, 20)).astype(np.float32)
    images[8] = 0.001  # a slice of air, with ripples as large as its signal
    images[8, 3, 3] = -0.001
    load, _ = as_magnitudes(lambda start, stop: images[start:stop], 9)
    np.testing.assert_array_equal(load(8, 9), load(0, 9)[8:])
    assert load(8, 9).min() == 0


def test_ripples_at_an_edge_are_read_as_zero() -> None:
    images = np.random.default_rng(0).random((2, 40, 40)).astype(np.float32)
    images[1, 3, 3:8] = -0.08
    found, notes = loaded(images)
    np.testing.assert_array_equal(found, np.maximum(images, 0))
    assert notes == ("negative values down to -0.08, as interpolation leaves them, are read as 0",)
    images[1, 3:8, 3:8] = -0.08
    with pytest.raises(ValueError, match="of the values are negative"):
        loaded(images[1:])


@pytest.mark.parametrize("values", [np.linspace(-1, 1, 400), np.full(400, -3.0), np.linspace(-4096, 4094, 400)])
def test_no_magnitudes(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="which no magnitude is"):
        loaded(values.reshape(1, 20, 20))


def test_other_formats(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(size=(3, 20, 20))
    np.save(tmp_path / "a.npy", scores)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["reconstruction_rss"] = scores
    for name in ("a.npy", "a.h5"):
        with pytest.raises(BadVolume, match=rf"{name}: .*negative, down to -3"):
            open_volume(tmp_path / name)
    with open_volume(tmp_path / "a.h5", ReadOptions({"values": "any"})) as volume:
        np.testing.assert_array_equal(volume.read_image(0, 3), scores.astype(np.float32))


def test_magnitudes_of_kspace_are_doubted(tmp_path: Path) -> None:
    kspace = np.asarray(phantom_volume(2, 48, 40, 4, seed=4).kspace)
    np.save(tmp_path / "a.npy", np.abs(kspace[:, 0]))
    with open_volume(tmp_path / "a.npy") as volume:
        assert any("are these magnitudes of k-space" in note for note in volume.info.notes)
    np.save(tmp_path / "b.npy", np.abs(np.fft.ifft2(kspace[:, 0])))
    with open_volume(tmp_path / "b.npy") as volume:
        assert not volume.info.notes
