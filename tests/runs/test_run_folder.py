"""The folder of a run: one driver at a time, one configuration, one MLflow run in a real SQLite store."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from kdrift.runs import tracking
from kdrift.runs.files import read_json
from kdrift.runs.run_folder import run_folder, tracked_run


def test_a_folder_continues_only_what_began_in_it(tmp_path: Path) -> None:
    settings = {"plan": {"seed": 0, "settings": {}}, "pool": {"actors": 2}, "methods": {"a": {"weight": 1}}}
    known = {"what": "batch", "free": ("pool",), "tables": ("methods",)}
    with (
        run_folder(tmp_path, settings, **known),
        pytest.raises(ValueError, match=r"another batch is writing to .*; wait for it to end"),
        run_folder(tmp_path, settings, **known),
    ):
        pass
    with run_folder(tmp_path, settings | {"pool": {"actors": 9}}, **known):
        assert yaml.safe_load((tmp_path / "config.yaml").read_text())["pool"] == {"actors": 9}
    with run_folder(tmp_path, settings | {"methods": {"a": {"weight": 1}, "b": {}}}, **known):
        pass
    heavier = settings | {"methods": {"a": {"weight": 2}}}
    refused = pytest.raises(ValueError, match=r"methods\.a\.weight was 1 and is now 2")
    with refused, run_folder(tmp_path, heavier, **known):
        pass
    fewer = settings | {"plan": {"seed": 0, "settings": {"num_steps": 3}}}
    refused = pytest.raises(ValueError, match=r"num_steps was None and is now 3; restore it or choose another --out")
    with refused, run_folder(tmp_path, fewer, what="batch", free=("pool",)):
        pass
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["plan"]["settings"] == {}
    refused = pytest.raises(ValueError, match="already holds a batch: pass --resume to continue it, or another --out")
    with refused, run_folder(tmp_path, settings, **known, resume=False):
        pass


@dataclass(frozen=True)
class Settings:
    seed: int
    newer: int = 5


def test_options_newer_than_a_run_take_their_defaults(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    refused = pytest.raises(ValueError, match="newer was 5 and is now 6")
    with refused, run_folder(tmp_path, {"seed": 1, "newer": 6}, what="run", kind=Settings):
        pass
    with run_folder(tmp_path, {"seed": 1, "newer": 5}, what="run", kind=Settings):
        pass
    (tmp_path / "config.yaml").write_text("seed: 1\nolder: 1\n")
    refused = pytest.raises(ValueError, match=r"config\.yaml: unknown key 'older'")
    with refused, run_folder(tmp_path, {"seed": 1, "newer": 5}, what="run", kind=Settings):
        pass


def test_the_kernel_frees_a_folder_whose_driver_was_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from kdrift.runs.run_folder import run_folder\n"
        "with run_folder(Path(sys.argv[1]), {}, what='run'): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path]).returncode == -9
    with run_folder(tmp_path, {}, what="run"):
        pass


def status(out: Path) -> tuple[str, str | None]:
    run = read_json(out / "run.json")
    found = tracking.client(run["tracking_uri"]).get_run(run["run_id"])
    return found.info.status, found.data.tags.get("stopped")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own dependencies
def test_one_mlflow_run_from_its_begin_to_its_end(tmp_path: Path) -> None:
    settings = {"seed": 1}
    known = {"what": "run", "name": "mine", "tracking_uri": None}
    with run_folder(tmp_path, settings, what="run"):
        with pytest.raises(OSError, match="broken"), tracked_run(tmp_path, settings, **known) as first:
            raise OSError("broken")
        assert status(tmp_path) == ("FAILED", "broken")
        with pytest.raises(KeyboardInterrupt), tracked_run(tmp_path, settings, **known):
            raise KeyboardInterrupt
        assert status(tmp_path) == ("KILLED", "interrupted")
        with tracked_run(tmp_path, settings, **known) as run:
            assert run.run_id == first.run_id
            assert status(tmp_path) == ("RUNNING", None)
            run.fault = "2 volumes failed"
        assert status(tmp_path) == ("FAILED", "2 volumes failed")
        with tracked_run(tmp_path, settings, **known):
            pass
        assert status(tmp_path) == ("FINISHED", None)
        elsewhere = pytest.raises(ValueError, match=r"the run in .* is tracked at sqlite:.*, got sqlite:///other\.db")
        with elsewhere, tracked_run(tmp_path, settings, **{**known, "tracking_uri": "sqlite:///other.db"}):
            pass
    files = [file.path for file in tracking.client(run.uri).list_artifacts(run.run_id)]
    assert files == ["config.yaml"]
