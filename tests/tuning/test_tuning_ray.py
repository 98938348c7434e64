"""Searches on a real local Ray cluster with a real MLflow store: their results, killed workers and drivers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdrift.cli import main
from kdrift.methods.presets import Preset, find_preset, read_preset
from kdrift.runs import tracking
from kdrift.runs.config import to_dict
from kdrift.runs.files import read_json
from kdrift.tuning.journal import Journal
from kdrift.tuning.search import TuneResult, tune
from kdrift.tuning.tune_config import TuneConfig
from tuning_helpers import tiny_search, write_inputs

# MLflow, Optuna and Ray call deprecated parts of their own dependencies
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
Inputs = tuple[Path, Path]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(autouse=True)
def own_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDRIFT_PRESETS", str(tmp_path / "presets"))
    return tmp_path / "presets"


@dataclass(frozen=True)
class Searched:
    """A search by PSNR with one worker killed."""

    config: TuneConfig
    result: TuneResult[Preset]
    out: Path
    killed: list[int]
    lines: list[str]


def events(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a journal."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.is_file() else []


def kill_worker(journal: Path, killed: list[int], give_up: threading.Event) -> None:
    """Kill the worker of the first trial that has reported once, with SIGKILL."""
    while not give_up.wait(0.02):
        for event in events(journal):
            if event["event"] == "report":
                killed.append(event["number"])
                os.kill(event["row"]["pid"], signal.SIGKILL)
                return


@pytest.fixture(scope="module")
def searched(cluster: None, inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    folder = tmp_path_factory.mktemp("searched")
    # the start nearly ignores the data
    (folder / "start.yaml").write_text("method: annealed\nname: poor\nsettings: {noise_scale: 2000.0}\n")
    config = tiny_search(*inputs, num_trials=8, preset=str(folder / "start.yaml"), cpus_per_trial=0.9,
                         settings={"num_steps": 8, "spread": 0.0})  # fmt: skip
    killed: list[int] = []
    lines: list[str] = []
    give_up = threading.Event()
    out = folder / "out"
    killer = threading.Thread(target=kill_worker, args=(out / "trials.jsonl", killed, give_up))
    killer.start()
    before = os.environ.get("KDRIFT_PRESETS")
    os.environ["KDRIFT_PRESETS"] = str(folder / "presets")
    try:
        result = tune(config, out, echo=lines.append)
    finally:
        give_up.set()
        killer.join()
        os.environ["KDRIFT_PRESETS"] = before or ""
    return Searched(config, result, out, killed, lines)


def test_search_is_better_than_its_start_and_stops_some(searched: Searched) -> None:
    trials = searched.result.trials
    assert [trial.number for trial in trials] == list(range(1, 9))
    assert trials[0].settings["noise_scale"] == 2000.0
    assert searched.result.best.value > trials[0].value + 3
    states = [trial.state for trial in trials]
    assert set(states) == {"complete", "stopped"}
    assert all(len(trial.rows) == 4 for trial in trials if trial.state == "complete")
    assert all(len(trial.rows) < 4 for trial in trials if trial.state == "stopped")
    assert searched.result.best.value == max(trial.value for trial in trials if trial.state == "complete")
    curve = tracking.client(searched.result.tracking_uri).get_metric_history(searched.result.run_id, "best_psnr")
    values = [point.value for point in sorted(curve, key=lambda point: point.step)]
    assert values == sorted(values)
    assert (max(point.step for point in curve), values[-1]) == (8, searched.result.best.value)
    best = rf"8/8 trials  100\.0 %  [0-9.]+ trials/(s|min)  0:00:00 left  best psnr {searched.result.best.value:.5g}"
    assert any(re.fullmatch(best, line) for line in searched.lines), searched.lines
    assert any(re.match(r"trial 1: psnr [0-9.]+.*noise_scale 2000", line) for line in searched.lines)


def test_a_killed_worker_is_replaced(searched: Searched) -> None:
    assert searched.killed
    starts = [event["number"] for event in events(searched.out / "trials.jsonl") if event["event"] == "start"]
    assert len(starts) == len(set(starts)) + 1
    assert any("starts again" in line for line in searched.lines)


def test_one_parent_run_with_a_child_for_each_trial(searched: Searched) -> None:
    client = tracking.client(searched.result.tracking_uri)
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    runs = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    parent = runs.pop(searched.result.run_id)
    assert parent.info.status == "FINISHED"
    assert (parent.data.tags["kind"], {run.data.tags["kind"] for run in runs.values()}) == ("search", {"trial"})
    assert f"| best: trial {searched.result.best.number} |" in parent.data.tags["mlflow.note.content"]
    (data,) = parent.inputs.dataset_inputs
    assert (data.dataset.name, data.tags[0].value) == ("phantom.h5", "search")
    assert parent.data.params["space.noise_scale.high"] == "3000.0"
    assert parent.data.metrics["best_psnr"] == searched.result.best.value
    assert len(runs) == 8
    children = read_json(searched.out / "mlflow" / "runs.json")
    for trial in searched.result.trials:
        child = runs[children[trial.key]]
        assert child.data.tags["mlflow.parentRunId"] == searched.result.run_id
        assert child.info.status == "FINISHED"
        assert ("stopped" in child.data.tags) == (trial.state == "stopped")
        assert float(child.data.params["noise_scale"]) == trial.settings["noise_scale"]
        history = client.get_metric_history(child.info.run_id, "value")
        assert {point.step for point in history} == set(range(1, len(trial.rows) + 1))
    files = {item.path for item in client.list_artifacts(searched.result.run_id)}
    assert {"config.yaml", "annealed.yaml", "trials.csv"} <= files


def test_the_winner_is_a_preset_with_its_provenance(searched: Searched) -> None:
    mine, copy = searched.result.written
    assert mine.parts[-3:] == ("presets", "annealed", f"{searched.config.name}.yaml")
    assert copy == searched.out / "annealed.yaml"
    assert mine.read_text() == copy.read_text()
    preset = read_preset(mine, "annealed")
    assert preset == searched.result.winner
    assert preset.settings["noise_scale"] == searched.result.best.settings["noise_scale"]
    assert preset.settings["num_steps"] == 8
    found = preset.provenance
    assert found["data"]["volumes"] == {"phantom": [0, 1, 2, 3]}
    assert found["data"]["mask"]["kind"] == "random"
    assert found["data"]["simulated"] is True
    assert found["figures"]["psnr"] == searched.result.best.value > found["started_from"]["figures"]["psnr"]
    assert found["search"]["space"]["prior_sigma"] == {"low": 0.1, "high": 1.0}
    assert found["started_from"]["preset"] == "poor"
    assert len(found["prior"]["sha256"]) == 64
    assert str(searched.out.parent) not in mine.read_text()
    assert "/" not in yaml.safe_dump(found)


def test_a_folder_holds_one_search_and_a_finished_one_resumes_to_itself(searched: Searched, own_presets: Path) -> None:
    with pytest.raises(ValueError, match="already holds a search: pass --resume"):
        tune(searched.config, searched.out)
    with pytest.raises(ValueError, match="seed was 0 and is now 4"):
        tune(replace(searched.config, seed=4), searched.out, resume=True)
    again = tune(searched.config, searched.out, resume=True, echo=lambda line: None)
    assert again.run_id == searched.result.run_id
    assert again.trials == searched.result.trials
    assert find_preset("annealed", searched.config.name).settings == again.winner.settings
    assert find_preset("annealed").name == "tuned"  # until it is chosen
    with pytest.raises(ValueError, match="a trial needs 64 CPU, the Ray cluster has 2"):
        tune(replace(searched.config, num_trials=9, cpus_per_trial=64.0), searched.out, resume=True)


@pytest.mark.slow
def test_front_without_a_reference(cluster: None, inputs: Inputs, own_presets: Path, tmp_path: Path) -> None:
    space = {
        "num_steps": {"low": 2, "high": 16, "log": True, "integer": True},
        "noise_scale": {"low": 0.5, "high": 9.0},
    }
    config = tiny_search(
        *inputs, objective="heldout", pareto=True, space=space, settings={"spread": 0.0}, num_trials=4, num_samples=2
    )
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    assert main(["tune", "--config", str(path), "--out", str(tmp_path / "out"), "--name", "front"]) == 0
    trials = Journal(tmp_path / "out/trials.jsonl").trials
    assert all(trial.state == "complete" for trial in trials.values())
    front = json.loads((tmp_path / "out/front.json").read_text())
    assert front
    pairs = [(row["seconds"], row["heldout"]) for row in front]
    assert pairs == sorted(pairs)
    assert [error for _, error in pairs] == sorted((error for _, error in pairs), reverse=True)
    assert len((tmp_path / "out/front.csv").read_text().splitlines()) == len(front) + 1
    assert (tmp_path / "out/front.png").read_bytes().startswith(b"\x89PNG")
    preset = find_preset("annealed", "front")
    assert preset.provenance["figures"]["heldout"] == min(trial.value for trial in trials.values())
    assert preset.provenance["search"]["heldout_fraction"] == 0.2


@pytest.mark.slow
def test_a_classical_method_is_tuned_as_any_other(
    cluster: None, inputs: Inputs, own_presets: Path, tmp_path: Path
) -> None:
    """Its weight is searched, becomes a preset, and a reconstruction by that name says all its options."""
    space = {"weight": {"low": 1e-5, "high": 0.03, "log": True}}
    config = tiny_search(*inputs, method="tv", settings={"max_iter": 10}, space=space, prior=None, num_trials=3)
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    assert main(["tune", "--config", str(path), "--out", str(tmp_path / "out"), "--name", "mine"]) == 0
    trials = Journal(tmp_path / "out/trials.jsonl").trials.values()
    assert len({trial.value for trial in trials}) == 3  # the weight is used
    arguments = ["--method", "tv", "--preset", "mine", "--slices", "1", "--mask", "random", "--acceleration", "2"]
    assert main(["reconstruct", str(inputs[1]), *arguments, "--out", str(tmp_path / "r")]) == 0
    found = json.loads((tmp_path / "r/metrics.json").read_text())["config"]
    assert found["options"] == find_preset("tv", "mine").settings
    assert (found["options"]["max_iter"], found["preset_source"]) == (10, "your preset")


@pytest.mark.slow
def test_a_killed_driver_is_resumed(cluster: None, inputs: Inputs, own_presets: Path, tmp_path: Path) -> None:
    """SIGKILL of the driver after some trials: the rest runs once, in the same parent run."""
    config = tiny_search(*inputs, num_trials=6, settings={"num_steps": 8, "spread": 0.0})
    path, out = tmp_path / "search.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(to_dict(config)))
    command = [sys.executable, "-m", "kdrift", "tune", "--config", str(path), "--out", str(out)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_ADDRESS")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as driver:
        give_up = time.monotonic() + 300
        while sum(event["event"] == "end" for event in events(out / "trials.jsonl")) < 2:
            assert driver.poll() is None, driver.stderr and driver.stderr.read()
            assert time.monotonic() < give_up
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
    before = Journal(out / "trials.jsonl").trials
    run = json.loads((out / "run.json").read_text())
    tracking.start_run(run["tracking_uri"], "tiny-007", {}, out / "artifacts", parent=run["run_id"])  # not yet noted
    done = {number: trial for number, trial in before.items() if trial.is_done}
    children = read_json(out / "mlflow" / "runs.json")
    assert 2 <= len(done) < 6
    assert not own_presets.exists()
    result = tune(config, out, resume=True, echo=lambda line: None)
    assert result.run_id == run["run_id"]
    assert [trial.number for trial in result.trials] == list(range(1, 7))
    assert {number: trial for number, trial in Journal(out / "trials.jsonl").trials.items() if number in done} == done
    for number, trial in before.items():  # what was under way ran again, as itself
        assert result.trials[number - 1].settings == trial.settings
    assert len({json.dumps(trial.settings) for trial in result.trials}) == 6
    assert children.items() <= read_json(out / "mlflow" / "runs.json").items()
    client = tracking.client(result.tracking_uri)
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 7
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert find_preset("annealed", config.name) == result.winner


@pytest.mark.slow
def test_a_large_cluster_does_not_draw_all_trials_at_once(cluster: None, inputs: Inputs, tmp_path: Path) -> None:
    """There is room for 20 at once, and two run."""
    config = tiny_search(*inputs, num_trials=8, cpus_per_trial=0.1, settings={"num_steps": 60, "spread": 0.0})
    assert config.most_at_once == 2
    tune(config, tmp_path / "out", echo=lambda line: None)
    running, most = set[int](), 0
    for event in events(tmp_path / "out" / "trials.jsonl"):
        if event["event"] == "start":
            running.add(event["number"])
        elif event["event"] == "end":
            running.discard(event["number"])
        most = max(most, len(running))
    assert most == 2
    with pytest.raises(ValueError, match="trials_at_once must be null or at least 1, got 0"):
        replace(config, trials_at_once=0)
