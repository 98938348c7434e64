"""Two services on one storage and one table: each has its jobs, and goes on with those of the other when that dies."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from postgres_helpers import postgres
from serve_helpers import KEY, MASK, Service, assert_same, library, phantom_file, plan, running, start, tiny_prior

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def killed(service: Service) -> None:
    """End a service and all its processes, as a machine does that loses its power."""
    processes = [psutil.Process(service.process.pid), *psutil.Process(service.process.pid).children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    service.process.wait(30)
    service.client.close()


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_service_goes_on_with_the_jobs_of_another_that_died(tmp_path: Path, database: str) -> None:
    prior, volume = tiny_prior(tmp_path / "tiny"), phantom_file(tmp_path / "volume.h5", 3)
    args = {"priors": {"tiny": str(prior)}, "storage": str(tmp_path / "store"), "samplers": {"device": "cpu"}}
    if database == "sqlite":
        shared(tmp_path, args, volume, prior)
    else:
        with postgres() as server:
            shared(tmp_path, {**args, "database": server.url}, volume, prior)


def shared(folder: Path, args: dict[str, object], volume: Path, prior: Path) -> None:
    long = plan(num_samples=8, settings={"num_steps": 120})
    first = start(folder / "first", args, key=KEY)
    try:
        other = {**args, "priors": {"renamed": str(prior)}}  # the same weights under another name
        with running(folder / "second", other, key=KEY) as second:
            started = first.accepted(volume, plan=long, mask=MASK)
            waiting = first.accepted(volume, plan=plan(), mask=MASK)
            first.wait(started, lambda status: (status["progress"] or {}).get("slices_done") == 1)
            assert second.status(waiting)["state"] == "queued", "it is not the second's, which could begin"
            quick = second.accepted(volume, plan=plan(), mask=MASK)
            assert_same(second.result(quick), library(volume, prior, plan()))
            assert first.status(quick)["state"] == "done", "either tells of all"
            killed(first)
            began = time.monotonic()
            assert second.client.get(f"/v1/reconstructions/{started}").status_code == 200
            assert_same(second.result(started), library(volume, prior, long))
            assert_same(second.result(waiting), library(volume, prior, plan()))
            assert time.monotonic() - began < 100
            status = second.status(started)
            assert status["progress"] is None
            assert status["notes"] == second.status(waiting)["notes"]
            store = folder / "store"
            assert not [path for path in store.glob("*/*") if path.name in ("scan", "slices")]
            assert not list((store / "incoming").iterdir())
            assert set(os.listdir(store)) >= {started, waiting, quick}
    finally:
        if first.process.poll() is None:
            killed(first)


def test_a_restart_goes_on_with_what_waited_and_ran(tmp_path: Path) -> None:
    prior, volume = tiny_prior(tmp_path / "tiny"), phantom_file(tmp_path / "volume.h5", 3)
    args = {"priors": {"tiny": str(prior)}, "storage": str(tmp_path / "store"), "samplers": {"device": "cpu"}}
    long = plan(num_samples=8, settings={"num_steps": 120})
    with running(tmp_path / "first", args, key=KEY) as service:
        started = service.accepted(volume, plan=long, mask=MASK)
        waiting = service.accepted(volume, plan=plan(), mask=MASK)
        service.wait(started, lambda status: (status["progress"] or {}).get("slices_done") == 1)
        assert service.stop() == 0
    with running(tmp_path / "second", args, key=KEY) as service:
        assert_same(service.result(started), library(volume, prior, long))
        assert_same(service.result(waiting), library(volume, prior, plan()))
        progress = service.status(started)["report"]
        assert progress["slices"] == [0, 1, 2]
