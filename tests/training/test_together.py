"""Workers share validation and sample images: the figures are those of one worker, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdrift.runs.config import to_dict
from kdrift.runs.files import write_yaml
from kdrift.training.together import together
from reconstructor_helpers import SMALL
from training_helpers import tiny_config, write_images

WORKER = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
import yaml
from kdrift.data.dataset import TrainingImages
from kdrift.runs.config import load_config
from kdrift.training.loop import new_state
from kdrift.training.objectives import objective_of
from kdrift.training.together import from_first
from kdrift.training.train_config import TrainConfig

folder, rank, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
if world > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet{world}", rank=rank, world_size=world)
config, device = load_config(TrainConfig, folder / "config.yaml"), torch.device("cpu")
images = TrainingImages(config.data, "validation", config.seed).validation_batch(6) if rank == 0 else None
images = from_first(images, device)
calls = []
network = new_state(config, device).ema
network.register_forward_hook(lambda *_: calls.append(1))
found = objective_of(config).validate(network, images, device)
counted = len(calls)
sheets = objective_of(config).sheets(network, images, device)
torch.save({"figures": found, "sheets": sheets, "calls": counted}, folder / f"{world}_{rank}.pt")
if world > 1:
    dist.destroy_process_group()
"""

CHANGES: dict[str, Callable[[str], dict[str, Any]]] = {
    "score": lambda images: {},
    "reconstructor": lambda images: {
        "data": {"stores": [images], "validation": ["v2"], "crop": 24, "images": "complex", "augment_phase": "smooth"},
        "network": to_dict(SMALL["unet"]),
        "measurement": {"masks": [{"kind": "random"}], "num_coils": [2, 4]},
    },
}


def measured(folder: Path, world: int) -> list[dict[str, Any]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, str(folder)]
    ranks = [subprocess.Popen([*command, str(rank), str(world)], env=environment) for rank in range(world)]
    assert [each.wait(timeout=120) for each in ranks] == [0] * world
    return [torch.load(folder / f"{world}_{rank}.pt") for rank in range(world)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["score", "reconstructor"])
def test_figures_do_not_depend_on_the_number_of_workers(kind: str, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images.npz")
    write_yaml(tmp_path / "config.yaml", to_dict(tiny_config(images, **CHANGES[kind](str(images)))))
    (alone,) = measured(tmp_path, 1)
    for world in (2, 3):
        ranks = measured(tmp_path, world)
        for found in ranks:
            assert found["figures"] == alone["figures"]
            assert found["sheets"].keys() == alone["sheets"].keys()
            for name, (images, columns) in alone["sheets"].items():
                assert columns == found["sheets"][name][1]
                torch.testing.assert_close(found["sheets"][name][0], images, rtol=0, atol=2e-2)
        calls = [found["calls"] for found in ranks]
        assert sum(calls) == alone["calls"], "each is measured once"
        assert max(calls) - min(calls) <= 1


def test_alone_all_of_it_is_done_here() -> None:
    found = together(3, (2,), lambda numbers: torch.tensor([[n, 10.0 * n] for n in numbers]), torch.device("cpu"))
    assert found.tolist() == [[0, 0], [1, 10], [2, 20]]
