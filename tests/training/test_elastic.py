"""An elastic run goes on with fewer nodes and with more: one run, each image once, equal steps."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdrift.data.dataset import TrainingImages
from kdrift.runs import tracking
from kdrift.runs.files import read_json
from kdrift.training import trainer
from kdrift.training.checkpoint import load_checkpoint
from kdrift.training.loop import Hooks, fit, new_state
from node_helpers import two_nodes
from training_helpers import tiny_config, write_images

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

IMAGES = 14400


def wait_for(path: Path, images: int, workers: int, over: threading.Event, seconds: float = 240) -> None:
    """Wait until so many workers train and have come beyond `images`, or the run is over."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not over.is_set():
        values = read_json(path)
        if values and len(values["workers"]) == workers and values["images"] > images:
            return
        time.sleep(0.2)
    raise TimeoutError(f"no {workers} workers beyond image {images}: {read_json(path)}")


def test_two_workers_become_one_and_two_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "RESIZE_S", 3.0)
    config = tiny_config(
        write_images(tmp_path / "images.npz"), total_images=IMAGES, batch_size=9,
        monitoring={"log_every_images": 450, "validate_every_images": IMAGES, "validation_images": 4, "num_samples": 0,
                    "validation_sigmas": [0.1]},
        checkpoint={"every_images": 450, "keep": 200}, hardware={"precision": "float32", "cpus": 1},
        optimisation={"learning_rate": 1e-4, "warmup_images": 180, "ema_halflife_images": 180},
    )  # fmt: skip
    out, lines, seen = tmp_path / "out", list[str](), list[int]()
    with two_nodes() as (nodes, second):

        def disturb() -> None:
            wait_for(out / "progress.json", 1000, workers=2, over=over)
            nodes.remove(second)
            wait_for(out / "progress.json", 200, workers=1, over=over)
            seen.append(read_json(out / "progress.json")["images"])
            nodes.start()
            wait_for(out / "progress.json", seen[0] + 200, workers=2, over=over)
            seen.append(read_json(out / "progress.json")["images"])

        over = threading.Event()
        disturber = threading.Thread(target=disturb)
        disturber.start()
        try:
            result = trainer.train(config, out, workers=(1, 2), echo=lines.append)
        finally:
            over.set()
            disturber.join()
    assert result.images == IMAGES
    assert len(seen) == 2, "the run was over before its cluster had lost a node and got one"
    assert sum("training goes on from image" in line for line in lines) == 2
    assert [line for line in lines if "there is room for 2 workers" in line]
    assert [line for line in lines if "a worker was lost" in line and "with 1 worker(s)" in line]
    client = tracking.client(result.tracking_uri)
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    assert len(client.search_runs([experiment.experiment_id])) == 1
    history = client.get_metric_history(result.run_id, "train/loss")
    assert sorted({point.step for point in history}) == list(range(450, IMAGES + 1, 450))
    replayed: dict[int, float] = {}
    for point in history:  # what was trained again, on another number of workers, has the same loss again
        assert point.value == pytest.approx(replayed.setdefault(point.step, point.value), rel=1e-2)
    one = new_state(config, torch.device("cpu"))
    data = TrainingImages(config.data, "train", config.seed)
    fit(replace(config, total_images=900), one, data, Hooks(), device=torch.device("cpu"))
    saved = load_checkpoint(out / "checkpoints" / "images_000000000900")["network"]
    for name, value in one.network.state_dict().items():  # of shares of 4 and 5 images
        torch.testing.assert_close(saved[name], value, rtol=2e-3, atol=2e-3)
