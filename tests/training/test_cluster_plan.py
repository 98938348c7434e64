"""What a training takes on a cluster: by arithmetic on rates that are given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from kdrift.cli import main
from kdrift.data.data_config import DataConfig
from kdrift.data.dataset import TrainingImages
from kdrift.data.store import open_store
from kdrift.data.store_write import write_volume
from kdrift.data.volume import Volume, VolumeInfo
from kdrift.runs.config import load_config
from kdrift.runs.config_names import config_names, find_config
from kdrift.training.cluster_plan import GIB, ClusterSpec, DataSize, Rates, plan_training
from kdrift.training.cost import Cost, training_cost
from kdrift.training.train_config import TrainConfig

COST = Cost(parameters=10_000_000, flop=1e12, activation_bytes=2 * GIB)
CLUSTER = ClusterSpec(nodes=2, gpus=4, cpus=16, gpu_memory_gib=10, price=2.0, rates=Rates(tflops=20.0, scaling=0.5))
CONFIG = TrainConfig(DataConfig(crop=96), batch_size=32, total_images=720_000)
DATA = DataSize(4 * 96**2)


def test_the_figures_follow_from_the_rates() -> None:
    plan = plan_training(CONFIG, COST, CLUSTER, DATA)
    assert plan.workers == 8
    assert plan.limits["GPUs"] == pytest.approx(8 * 0.5 * 20)
    assert plan.limits["CPUs that load"] == pytest.approx(8 * 2849)  # a thread of each worker
    assert plan.limits["storage"] == pytest.approx(500e6 / (4 * 96**2))
    assert (plan.saturates, plan.images_per_second) == ("GPUs", plan.limits["GPUs"])
    assert plan.hours == pytest.approx(720_000 / 80 / 3600)
    assert plan.money == pytest.approx(2.0 * 8 * plan.hours)
    assert plan.images_at_a_time == 4  # bfloat16: 1 GiB an image, 4 images of 32 a GPU
    assert plan.gib_a_gpu == pytest.approx(4 + 20 * 10e6 / GIB)
    assert plan.notes == ()


def test_what_does_not_fit_is_said() -> None:
    wide = replace(CONFIG, batch_size=128)
    assert plan_training(wide, COST, CLUSTER, DATA).notes == (
        "16 images at a time do not fit a GPU: --set hardware.images_at_a_time=9",
    )
    large = plan_training(CONFIG, replace(COST, activation_bytes=30 * GIB), CLUSTER, DATA)
    assert large.images_at_a_time == 0
    assert "one image does not fit a GPU of 10 GiB: it takes 15 GiB" in large.notes[0]
    few = plan_training(replace(CONFIG, batch_size=3), COST, replace(CLUSTER, price=None), DATA)
    assert (few.workers, few.money) == (3, None)
    assert few.notes[0] == "5 GPUs are idle: a batch has 3 images"
    slow = plan_training(CONFIG, COST, replace(CLUSTER, rates=Rates(read_mb=1.0)), DATA)
    assert slow.saturates == "storage"
    with pytest.raises(ValueError, match="rates must be positive"):
        Rates(tflops=0)
    with pytest.raises(ValueError, match="a cluster has nodes"):
        replace(CLUSTER, nodes=0)


def test_stores_say_what_is_read_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half precision halves the bytes; where there is no store yet they are assumed, and that is said."""
    images = np.random.default_rng(0).standard_normal((3, 20, 16, 2), dtype=np.float32).view(np.complex64)[..., 0]
    info = VolumeInfo("v", "image", 3, 1, 20, 16, 20, 16, has_phase=True)
    volume = Volume("v", info, load_complex_image=lambda start, stop: images[start:stop])
    for precision, pixel_bytes in (("float32", 8), ("float16", 4)):
        place = str(tmp_path / f"{precision}.zarr")
        with open_store(place, "a") as store:
            write_volume(store, "v", volume, precision=precision)  # type: ignore[arg-type]
        found = DataSize.of(DataConfig(stores=[place], crop=16, drop_first=1))
        assert (found.slice_bytes, found.num_slices) == (pixel_bytes * 20 * 16, 2)
        assert (found.num_volumes, found.in_memory, found.by_volume) == (1, True, True)
        read = 8 * 2 * found.slice_bytes  # once by each of 8 workers
        assert plan_training(CONFIG, COST, CLUSTER, found).limits["storage"] == pytest.approx(500e6 * 720_000 / read)
        assert main(["plan", "tiny", "--cluster", "h200_64", "--set", f"data.stores=[{place}]"]) == 0
        told = capsys.readouterr().out
        assert "GiB of images" in told
        assert "counted as" not in told
    complex_images = DataConfig(crop=16, images="complex", augment_phase="measured")
    assert DataSize.assumed(complex_images, "float16").slice_bytes == 4 * 16**2
    assert DataSize.assumed(DataConfig(crop=16), "float32").slice_bytes == 4 * 16**2
    absent = ["plan", "tiny", "--cluster", "h200_64", "--set", f"data.stores=[{tmp_path / 'absent.zarr'}]"]
    assert main(absent) == 0
    assert "images are counted as float32 of 64 x 64 (there is no store at" in capsys.readouterr().out
    known = [*absent, "--precision", "float16", "--volumes", "10", "--slices", "300"]
    assert main([*known, "--json"]) == 0
    plan, data = json.loads(capsys.readouterr().out), DataSize(2 * 64**2, 300, 10)
    assert plan["data_gib"] == pytest.approx(300 * 2 * 64**2 / GIB)
    assert plan["limits"]["storage"] == pytest.approx(500e6 * 4000 / replace(data, by_volume=True).read_bytes(4000, 8))
    assert not any("counted as" in note for note in plan["notes"])
    assert main(known[:-2]) == 1
    assert "expected both, or neither" in capsys.readouterr().err
    assert main([*absent, "--volumes", "10"]) == 2


