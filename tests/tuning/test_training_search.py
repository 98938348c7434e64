"""Searches of a training's settings: what may be searched, what a trial is, and a search on a real Ray."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdrift.cli import main
from kdrift.prior.bundle import load_prior
from kdrift.runs import tracking
from kdrift.runs.config import load_config, parse, to_dict
from kdrift.runs.files import read_json
from kdrift.training.train_config import TrainConfig
from kdrift.tuning.journal import Journal
from kdrift.tuning.load import load_search
from kdrift.tuning.search import TuneResult, tune
from kdrift.tuning.training_config import MOST_NOISE_LEFT, TrainingSearchConfig
from kdrift.tuning.training_search import TrainingSubject, train_briefly
from kdrift.tuning.tune_config import TuneConfig
from reconstructor_helpers import SMALL
from training_helpers import tiny_config, write_images

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


def search_of(images: Path, /, **changes: Any) -> TrainingSearchConfig:
    """Return a search whose start learns little."""
    train = to_dict(tiny_config(images, total_images=640))
    train["optimisation"]["learning_rate"] = 1e-4
    values: dict[str, Any] = {
        "name": "tiny-search",
        "train": train,
        "space": {
            "optimisation.learning_rate": {"low": 1e-6, "high": 1e-2, "log": True},
            "network.ncsnpp.nf": {"choices": [8, 16]},
        },
        "budget_images": 256,
        "num_reports": 4,
        "num_trials": 6,
        "reduction_factor": 4.0,
        "cpus_per_trial": 0.9,
    }
    return parse(TrainingSearchConfig, {**values, **changes})


def rows_of(config: TrainingSearchConfig, **settings: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    named = {name.replace("__", "."): value for name, value in settings.items()}
    train_briefly(config, named, CPU, found.append)
    return found


def test_mistakes_are_named(images: Path) -> None:
    train = to_dict(tiny_config(images))
    blind = {**train, "data": {**train["data"], "validation": []}}
    attenuated = {**train, "data": {**train["data"], "images": "complex", "augment_phase": "smooth"},
                  "network": {**train["network"], "ncsnpp": {**train["network"]["ncsnpp"], "channels": 2}},
                  "noise": {**train["noise"], "kind": "attenuated"}}  # fmt: skip
    some = {"low": 1, "high": 2}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"space": {"optimisation.learning_rat": some}}, "did you mean 'optimisation.learning_rate'"),
        ({"space": {"data.crop": some}}, "data.crop decides what trials are judged on"),
        ({"space": {"total_images": some}}, "total_images decides .* how long they are"),
        ({"space": {"monitoring.validation_images": some}}, "decides what trials are judged on"),
        ({"train": attenuated, "space": {"noise.sigma_max": some}}, "decides what trials are judged on"),
        ({"space": {}}, "space is empty"),
        ({"space": {"batch_size": {"low": 0, "high": 8, "integer": True}}}, "space: batch_size 0: .* be positive"),
        (
            {"space": {"noise.sigma_min": {"low": 1, "high": 30}}},
            "space: noise.sigma_min 30.0: .*sigma_min < sigma_max",
        ),
        ({"train": blind}, "name them in train.data.validation"),
        ({"objective": "psnr"}, "architecture ncsnpp is judged by noise_left"),
        ({"num_reports": 400}, "num_reports <= budget_images"),
        ({"grace_reports": 5}, "grace_reports <= num_reports"),
        ({"method": "annealed"}, "unknown key 'method'"),
        ({"train": {**train, "batch_siz": 4}}, "unknown key 'train.batch_siz', did you mean 'batch_size'"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            search_of(images, **changes)
    lost = search_of(images, train={**train, "data": {**train["data"], "validation": ["v7"]}})
    with pytest.raises(ValueError, match="no volume for the validation split"):
        lost.subject(images.parent)


def test_the_kind_of_a_search_is_seen_in_its_file(images: Path, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(to_dict(search_of(images))))
    assert load_search(tmp_path / "a.yaml") == search_of(images)
    changed = load_search(tmp_path / "a.yaml", ["train.batch_size=4", "budget_images=512"])
    assert isinstance(changed, TrainingSearchConfig)
    assert (changed.train.batch_size, changed.budget_images) == (4, 512)
    (tmp_path / "b.yaml").write_text("method: tv\nspace: {weight: {low: 1, high: 2}}\ndata: {sources: [x.h5]}\n")
    assert isinstance(load_search(tmp_path / "b.yaml"), TuneConfig)


def test_the_start_is_the_training_moved_into_the_space(images: Path, tmp_path: Path) -> None:
    space = {
        "optimisation.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "network.ncsnpp.nf": {"choices": [16, 32]},  # it has 8: drawn
        "batch_size": {"low": 2, "high": 16, "integer": True},
        "optimisation.schedule": {"choices": ["constant", "cosine"]},
        "init_from": {"choices": [None]},
    }
    subject = TrainingSubject(search_of(images, space=space), tmp_path)
    expected = {"optimisation.learning_rate": 1e-4, "batch_size": 8, "optimisation.schedule": "constant"}
    assert subject.start == {**expected, "init_from": None}
    assert (subject.length, subject.grace) == (256, 64)


def test_a_trial_is_a_short_training_judged_on_held_out_images(images: Path) -> None:
    config = search_of(images)
    poor = rows_of(config)
    better = rows_of(config, optimisation__learning_rate=3e-3)
    for rows in (poor, better):
        assert [row["images"] for row in rows] == [64, 128, 192, 256]
        assert all(row["value"] == row["noise_left"] for row in rows)
        assert all(row["diverged"] == 0 and row["loss"] > 0 for row in rows)
        assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    assert better[-1]["value"] < 0.8 * poor[-1]["value"]
    assert poor == [{**row, "seconds": before["seconds"]} for row, before in zip(rows_of(config), poor, strict=True)]
    other = replace(config, budget_images=250, train=replace(config.train, batch_size=16))
    assert [row["images"] for row in rows_of(other)] == [64, 128, 192, 256], "whole batches, to the end of the budget"


def test_noise_left_is_the_geometric_mean_over_levels(images: Path) -> None:
    config = search_of(images)
    together = rows_of(config)[-1]["value"]
    monitoring = config.train.monitoring
    apart = [
        rows_of(replace(config, train=replace(config.train, monitoring=replace(monitoring, validation_sigmas=(each,)))))
        for each in monitoring.validation_sigmas
    ]
    assert together == pytest.approx(math.sqrt(apart[0][-1]["value"] * apart[1][-1]["value"]), rel=1e-6)


def test_a_training_that_diverges_says_so_and_is_worst(images: Path) -> None:
    config = search_of(images)
    broken = replace(config, train=replace(config.train, noise=replace(config.train.noise, log_sigma_mean=200.0)))
    rows = rows_of(broken)
    assert rows[-1]["diverged"] == 1.0
    assert rows[-1]["value"] == MOST_NOISE_LEFT
    assert rows[-1]["images"] == config.budget_images


def test_a_network_that_reconstructs_is_judged_by_its_images(images: Path) -> None:
    train = to_dict(tiny_config(
        images, data={"stores": [str(images)], "validation": ["v2"], "crop": 24, "images": "complex",
                      "augment_phase": "smooth"},
        network=to_dict(SMALL["unet"]), measurement={"masks": [{"kind": "random"}], "num_coils": [2, 4]},
    ))  # fmt: skip
    config = search_of(images, train=train, objective="psnr", budget_images=64,
                       space={"measurement.loss": {"choices": ["ssim", "l1"]}})  # fmt: skip
    rows = rows_of(config, measurement__loss="l1")
    assert [row["value"] for row in rows] == [row["psnr"] for row in rows]
    assert config.higher_is_better
    with pytest.raises(ValueError, match="decides what trials are judged on"):
        search_of(images, train=train, objective="psnr", space={"measurement.snr_db": {"choices": [1.0]}})


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_search_finds_a_training_that_kdrift_train_takes(cluster: None, images: Path, tmp_path: Path) -> None:
    config, out, lines = search_of(images), tmp_path / "out", list[str]()
    result: TuneResult[TrainConfig] = tune(replace(config, num_trials=4), out, echo=lines.append, quiet=True)
    journal = (out / "trials.jsonl").read_text()
    result = tune(config, out, resume=True, echo=lines.append, quiet=True)
    assert (out / "trials.jsonl").read_text().startswith(journal), (
        "what was found is kept, and nothing of it done again"
    )
    first, best = result.trials[0], result.best
    assert [trial.number for trial in result.trials] == [1, 2, 3, 4, 5, 6]
    assert first.settings == {"optimisation.learning_rate": 1e-4, "network.ncsnpp.nf": 8}
    assert best.value < 0.8 * first.value
    assert {trial.state for trial in result.trials} == {"complete", "stopped"}
    for trial in result.trials:
        assert (trial.rows[-1]["images"] >= config.budget_images) == (trial.state == "complete")
    assert any("search tiny-search: 6 trials of 256 images, by noise_left" in line for line in lines)
    assert any("trial 1: noise_left" in line and "optimisation.learning_rate 0.0001" in line for line in lines)

    client = tracking.client(result.tracking_uri)
    children = read_json(out / "mlflow" / "runs.json")
    for trial in result.trials:
        run = client.get_run(children[trial.key])
        assert run.data.tags["mlflow.parentRunId"] == result.run_id
        assert float(run.data.params["optimisation.learning_rate"]) == trial.settings["optimisation.learning_rate"]
        history = client.get_metric_history(children[trial.key], "noise_left")
        assert sorted(point.step for point in history) == [row["images"] for row in trial.rows]
    curve = client.get_metric_history(result.run_id, f"best_{config.measure}")
    assert min(point.value for point in curve) == best.value
    assert {"train.yaml", "trials.csv"} <= {item.path for item in client.list_artifacts(result.run_id)}

    path = out / "train.yaml"
    assert result.written == [path]
    assert path.read_text().startswith("# Found by the search tiny-search of kdrift tune")
    found = load_config(TrainConfig, path)
    assert found == result.winner
    assert found.total_images == config.train.total_images == 640
    assert found.optimisation.learning_rate == best.settings["optimisation.learning_rate"]
    assert found.network.ncsnpp.nf == best.settings["network.ncsnpp.nf"]
    assert replace(found, optimisation=config.train.optimisation, network=config.train.network) == config.train
    command = ["train", "--config", str(path), "--out", str(tmp_path / "run"), "--quiet", "--set", "total_images=64"]
    assert main(command) == 0
    assert load_prior(tmp_path / "run" / "prior").network is not None
    assert Journal(out / "trials.jsonl").trials[1] == first
