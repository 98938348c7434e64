"""What a service needs goes away and comes back: a sentence meanwhile, and it goes on by itself afterwards."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from postgres_helpers import postgres
from serve_helpers import KEY, MASK, Service, assert_same, library, phantom_file, plan, running, tiny_prior

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
LONG = plan(num_samples=8, settings={"num_steps": 150})


@contextmanager
def disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of its own, so small that it can be filled."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here: that needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def told(answer: httpx.Response, status: int, *words: str) -> None:
    """The answer is a problem with a sentence that has these words."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    detail = answer.json()["detail"]
    assert all(word in detail for word in words), detail


def fill(ballast: Path) -> None:
    """Fill the disk to the last byte."""
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 8, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass


def again(service: Service, volume: Path, prior: Path) -> None:
    """Without a hand: a job is taken within seconds and has the library's answer."""
    limit = time.monotonic() + 20
    while (answer := service.submit(volume, plan=plan(), mask=MASK)).status_code != 202:
        assert time.monotonic() < limit, answer.text
        time.sleep(0.5)
    assert_same(service.result(answer.json()["id"]), library(volume, prior, plan()))


def test_disk_storage_and_database_go_and_come_back(tmp_path: Path) -> None:
    prior, volume = tiny_prior(tmp_path / "tiny"), phantom_file(tmp_path / "volume.h5", 3)
    with disk(tmp_path / "disk", 32) as small, postgres() as server:
        store = small / "store"
        args = {
            "priors": {"tiny": str(prior)}, "storage": str(store), "database": server.url,
            "samplers": {"device": "cpu"},
        }  # fmt: skip
        with running(tmp_path / "service", args, key=KEY) as service:
            again(service, volume, prior)

            ballast = small / "ballast"
            fill(ballast)
            before = set(store.iterdir())
            told(service.submit(volume, plan=plan(), mask=MASK), 507, "disk", "full")
            assert service.client.get("/v1/health").status_code == 200
            assert set(store.iterdir()) == before
            ballast.unlink()
            again(service, volume, prior)

            runs = service.accepted(volume, plan=LONG, mask=MASK)
            service.sampling(runs)
            fill(ballast)
            held = service.wait(runs, lambda status: status["progress"] and status["progress"]["waits_for"])
            assert held["progress"]["waits_for"] == "the disk of the service is full"
            ballast.unlink()
            assert_same(service.result(runs), library(volume, prior, LONG))

            done = service.accepted(volume, plan=plan(), mask=MASK)
            kept = service.result(done)
            store.rename(small / "elsewhere")
            told(service.submit(volume, plan=plan(), mask=MASK), 503, "storage")
            told(service.client.get(f"/v1/reconstructions/{done}/result"), 503, "storage")
            told(service.client.get("/v1/ready"), 503, "storage")
            assert service.client.get("/v1/health").status_code == 200
            assert not store.exists(), "a new one would hide what the old one has"
            (small / "elsewhere").rename(store)
            again(service, volume, prior)
            assert service.result(done) == kept

            runs = service.accepted(volume, plan=LONG, mask=MASK)
            waits = service.accepted(volume, plan=plan(), mask=MASK)
            service.sampling(runs)
            server.stop()
            told(service.client.get(f"/v1/reconstructions/{runs}"), 503, "the table of jobs does not answer")
            told(service.submit(volume, plan=plan(), mask=MASK), 503, "the table of jobs does not answer")
            told(service.client.get("/v1/ready"), 503, "the table of jobs does not answer")
            assert service.client.get("/v1/health").status_code == 200
            time.sleep(15)  # longer than a service may be silent before others take its jobs
            server.start()
            again(service, volume, prior)
            assert_same(service.result(runs), library(volume, prior, LONG))
            assert_same(service.result(waits), library(volume, prior, plan()))
            assert not list((store / "incoming").iterdir())
