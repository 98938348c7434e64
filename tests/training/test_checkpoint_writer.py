"""Checkpoints are written while the training goes on, hold the state of their moment, and lose no error."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdrift.data.dataset import TrainingImages
from kdrift.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from kdrift.training.checkpoint_writer import CheckpointWriter, host_copy
from kdrift.training.loop import Hooks, TrainState, fit, new_state
from training_helpers import tiny_config, write_images

CPU = torch.device("cpu")


def test_the_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    """Writing waits for two steps more, which would be for ever if the training waited for it."""
    config = tiny_config(write_images(tmp_path / "images.npz"), total_images=80)
    config = replace(config, checkpoint=replace(config.checkpoint, every_images=32))
    state, data = new_state(config, CPU), TrainingImages(config.data, "train", config.seed)
    further, thread = threading.Event(), threading.get_ident()

    def write(content: dict[str, Any], images: int) -> None:
        assert threading.get_ident() != thread
        assert further.wait(30), "the training waited for its checkpoint"
        save_checkpoint(tmp_path / "behind", content, images=images, keep=9)

    def checkpoint(state: TrainState) -> None:
        save_checkpoint(tmp_path / "at_once", state.state_dict(), images=state.images, keep=9)
        writer.submit(state.state_dict(), state.images)

    def progress(images: int, *_: float) -> None:
        if images == 48:
            further.set()

    with CheckpointWriter(write) as writer:
        fit(config, state, data, Hooks(progress=progress, checkpoint=checkpoint), device=CPU)
    names = [path.name for path in list_checkpoints(tmp_path / "behind")]
    assert names == [f"images_{count:012d}" for count in (32, 64, 80)]
    for name in names:
        expected = flat(load_checkpoint(tmp_path / "at_once" / name))
        found = flat(load_checkpoint(tmp_path / "behind" / name))
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            assert torch.equal(value, found[key]) if isinstance(value, torch.Tensor) else value == found[key], key


def flat(value: Any, where: str = "") -> dict[str, Any]:
    if isinstance(value, (dict, list, tuple)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for name, each in pairs for k, v in flat(each, f"{where}/{name}").items()}
    return {where: value}


def test_one_checkpoint_at_a_time() -> None:
    running, most, done = [0], [0], list[int]()

    def write(content: dict[str, Any], images: int) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        threading.Event().wait(0.05)
        running[0] -= 1
        done.append(images)

    with CheckpointWriter(write) as writer:
        for images in range(5):
            writer.submit({}, images)
            assert done[:images] == list(range(images)), "the one before is whole before the next is copied"
    assert (most, done) == ([1], [0, 1, 2, 3, 4])


@pytest.mark.parametrize("noticed", ["check", "submit", "wait", "end"])
def test_what_writing_meets_is_raised_in_the_training(noticed: str) -> None:
    def write(content: dict[str, Any], images: int) -> None:
        failed.set()
        raise OSError("no space left on device")

    def training() -> None:
        with CheckpointWriter(write) as writer:
            writer.submit({}, 1)
            assert failed.wait(30)
            while noticed == "check":
                writer.check()
            reached.append("a step")
            if noticed == "submit":
                writer.submit({}, 2)
            elif noticed == "wait":
                writer.wait()
            reached.append("the last step")

    failed, reached = threading.Event(), list[str]()
    with pytest.raises(OSError, match="no space left"):
        training()
    assert reached == {"check": [], "end": ["a step", "the last step"]}.get(noticed, ["a step"])


def test_a_copy_shares_nothing_and_keeps_its_form() -> None:
    weight = torch.rand(4, 3, 2, 2).to(memory_format=torch.channels_last).requires_grad_()  # type: ignore[call-overload]
    state = {"network": {"w": weight}, "groups": [{"step": torch.tensor(1.0)}, 3], "betas": (0.9, 0.99)}
    copied = host_copy(state)
    assert torch.equal(copied["network"]["w"], weight)
    assert copied["network"]["w"].is_contiguous(memory_format=torch.channels_last)
    assert not copied["network"]["w"].requires_grad
    with torch.no_grad():
        weight.zero_()
    state["groups"].append(4)
    assert copied["network"]["w"].abs().sum() > 0
    assert copied["groups"][1:] == [3]
    assert copied["betas"] == (0.9, 0.99)
