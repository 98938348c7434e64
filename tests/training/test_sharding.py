"""Weights spread over workers: the steps are those of one worker, and checkpoints those of any."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdrift.data.dataset import TrainingImages
from kdrift.prior.bundle import load_prior
from kdrift.runs.config import to_dict
from kdrift.runs.files import write_yaml
from kdrift.training.checkpoint import load_checkpoint
from kdrift.training.checkpoint_writer import host_copy
from kdrift.training.loop import Hooks, fit, new_state
from kdrift.training.train_config import TrainConfig
from kdrift.training.trainer import train
from reconstructor_helpers import SMALL
from training_helpers import tiny_config, write_images

CPU = torch.device("cpu")
WORKER = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from kdrift.data.dataset import TrainingImages
from kdrift.runs.config import load_config
from kdrift.training.checkpoint import load_newest, save_checkpoint
from kdrift.training.checkpoint_writer import host_copy
from kdrift.training.loop import Hooks, fit, new_state
from kdrift.training.objectives import held_out_images
from kdrift.training.sharding import give_parts, shard
from kdrift.training.train_config import TrainConfig

folder, rank, world, total = Path(sys.argv[1]), *map(int, sys.argv[2:])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet{world}_{total}", rank=rank, world_size=world)
config, device = load_config(TrainConfig, folder / "config.yaml", [f"total_images={total}"]), torch.device("cpu")
state = new_state(config, device)
found = load_newest(folder / "checkpoints", print)
if found is not None:
    state.load_state_dict(found[1])
shard(state, device)
own = sum(each.to_local().numel() for each in state.network.parameters() if isinstance(each, DTensor))
print("part", own / sum(each.numel() for each in state.network.parameters()), flush=True)

def checkpoint(state):
    if rank:
        give_parts(state.state_dict())
    else:
        content = {**host_copy(state.state_dict()), "metrics": dict(figures)}
        save_checkpoint(folder / "checkpoints", content, images=state.images, keep=9)

figures = {}
hooks = Hooks(metrics=lambda images, values: figures.update(values), checkpoint=checkpoint)
data = TrainingImages(config.data, "train", config.seed)
fit(config, state, data, hooks, validation=held_out_images(config), device=device, rank=rank, world_size=world)
dist.destroy_process_group()
"""


def trained(folder: Path, world: int, total: int) -> list[float]:
    """Train on so many workers to so many images, from the newest checkpoint; return the part that each worker had."""
    command, environment = [sys.executable, "-c", WORKER, str(folder)], {**os.environ, "OMP_NUM_THREADS": "1"}
    given: dict[str, Any] = {"env": environment, "stdout": subprocess.PIPE, "text": True}
    ranks = [subprocess.Popen([*command, str(rank), str(world), str(total)], **given) for rank in range(world)]
    said = [each.communicate(timeout=300)[0] for each in ranks]
    assert [each.returncode for each in ranks] == [0] * world
    return [float(line.split()[1]) for text in said for line in text.splitlines() if line.startswith("part")]


def sharded(config: TrainConfig, folder: Path) -> TrainConfig:
    config = replace(config, hardware=replace(config.hardware, sharding="full", precision="float32"))
    write_yaml(folder / "config.yaml", to_dict(config))
    return config


def flat(value: Any, where: str = "") -> dict[str, Any]:
    if isinstance(value, (dict, list, tuple)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for name, each in pairs for k, v in flat(each, f"{where}/{name}").items()}
    return {where: value}


def check_equal(found: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    ours, theirs = flat(found), flat(expected)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert type(ours[name]) is torch.Tensor
            assert torch.allclose(ours[name], value, rtol=tolerance, atol=tolerance), name
        else:
            assert ours[name] == value, name


@pytest.mark.slow
@pytest.mark.parametrize("at_a_time", [None, 3])
def test_steps_checkpoints_and_average_are_those_of_one_worker(tmp_path: Path, at_a_time: int | None) -> None:
    config = tiny_config(write_images(tmp_path / "images.npz"), hardware={"images_at_a_time": at_a_time})
    config = sharded(replace(config, total_images=48), tmp_path)
    alone, kept = new_state(config, CPU), dict[int, dict[str, Any]]()
    hooks = Hooks(checkpoint=lambda state: kept.update({state.images: host_copy(state.state_dict())}))
    fit(config, alone, TrainingImages(config.data, "train", config.seed), hooks, device=CPU)
    parts = trained(tmp_path, 2, 32)
    assert sum(parts) == pytest.approx(1, abs=0.02)
    assert max(parts) < 0.6
    for images in (16, 32):
        content = load_checkpoint(tmp_path / "checkpoints" / f"images_{images:012d}")
        figures = content.pop("metrics")
        check_equal(content, kept[images], 2e-5)
    assert figures["validation/noise_left_sigma_1"] > 0
    trained(tmp_path, 3, 48)  # on another number of workers
    content = load_checkpoint(tmp_path / "checkpoints" / "images_000000000048")
    del content["metrics"]
    check_equal(content, kept[48], 1e-4)
    later = new_state(config, CPU)  # and on one, whose weights are whole
    later.load_state_dict(load_checkpoint(tmp_path / "checkpoints" / "images_000000000032"))
    fit(config, later, TrainingImages(config.data, "train", config.seed), Hooks(), device=CPU)
    check_equal(host_copy(later.state_dict()), kept[48], 1e-4)


@pytest.mark.parametrize("name", ["varnet", pytest.param("dudornet", marks=pytest.mark.slow)])
def test_networks_of_nested_lists_are_spread_too(name: str, tmp_path: Path) -> None:
    images = str(write_images(tmp_path / "images.npz"))
    config = tiny_config(
        Path(images), network=to_dict(SMALL[name]), measurement={"masks": [{"kind": "random"}], "num_coils": [2, 4]},
        data={"stores": [images], "validation": ["v2"], "crop": 24, "images": "complex", "augment_phase": "smooth"},
    )  # fmt: skip
    config = sharded(replace(config, total_images=16), tmp_path)
    alone = new_state(config, CPU)
    fit(config, alone, TrainingImages(config.data, "train", config.seed), Hooks(), device=CPU)
    trained(tmp_path, 2, 16)
    content = load_checkpoint(tmp_path / "checkpoints" / "images_000000000016")
    del content["metrics"]
    check_equal(content, host_copy(alone.state_dict()), 1e-4)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_sharded_training_on_ray_leaves_the_same_prior(cluster: None, tmp_path: Path) -> None:
    config = sharded(tiny_config(write_images(tmp_path / "images.npz")), tmp_path)
    alone = new_state(config, CPU)
    fit(config, alone, TrainingImages(config.data, "train", config.seed), Hooks(), device=CPU)
    lines = list[str]()
    train(replace(config, total_images=32), tmp_path / "out", workers=2, echo=lines.append, quiet=True)
    result = train(config, tmp_path / "out", workers=1, resume=True, echo=lines.append, quiet=True)
    assert result.images == 64
    prior = load_prior(result.prior)
    expected = alone.ema.state_dict()
    assert prior.network.state_dict().keys() == expected.keys()
    for name, value in prior.network.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4)


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images.npz")
    with pytest.raises(ValueError, match=r"sharding full takes no hardware\.compile"):
        tiny_config(images, hardware={"sharding": "full", "compile": True})
