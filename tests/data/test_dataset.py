"""Training images: a pure function of (seed, index), scaled to about 1, split by volume."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrift.data.augment import crop_centre, crop_random, smooth_phase
from kdrift.data.data_config import DataConfig
from kdrift.data.dataset import TrainingImages
from kdrift.data.store import open_store
from kdrift.data.store_write import write_volume
from kdrift.data.volume import Volume, VolumeInfo
from kdrift.runs.config import parse

PLAIN = DataConfig(flip=False, rot90=False, min_foreground=0.0, crop=16)


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of three image volumes, one k-space volume with and one without a reference."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "x.zarr"
    with open_store(path, "a") as store:
        for name, shape in (("p1_T1", (5, 20, 24)), ("p1_T2", (4, 32, 32)), ("p2_T1", (6, 25, 18))):
            images = (1000 * rng.random(shape)).astype(np.float32)
            info = VolumeInfo(name, "image", shape[0], 1, *shape[1:], *shape[1:])
            write_volume(store, name, Volume(name, info, None, lambda a, b, x=images: x[a:b]))
        kspace = rng.standard_normal((2, 1, 24, 20, 2)).view(np.complex128)[..., 0].astype(np.complex64)
        target = rng.random((2, 20, 20), dtype=np.float32)
        for name, has in (("p3_raw", True), ("p4_raw", False)):
            info = VolumeInfo(name, "kspace", 2, 1, 24, 20, 20, 20, has_reference=has)
            load = (lambda a, b: target[a:b]) if has else None
            write_volume(store, name, Volume(name, info, lambda a, b: kspace[a:b], load))
    return str(path)


def test_split_patterns_and_dropped_slices(location: str) -> None:
    config = replace(PLAIN, stores=[location], validation=["p2_*"], exclude=["*_T2"], drop_first=1, drop_last=1)
    train, held = TrainingImages(config), TrainingImages(config, "validation")
    assert [(v.name, v.start, v.stop) for v in train.volumes] == [("p1_T1", 1, 4)]  # p3_raw has 2 slices, both dropped
    assert [(v.name, v.start, v.stop) for v in held.volumes] == [("p2_T1", 1, 5)]
    assert list(train.notes) == []
    more = replace(config, exclude=["*_T2", "patient12*"])
    (note,) = TrainingImages(more).notes
    assert list(TrainingImages(more, "validation").notes) == []
    assert note.startswith("data.exclude: patient12* names none of the volumes, which are p1_T1, p1_T2, p2_T1")
    everything = TrainingImages(replace(PLAIN, stores=[location]))
    assert [v.name for v in everything.volumes] == ["p1_T1", "p1_T2", "p2_T1", "p3_raw"]
    assert len(everything) == 5 + 4 + 6 + 2


def test_an_epoch_shows_every_slice_once(location: str) -> None:
    data = TrainingImages(replace(PLAIN, stores=[location], crop=32), seed=3)
    sums = [float(data.slice(i).sum()) for i in range(len(data))]
    for epoch in range(2):
        shown = [float(data.item(epoch * len(data) + i).sum()) for i in range(len(data))]
        np.testing.assert_allclose(sorted(shown), sorted(sums), rtol=1e-4)
    orders = [tuple(data._permutation(epoch)) for epoch in range(3)]
    assert len(set(orders)) == 3


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=6), st.sampled_from(["none", "sign", "smooth"]))
def test_items_depend_only_on_seed_and_index(location: str, indices: list[int], phase: str) -> None:
    config = DataConfig(stores=[location], crop=16, augment_phase=phase, scale_jitter=(0.7, 1.3))
    batch = TrainingImages(config, seed=1).batch(indices)
    assert batch.shape == (len(indices), 1, 16, 16)
    assert batch.dtype == torch.float32
    other = pickle.loads(pickle.dumps(TrainingImages(config, seed=1)))
    for i in reversed(range(len(indices))):
        assert torch.equal(other.batch([indices[i]])[0], batch[i])
    assert not torch.equal(TrainingImages(config, seed=2).batch(indices), batch)


def test_reading_lazily_gives_the_same_images(location: str) -> None:
    for normalise in ("volume", "slice"):
        config = replace(PLAIN, stores=[location], normalise=normalise)  # type: ignore[arg-type]
        cached, lazy = TrainingImages(config), TrainingImages(replace(config, cache_mib=0))
        torch.testing.assert_close(cached.batch(range(20)), lazy.batch(range(20)), atol=2e-3, rtol=0)
        assert not lazy._cache


def test_scale_is_the_quantile(location: str) -> None:
    by_volume = TrainingImages(replace(PLAIN, stores=[location], include=["p1_T1"], quantile=0.9))
    assert np.quantile([by_volume.slice(i) for i in range(5)], 0.9) == pytest.approx(1, abs=2e-3)
    by_slice = TrainingImages(replace(PLAIN, stores=[location], include=["p1_T1"], quantile=0.9, normalise="slice"))
    for i in range(5):
        assert np.quantile(by_slice.slice(i), 0.9) == pytest.approx(1, abs=2e-3)


def test_array_files_serve_as_stores(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((4, 20, 20), dtype=np.float32)
    np.save(tmp_path / "a.npy", images)
    np.savez(tmp_path / "b.npz", first=images, second=images[:2])
    data = TrainingImages(replace(PLAIN, stores=[str(tmp_path / "a.npy"), str(tmp_path / "b.npz")], quantile=1.0))
    assert [(v.name, v.stop) for v in data.volumes] == [("a", 4), ("first", 4), ("second", 2)]
    np.testing.assert_allclose(data.slice(1), images[1] / images.max(), atol=1e-3)
    np.save(tmp_path / "c.npy", images[0])
    with pytest.raises(ValueError, match="expected real or complex \\(slice, row, col\\)"):
        TrainingImages(replace(PLAIN, stores=[str(tmp_path / "c.npy")]))


def test_validation_batch_is_centred_and_spread(location: str) -> None:
    data = TrainingImages(replace(PLAIN, stores=[location], validation=["p2_*"], crop=30), "validation", seed=0)
    batch = data.validation_batch(3)
    assert torch.equal(batch, TrainingImages(data.config, "validation", seed=9).validation_batch(3))
    np.testing.assert_array_equal(batch[1, 0], crop_centre(data.slice(2), 30))
    with pytest.raises(ValueError, match="the split has 6 slices"):
        data.validation_batch(7)


def test_phase_augmentation_takes_both_signs(location: str) -> None:
    for phase in ("sign", "smooth"):
        data = TrainingImages(replace(PLAIN, stores=[location], augment_phase=phase))  # type: ignore[arg-type]
        batch = data.batch(range(400))
        assert abs(float(batch.mean())) < 0.05
        assert float(batch.min()) < -0.9
    assert float(TrainingImages(replace(PLAIN, stores=[location])).batch(range(50)).min()) >= 0


def test_smooth_phase_passes_through_random_knots_and_is_smooth() -> None:
    rng = np.random.default_rng(0)
    surfaces = np.stack([smooth_phase((40, 56), 0.5, rng) for _ in range(200)]).astype(np.float64)
    centred = surfaces - surfaces.mean(axis=(1, 2), keepdims=True)
    assert 0.2 < centred.std() < 0.6
    assert np.abs(np.diff(surfaces, n=4, axis=1)).max() < 1e-4  # a cubic has no fourth difference
    flat = smooth_phase((8, 8), 0.5, rng, knots=1)
    np.testing.assert_allclose(flat, flat[0, 0])


def test_random_crops_find_the_foreground() -> None:
    image = np.zeros((100, 100), np.float32)
    image[60:90, 60:90] = 1
    rng = np.random.default_rng(0)
    found = [np.mean(crop_random(image, 30, 0.2, rng) > 0) for _ in range(60)]
    plain = [np.mean(crop_random(image, 30, 0.0, rng) > 0) for _ in range(60)]
    assert np.mean(np.array(found) >= 0.2) > np.mean(np.array(plain) >= 0.2) + 0.2
    assert crop_random(image[:10, :9], 30, 0.2, rng).shape == (30, 30)


def test_zoom_shrinks_crops_and_pads_small_images(location: str) -> None:
    data = TrainingImages(replace(PLAIN, stores=[location], zoom=(0.5, 0.5), crop=12))
    batch = data.batch(range(40))
    assert batch.shape == (40, 1, 12, 12)
    plain = TrainingImages(replace(PLAIN, stores=[location], crop=12)).batch(range(40))
    assert float(batch.std()) < float(plain.std())  # white noise is averaged
    assert TrainingImages(replace(PLAIN, stores=[location], zoom=(0.5, 1.0), crop=30)).batch([3]).shape[-1] == 30
    with pytest.raises(ValueError, match="zoom is"):
        DataConfig(zoom=(0.5, 2.0))


def test_bad_configurations_are_named(location: str) -> None:
    with pytest.raises(ValueError, match="did you mean 'validation'"):
        parse(DataConfig, {"validaton": ["a"]})
    for values in ({"crop": 0}, {"quantile": 0.0}, {"scale_jitter": (1.3, 0.7)}, {"drop_first": -1}):
        with pytest.raises(ValueError, match=r"expected|must not"):
            DataConfig(**values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stores is empty"):
        TrainingImages(PLAIN)
    with pytest.raises(ValueError, match=r"no volume for the train split.*p1_T1"):
        TrainingImages(replace(PLAIN, stores=[location], include=["q*"]))


def test_import_brings_neither_zarr_nor_ray() -> None:
    code = "import sys, kdrift.data.dataset; print(sorted({'zarr', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_loader_outruns_training(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((8, 256, 256), dtype=np.float32))
    data = TrainingImages(DataConfig(stores=[str(tmp_path / "a.npy")], crop=128, augment_phase="smooth"))
    data.batch(range(8))
    started = time.process_time()  # of one core, whatever else the machine does
    data.batch(range(100))
    assert 100 / (time.process_time() - started) > 75  # five times the 15 images/s that training consumes
