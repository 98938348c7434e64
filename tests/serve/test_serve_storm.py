"""Many clients at once while processes die: every job that was accepted ends once, with the library's answer."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from serve_helpers import KEY, MASK, Service, assert_same, client_of, library, phantom_file, plan, running, tiny_prior

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
CLIENTS, REQUESTS, KILLS = 20, 200, 10
PLANS: dict[str, dict[str, Any]] = {
    "annealed": plan(),
    "more": plan(num_samples=8, settings={"num_steps": 12}),
    "tv": plan("tv", settings={"max_iter": 5}),
    "ssos": plan("score_mri_ssos", num_samples=1),
}


@dataclass
class Storm:
    """What clients sent, and what they were told."""

    port: int
    scan: Path
    accepted: dict[str, str] = field(default_factory=dict)
    """By id: which of `PLANS`."""
    cancelled: set[str] = field(default_factory=set)
    """For which that was asked, whatever was answered."""
    answers: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self, number: int) -> None:
        pick = random.Random(number)
        with client_of(self.port, KEY) as http:
            for _ in range(REQUESTS // CLIENTS):
                try:
                    self.ask(http, pick)
                except httpx.TransportError as error:  # a process that answered was killed
                    self.count(type(error).__name__)
                time.sleep(pick.random())

    def ask(self, http: httpx.Client, pick: random.Random) -> None:
        with self.lock:
            known = list(self.accepted)
        what = pick.random()
        if what < 0.4 or not known:
            name = pick.choice(list(PLANS))
            body = {"path": self.scan.name, "plan": PLANS[name], "mask": MASK}
            answer = http.post("/v1/reconstructions", json=body)
            if answer.status_code == 202:
                with self.lock:
                    self.accepted[answer.json()["id"]] = name
        elif what < 0.5:
            job_id = pick.choice(known)
            with self.lock:  # before: an ingress that dies may have done it, and not said so
                self.cancelled.add(job_id)
            answer = http.delete(f"/v1/reconstructions/{job_id}")
        elif what < 0.6:
            answer = http.post("/v1/reconstructions", json={"path": self.scan.name, "plan": {"method": "anneald"}})
        elif what < 0.8:
            answer = http.get(f"/v1/reconstructions/{pick.choice(known)}/result")
        else:
            answer = http.get(f"/v1/reconstructions/{pick.choice(known)}", params={"wait": pick.choice([0, 1, 3])})
        self.count(str(answer.status_code))

    def count(self, what: str) -> None:
        with self.lock:
            self.answers[what] += 1


def kill_some(service: Service, until: threading.Event) -> Counter[str]:
    """Kill replicas, one every few seconds."""
    killed, pick = Counter[str](), random.Random(0)
    names = ["Sampler"] * 6 + ["Ingress"] * 2 + ["Planner"] * 2
    pick.shuffle(names)
    for name in names[:KILLS]:
        if until.wait(4):
            break
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            try:
                pick.choice(service.replicas(name)).send_signal(signal.SIGKILL)
            except (IndexError, psutil.NoSuchProcess):
                time.sleep(0.2)  # the one before is not back yet
            else:
                killed[name] += 1
                break
    return killed


def memory(service: Service) -> dict[str, int]:
    """Private memory of each deployment's largest process, in MiB."""
    found = {}
    for name in ("Ingress", "Planner", "Sampler"):
        sizes = [each.memory_info() for each in service.replicas(name)]
        found[name] = max((size.rss - size.shared) >> 20 for size in sizes)
    return found


def test_every_job_ends_once_whatever_dies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prior, root = tiny_prior(tmp_path / "tiny"), tmp_path / "root"
    root.mkdir()
    scan = phantom_file(root / "scan.h5")
    expected = {name: library(scan, prior, values) for name, values in PLANS.items()}
    args = {
        "priors": {"tiny": str(prior)}, "storage": str(tmp_path / "store"), "roots": [str(root)],
        "samplers": {"replicas": 2, "device": "cpu"}, "limits": {"jobs": 300, "jobs_a_key": 300},
    }  # fmt: skip
    with running(tmp_path / "first", args, key=KEY) as service:
        storm, done = Storm(int(service.client.base_url.port or 0), scan), threading.Event()
        with ThreadPoolExecutor(CLIENTS + 1) as pool:
            killing = pool.submit(kill_some, service, done)
            list(pool.map(storm.client, range(CLIENTS)))
            killed = killing.result()
        service.healthy()
        assert service.stop() == 0, "with work that waits and runs"
    with running(tmp_path / "second", args, key=KEY) as service:
        before = memory(service)
        states = Counter[str]()
        for job_id, name in storm.accepted.items():
            status = service.wait(job_id)
            states[status["state"]] += 1
            if job_id not in storm.cancelled:
                assert status["state"] == "done", status
            assert status["state"] in ("done", "cancelled"), status
            if status["state"] == "done":
                assert_same(service.result(job_id), expected[name])
        after = memory(service)
        assert service.client.get("/v1/health").json()["jobs"] == {"running": 0, "queued": 0}
    left = [path for path in (tmp_path / "store").glob("*/*") if path.name in ("scan", "slices")]
    assert not left
    with capsys.disabled():
        print(f"\n{dict(storm.answers)}; killed {dict(killed)}; jobs {dict(states)}; MiB {before} -> {after}")
    assert sum(killed.values()) == KILLS
    assert not [code for code in storm.answers if code.startswith("5") and code not in ("503",)]
    assert all(after[name] < 1.5 * before[name] for name in ("Ingress", "Planner"))
