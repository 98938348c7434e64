"""Searches whose output is at a URL: they go on on another machine, and run on nodes that do not see the folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kdrift.tuning.search import tune
from kdrift.tuning.tune_config import TuneConfig
from node_helpers import node_apart
from s3_helpers import Server
from tuning_helpers import tiny_search, write_inputs

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TuneConfig:
    monkeypatch.setenv("KDRIFT_PRESETS", str(tmp_path / "presets"))
    return tiny_search(*write_inputs(tmp_path), num_trials=2)


def journal(server: Server, url: str) -> str:
    return server.read(f"{url}/trials.jsonl").decode()


def test_a_search_goes_on_on_another_machine(
    cluster: None, server: Server, url: str, config: TuneConfig, elsewhere: Callable[[], None]
) -> None:
    first = tune(config, url, echo=lambda line: None, quiet=True)
    before = journal(server, url)
    assert {"annealed.yaml", "trials.csv", "start.yaml", "run.json", "mlflow.db"} < set(server.shown(url))
    elsewhere()
    second = tune(replace(config, num_trials=4), url, resume=True, echo=lambda line: None, quiet=True)
    assert journal(server, url).startswith(before), "what was found is kept, and nothing of it done again"
    assert [trial.number for trial in second.trials] == [1, 2, 3, 4]
    assert second.run_id == first.run_id
    assert len(server.read(f"{url}/trials.csv").splitlines()) == 5


def test_a_search_on_a_node_that_does_not_see_the_working_folder(
    server: Server, url: str, config: TuneConfig, tmp_path: Path
) -> None:
    with node_apart(tmp_path / "cache"):
        result = tune(config, url, echo=lambda line: None, quiet=True)
    assert [trial.is_done for trial in result.trials] == [True, True]
    assert {"annealed.yaml", "trials.csv", "trials.jsonl", "mlflow.db"} < set(server.shown(url))
    assert not [name for name in server.shown(url) if name.startswith("ray/")]
