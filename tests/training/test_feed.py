"""What is drawn ahead of the steps of a training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from kdrift.data.dataset import TrainingImages
from kdrift.training.loop import Hooks, fit, new_state
from training_helpers import tiny_config, write_images


def test_processes_that_draw_draw_the_same(tmp_path: Path) -> None:
    """From the middle of a run too, as where it is resumed."""
    config = tiny_config(write_images(tmp_path / "images.npz"), total_images=24, hardware={"precision": "float32"})
    states = []
    for loaders in (0, 2):
        one = replace(config, hardware=replace(config.hardware, loaders=loaders))
        state = new_state(one, torch.device("cpu"))
        state.images = one.batch_size
        fit(one, state, TrainingImages(one.data, "train", one.seed), Hooks(), device=torch.device("cpu"))
        states.append(state.network.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
