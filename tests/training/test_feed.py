"""What is drawn ahead of the steps of a training."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdrift.data.dataset import TrainingImages
from kdrift.training.feed import drawn_ahead
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


def test_processes_that_draw_end_with_what_they_draw_for(tmp_path: Path) -> None:
    """Also where an error breaks it off, whose traceback keeps all that there was."""
    config = tiny_config(write_images(tmp_path / "images.npz"), total_images=800)
    config = replace(config, hardware=replace(config.hardware, loaders=2))
    data = TrainingImages(config.data, "train", config.seed)
    before = set(multiprocessing.active_children())

    def break_off() -> None:
        with drawn_ahead(config, data, range(2), 0, torch.device("cpu")) as batches:
            next(batches)
            assert len(set(multiprocessing.active_children()) - before) == 2
            raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off") as kept:
        break_off()
    assert kept.tb is not None
    assert set(multiprocessing.active_children()) <= before
