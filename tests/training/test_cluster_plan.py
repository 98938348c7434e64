"""What a training takes on a cluster: by arithmetic on rates that are given."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from kdrift.cli import main
from kdrift.data.data_config import DataConfig
from kdrift.runs.config import load_config
from kdrift.runs.config_names import config_names, find_config
from kdrift.training.cluster_plan import GIB, ClusterSpec, Rates, plan_training
from kdrift.training.cost import Cost, training_cost
from kdrift.training.train_config import TrainConfig

COST = Cost(parameters=10_000_000, flop=1e12, activation_bytes=2 * GIB)
CLUSTER = ClusterSpec(nodes=2, gpus=4, cpus=16, gpu_memory_gib=10, price=2.0, rates=Rates(tflops=20.0, scaling=0.5))
CONFIG = TrainConfig(DataConfig(crop=96), batch_size=32, total_images=720_000)


def test_the_figures_follow_from_the_rates() -> None:
    plan = plan_training(CONFIG, COST, CLUSTER)
    assert plan.workers == 8
    assert plan.limits["GPUs"] == pytest.approx(8 * 0.5 * 20)
    assert plan.limits["CPUs that load"] == pytest.approx((32 - 8) * 2849)
    assert plan.limits["storage"] == pytest.approx(500e6 / (4 * 96**2))
    assert (plan.saturates, plan.images_per_second) == ("GPUs", plan.limits["GPUs"])
    assert plan.hours == pytest.approx(720_000 / 80 / 3600)
    assert plan.money == pytest.approx(2.0 * 8 * plan.hours)
    assert plan.images_at_a_time == 4  # bfloat16: 1 GiB an image, 4 images of 32 a GPU
    assert plan.gib_a_gpu == pytest.approx(4 + 20 * 10e6 / GIB)
    assert plan.notes == ()


def test_what_does_not_fit_is_said() -> None:
    wide = replace(CONFIG, batch_size=128)
    assert plan_training(wide, COST, CLUSTER).notes == (
        "16 images at a time do not fit a GPU: --set hardware.images_at_a_time=9",
    )
    large = plan_training(CONFIG, replace(COST, activation_bytes=30 * GIB), CLUSTER)
    assert large.images_at_a_time == 0
    assert "one image does not fit a GPU of 10 GiB: it takes 15 GiB" in large.notes[0]
    few = plan_training(replace(CONFIG, batch_size=3), COST, replace(CLUSTER, price=None))
    assert (few.workers, few.money) == (3, None)
    assert few.notes[0] == "5 GPUs are idle: a batch has 3 images"
    slow = plan_training(CONFIG, COST, replace(CLUSTER, rates=Rates(read_mb=1.0)))
    assert slow.saturates == "storage"
    with pytest.raises(ValueError, match="rates must be positive"):
        Rates(tflops=0)
    with pytest.raises(ValueError, match="a cluster has nodes"):
        replace(CLUSTER, nodes=0)


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
