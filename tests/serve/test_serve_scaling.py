"""Equal requests share calls of samplers, and samplers come and go with the work: the answers stay the library's."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from serve_helpers import KEY, MASK, Service, assert_same, free_port, library, phantom_file, plan, running, tiny_prior

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
WAIT_S = 180.0
SHARED = 3e-5
"""Of the largest value: how far chains in batches of another size are apart."""


def until(service: Service, count: int) -> None:
    """Wait until so many samplers run."""
    limit = time.monotonic() + WAIT_S
    while len(service.replicas("Sampler")) != count:
        assert time.monotonic() < limit, f"{len(service.replicas('Sampler'))} samplers run, expected {count}"
        time.sleep(0.5)


def fill(port: int) -> tuple[float, float]:
    """Images in batches and room of batches, as Prometheus reads them."""
    import httpx

    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    sums = {
        name: sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"ray_{name}_total{{"))
        for name in ("kdrift_batch_images", "kdrift_batch_room")
    }
    return sums["kdrift_batch_images"], sums["kdrift_batch_room"]


def test_samplers_come_while_equal_work_waits_and_go_without_a_loss(tmp_path: Path) -> None:
    prior, scan = tiny_prior(tmp_path / "tiny"), phantom_file(tmp_path / "scan.h5")
    samplers = {"device": "cpu", "replicas": 1, "max_replicas": 2, "idle_s": 5}
    args = {"priors": {"tiny": str(prior)}, "storage": str(tmp_path / "store"), "samplers": samplers}
    port = free_port()
    with running(tmp_path / "service", args, "--metrics-port", str(port), key=KEY) as service:
        until(service, 1)
        long = plan(num_samples=8, check=False, settings={"num_steps": 600})
        asked = [plan(num_samples=1, seed=seed, settings={"num_steps": 20}) for seed in range(8)]
        first = service.accepted(scan, plan=long, mask=MASK)
        service.sampling(first)
        jobs = [service.accepted(scan, plan=each, mask=MASK) for each in asked]
        dropped = service.accepted(scan, plan=plan(num_samples=1, seed=99, settings={"num_steps": 20}), mask=MASK)
        second = service.accepted(scan, plan={**long, "seed": 1}, mask=MASK)
        service.cancel(dropped)
        until(service, 2)
        for job_id, each in zip(jobs, asked, strict=True):
            assert_same(service.result(job_id), library(scan, prior, each), SHARED)
        assert service.wait(dropped)["state"] == "cancelled"
        until(service, 1)  # it may be the one at work that goes, after what it does
        assert_same(service.result(first), library(scan, prior, long))
        assert_same(service.result(second), library(scan, prior, {**long, "seed": 1}))
        images, room = fill(port)
        again = [{**each, "seed": 10 + each["seed"], "check": False} for each in asked]
        jobs = [service.accepted(scan, plan=each, mask=MASK) for each in again]
        for job_id, each in zip(jobs, again, strict=True):
            assert_same(service.result(job_id), library(scan, prior, each), SHARED)
        limit = time.monotonic() + 30
        while (now := fill(port))[0] - images < 8 * 20 or (now[0] - images) / (now[1] - room) < 0.25:
            assert time.monotonic() < limit, f"{now[0] - images} images in batches for {now[1] - room}: 1 in 8 is alone"
            time.sleep(1)
