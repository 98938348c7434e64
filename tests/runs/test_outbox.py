"""What MLflow is told while it is away: a real server that is stopped and started again."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdrift.cli import main
from kdrift.runs import outbox as outbox_module
from kdrift.runs import tracking
from kdrift.runs.outbox import Outbox, send_left
from kdrift.runs.run_folder import run_folder, tracked_run
from mlflow_helpers import Server

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that runs, also after a test that stopped it."""
    made = Server(tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "PATIENCE_S", 1.0)


def steps(uri: str, run_id: str) -> list[tuple[int, float]]:
    history = tracking.client(uri).get_metric_history(run_id, "loss")
    return sorted((point.step, point.value) for point in history)


def test_an_outage_stops_nothing_and_loses_nothing(server: Server, tmp_path: Path) -> None:
    """Figures, a child and a file that were given while the server was away are there afterwards, with their times."""
    out, lines = tmp_path / "out", list[str]()
    known = {"what": "run", "name": "away", "tracking_uri": server.uri, "echo": lines.append}
    with run_folder(out, {"a": 1}, what="run"), tracked_run(out, {"a": 1}, **known) as run:  # type: ignore[arg-type]
        run.outbox.metrics({"loss": 1.0}, 1)
        server.stop()
        began, wall = time.monotonic(), time.time()
        for step in (2, 3):
            run.outbox.metrics({"loss": 1.0 / step}, step)
        run.outbox.create("trial-1", "away-001", {"x": 0.5}, out / "artifacts")
        run.outbox.metrics({"loss": 7.0}, 1, "trial-1")
        run.outbox.finish("FINISHED", key="trial-1")
        run.outbox.file(out / "config.yaml", "later")
        assert time.monotonic() - began < 1
        time.sleep(2)
        server.start()
    assert [line for line in lines if "does not answer" in line]
    assert [line for line in lines if "answers again" in line]
    assert not list((out / "mlflow").glob("*.jsonl"))
    client = tracking.client(server.uri)
    assert steps(server.uri, run.run_id) == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    late = [point for point in client.get_metric_history(run.run_id, "loss") if point.step == 2]
    assert late[0].timestamp / 1000 == pytest.approx(wall, abs=1)
    experiment = client.get_run(run.run_id).info.experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run.run_id}'")
    assert [(child.data.params, child.data.metrics, child.info.status) for child in children] == [
        ({"x": "0.5"}, {"loss": 7.0}, "FINISHED")
    ]
    assert [item.path for item in client.list_artifacts(run.run_id, "later")] == ["later/config.yaml"]
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_what_a_run_could_not_send_is_sent_afterwards(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, lines = tmp_path / "out", list[str]()
    known = {"what": "run", "name": "late", "tracking_uri": server.uri, "echo": lines.append}
    with run_folder(out, {"a": 1}, what="run"), tracked_run(out, {"a": 1}, **known) as run:  # type: ignore[arg-type]
        server.stop()
        run.outbox.metrics({"loss": 2.0}, 5)
    assert f"kdrift track {out} sends them" in lines[-1]
    assert main(["track", str(out)]) == 1
    assert "entries are kept for later" in capsys.readouterr().out
    with run_folder(out, {"a": 1}, what="run"), tracked_run(out, {"a": 1}, **known) as again:  # type: ignore[arg-type]
        again.outbox.metrics({"loss": 1.0}, 6)
    server.start()
    assert main(["track", str(out)]) == 0
    assert "knows everything" in capsys.readouterr().out
    assert steps(server.uri, run.run_id) == [(5, 2.0), (6, 1.0)]
    assert tracking.client(server.uri).get_run(run.run_id).info.status == "FINISHED"
    assert main(["track", str(tmp_path)]) == 1


def test_a_new_run_needs_an_mlflow_that_answers(tmp_path: Path) -> None:
    known = {"what": "run", "name": "n", "tracking_uri": "http://127.0.0.1:9"}
    with (
        run_folder(tmp_path, {}, what="run"),
        pytest.raises(OSError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer .* leave the tracking URI out"),
        tracked_run(tmp_path, {}, **known),  # type: ignore[arg-type]
    ):
        pass


def test_what_mlflow_refuses_is_said_and_left_out(tmp_path: Path) -> None:
    uri, lines = tracking.default_uri(tmp_path), list[str]()
    run_id = tracking.start_run(uri, "run", {}, tmp_path / "artifacts")
    box = Outbox(tmp_path / "mlflow", uri, run_id, echo=lines.append)
    box.metrics({"no:such/name?*": 1.0}, 1)
    box.file(tmp_path / "absent.txt")
    box.metrics({"loss": 1.0}, 2)
    assert box.close() == 0
    assert len(lines) == 2
    assert "refused metrics" in lines[0]
    assert f"refused file {tmp_path / 'absent.txt'}" in lines[1]
    assert steps(uri, run_id) == [(2, 1.0)]


def test_entries_of_a_process_that_died_are_sent_once(tmp_path: Path) -> None:
    """A file of an outbox whose process was killed in the middle of a line, after it had sent the first entry."""
    uri = tracking.default_uri(tmp_path)
    run_id = tracking.start_run(uri, "run", {}, tmp_path / "artifacts")
    folder = tmp_path / "mlflow"
    code = (
        "import os, sys, time; from pathlib import Path; from kdrift.runs.outbox import Outbox\n"
        f"box = Outbox(Path({str(folder)!r}), {uri!r}, {run_id!r})\n"
        "box.metrics({'loss': 1.0}, 1)\n"
        "while not list(box._folder.glob('*.sent')): time.sleep(0.05)\n"
        "box._send = lambda entry: time.sleep(1000)\n"
        "box.metrics({'loss': 2.0}, 2)\n"
        "box._path.open('a').write('{\"what\": \"metr')\n"
        "os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert len(list(folder.glob("*.jsonl"))) == 1
    assert send_left(folder, uri, run_id) == 0
    assert steps(uri, run_id) == [(1, 1.0), (2, 2.0)]
    assert not list(folder.glob("*.jsonl"))
