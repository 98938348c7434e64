"""MLflow stops in the middle of a training and of a search, and answers again: nothing fails, and no figure is lost."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from kdrift.cli import main
from kdrift.runs import tracking
from kdrift.runs.files import read_json
from kdrift.training import trainer
from kdrift.tuning.search import tune
from mlflow_helpers import Server
from training_helpers import tiny_config, write_images
from tuning_helpers import tiny_search, write_inputs

AWAY_S = float(os.environ.get("KDRIFT_OUTAGE_S", "15"))
"""How long MLflow is away."""
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(max(600, 15 * AWAY_S)),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
IMAGES = 80 * int(3 * AWAY_S)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    made.start()
    yield made
    made.stop()


class Outage:
    """Stops a server once something has begun, and starts it again while that goes on."""

    def __init__(self, server: Server, has_begun: Callable[[], bool]) -> None:
        self._server, self._has_begun, self._over = server, has_begun, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.began = self.seconds = 0.0

    def __enter__(self) -> Outage:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._has_begun():
            if self._over.wait(0.1):
                return
        self._server.stop()
        self.began = time.time()
        self._over.wait(AWAY_S)
        self.seconds = time.time() - self.began
        self._server.start()


def test_training_goes_on_without_mlflow(server: Server, cluster: None, tmp_path: Path) -> None:
    config = tiny_config(
        write_images(tmp_path / "images.npz"), total_images=IMAGES,
        monitoring={"log_every_images": 80, "validate_every_images": IMAGES // 4, "validation_images": 4,
                    "num_samples": 0, "validation_sigmas": [0.1]},
        checkpoint={"every_images": IMAGES // 4, "keep": 2},
    )  # fmt: skip
    out, lines = tmp_path / "out", list[str]()
    with Outage(server, lambda: (read_json(out / "progress.json") or {}).get("images", 0) > IMAGES // 8) as outage:
        result = trainer.train(config, out, tracking_uri=server.uri, echo=lines.append)
    assert outage.seconds > 1, "the training was over before the outage"
    assert result.images == IMAGES
    assert main(["track", str(out)]) == 0  # where MLflow came back after the end
    history = tracking.client(server.uri).get_metric_history(result.run_id, "train/loss")
    ordered = sorted(history, key=lambda point: point.step)
    assert [point.step for point in ordered] == list(range(80, IMAGES + 1, 80))
    paces: dict[bool, list[float]] = {True: [], False: []}
    for before, after in pairwise(point.timestamp / 1000 for point in ordered):
        paces[outage.began < before and after < outage.began + outage.seconds].append(after - before)
    away, there = (statistics.median(paces[which]) for which in (True, False))
    print(f"away {outage.seconds:.0f} s of {result.seconds:.0f}: a step took {away / there:.2f} times as long")
    assert away < 1.3 * there
    assert tracking.client(server.uri).get_run(result.run_id).info.status == "FINISHED"
    assert tracking.client(server.uri).get_model_version_by_alias("tiny", "candidate").run_id == result.run_id


def test_a_search_goes_on_without_mlflow(
    server: Server, cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDRIFT_PRESETS", str(tmp_path / "presets"))
    steps = int(16 * AWAY_S)
    config = tiny_search(*write_inputs(tmp_path), num_trials=8, settings={"num_steps": steps, "spread": 0.0})
    out, lines = tmp_path / "out", list[str]()
    journal = out / "trials.jsonl"
    with Outage(server, lambda: journal.is_file() and '"end"' in journal.read_text()) as outage:
        result = tune(config, out, tracking_uri=server.uri, echo=lines.append)
    assert outage.seconds > 1, "the search was over before the outage"
    assert len(result.trials) == 8
    assert main(["track", str(out)]) == 0
    client = tracking.client(server.uri)
    parent = client.get_run(result.run_id)
    found = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{result.run_id}'")
    assert len(found) == 8
    for trial in result.trials:
        run = next(run for run in found if run.data.params["noise_scale"] == str(trial.settings["noise_scale"]))
        assert len(client.get_metric_history(run.info.run_id, "value")) == len(trial.rows)
    assert parent.info.status == "FINISHED"