def test_loaders_draw_more_read_more_and_keep_less(tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", **{f"v{i}": np.ones((8, 64, 64), dtype=np.float32) for i in range(4)})  # 256 KiB kept
    data = DataConfig([str(tmp_path / "i.npz")], crop=64, cache_mib=1)
    assert [DataSize.of(data, readers).in_memory for readers in (1, 4, 8)] == [True, True, False]
    assert [DataSize.assumed(data, "float32", 4, 32, readers).in_memory for readers in (1, 4, 8)] == [True, True, False]
    config = load_config(TrainConfig, find_config("train", "tiny"))
    cluster, cost = ClusterSpec(nodes=1, gpus=1, cpus=8, gpu_memory_gib=80), training_cost(config)
    limits = []
    for loaders in (0, 4, 100):
        given = replace(config, hardware=replace(config.hardware, loaders=loaders))
        limits.append(plan_training(given, cost, cluster, DataSize(4 * 96**2, 1000, 10, by_volume=True)).limits)
    assert [round(each["CPUs that load"] / limits[0]["CPUs that load"]) for each in limits] == [1, 4, 7]
    assert limits[1]["storage"] < limits[0]["storage"]


@pytest.mark.parametrize("normalise", ["slice", "volume"])
@pytest.mark.parametrize("cache_mib", [0, 64])
def test_what_is_read_is_what_workers_read(
    normalise: Literal["slice", "volume"], cache_mib: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted where the loader reads, against the expectation: 4 workers share 60 images of 30 volumes of 4 slices."""
    rng, workers, images = np.random.default_rng(0), 4, 60
    np.savez(tmp_path / "i.npz", **{f"v{i}": rng.random((4, 16, 16), dtype=np.float32) for i in range(30)})
    config = DataConfig([str(tmp_path / "i.npz")], crop=16, normalise=normalise, cache_mib=cache_mib)
    slices = list[int]()
    read = TrainingImages._read

    def counted(self: TrainingImages, which: int, start: int, stop: int) -> np.ndarray:
        slices.append(stop - start)
        return read(self, which, start, stop)

    monkeypatch.setattr(TrainingImages, "_read", counted)
    for rank in range(workers):
        TrainingImages(config).batch(range(rank, images, workers))
    size = DataSize.of(config)
    assert (size.slice_bytes, size.in_memory) == (4 * 16**2, cache_mib > 0)
    assert sum(slices) * size.slice_bytes == pytest.approx(size.read_bytes(images, workers), rel=0.1)


@pytest.mark.parametrize("name", config_names("plan"))
def test_clusters_that_come_with_kdrift(name: str) -> None:
    cluster = load_config(ClusterSpec, find_config("plan", name))
    assert f"{cluster.num_gpus}" in name


def test_a_network_that_reconstructs_is_refused() -> None:
    with pytest.raises(ValueError, match="unet reconstructs"):
        training_cost(load_config(TrainConfig, find_config("train", "brain_unet")))


def test_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "tiny", "--cluster", "h200_64", "--cluster-set", "price=4"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "limited by storage" in told  # a tiny network
    assert " USD" in told
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["saturates"] == "storage"
    assert main(["plan", "fastmri_knee_ak", "--cluster", "rtx3090_1"]) == 1
    assert "one image does not fit a GPU of 24 GiB" in capsys.readouterr().out
    assert main(["plan", "tiny", "--cluster", "h200"]) == 1
    assert "h200_64" in capsys.readouterr().err
