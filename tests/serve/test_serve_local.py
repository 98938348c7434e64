"""One service after another on the same jobs: restarts, one sampler, a prior pinned from the registry, `serve run`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from kdrift.cli import main
from kdrift.prior.bundle import load_prior
from kdrift.runs import registry, tracking
from serve_helpers import (
    KEY,
    LONG,
    MASK,
    Service,
    assert_same,
    client_of,
    free_port,
    library,
    phantom_file,
    plan,
    running,
    tiny_prior,
)

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def register(folder: Path, prior: Path) -> str:
    uri = tracking.default_uri(folder)
    run_id = tracking.start_run(uri, "tiny", {}, folder / "artifacts")
    version = registry.register_prior(uri, run_id, prior, "tiny")
    registry.set_alias(uri, "tiny", registry.CHAMPION, version, {})
    return version


@pytest.mark.slow
def test_restart_and_a_prior_from_the_registry(tmp_path: Path) -> None:
    """One sampler: the same answer. Finished jobs outlive a restart, and each start resolves the alias once."""
    first, second = tiny_prior(tmp_path / "first"), tiny_prior(tmp_path / "second", seed=1)
    assert register(tmp_path, first) == "1"
    scan, asked = phantom_file(tmp_path / "scan.h5"), plan()
    args = {
        "priors": {"tiny": "models:/tiny@champion"},
        "tracking_uri": tracking.default_uri(tmp_path),
        "storage": str(tmp_path / "store"),
        "samplers": {"replicas": 1, "device": "cpu"},
    }
    with running(tmp_path / "one", args) as service:  # without keys: on loopback they may be left out
        assert register(tmp_path, second) == "2"  # the alias moves; what is deployed does not
        done = service.accepted(scan, plan=asked, mask=MASK)
        content = service.result(done)
        assert_same(content, library(scan, first, asked))
        pinned = service.status(done)["prior"]
        assert (pinned["reference"], pinned["version"]) == ("models:/tiny@champion", "1")
        assert pinned["sha256"] == load_prior(first).sha256
        refused = service.client.get("/v1/priors", headers={"host": "evil.example"})
        assert refused.status_code == 403
        assert "own machine" in refused.json()["detail"]
        lost = service.accepted(scan, plan=plan(settings=LONG), mask=MASK)
        service.sampling(lost)
        began = time.monotonic()
        assert service.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < 60
    with running(tmp_path / "two", args) as service:
        assert service.status(done)["state"] == "done"
        assert service.result(done) == content
        status = service.wait(lost)
        assert (status["state"], "does not serve the prior" in status["detail"]) == ("interrupted", True)
        assert not list((tmp_path / "store").glob("*/scan")), "k-space of jobs that ended is deleted"
        assert service.client.get("/v1/priors").json()[0]["prior"]["version"] == "2"
        again = service.accepted(scan, plan=asked, mask=MASK)
        assert_same(service.result(again), library(scan, second, asked))
        assert service.stop(signal.SIGINT) == 0


def test_mistakes_are_told_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KDRIFT_API_KEYS", raising=False)
    store = ["--storage", str(tmp_path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDRIFT_API_KEYS", "short")
        assert main(["serve", "--host", "0.0.0.0", *store]) == 1
    assert main(["serve", "--host", "0.0.0.0", *store]) == 1
    assert main(["serve", "--prior", str(tmp_path / "absent"), *store]) == 1
    assert main(["serve", "--set", "sampler.replicas=2", *store]) == 1
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port), *store]) == 1
        assert main(["serve", "--port", str(free_port()), "--mrd-port", str(port), *store]) == 1
    errors = capsys.readouterr().err
    for sentence in (
        "an API key has fewer than 16 characters",
        "no API keys: set KDRIFT_API_KEYS",
        "no prior",
        "did you mean 'samplers'?",
        f"cannot listen on 127.0.0.1 port {port}",
    ):
        assert sentence in errors
    assert errors.count(f"cannot listen on 127.0.0.1 port {port}") == 2


@pytest.mark.slow
@pytest.mark.parametrize("key", [KEY, None], ids=["keys", "loopback"])
def test_serve_run(tmp_path: Path, key: str | None) -> None:
    """`serve run configs/serve/local.yaml` with another port, storage and prior."""
    values = yaml.safe_load((REPOSITORY / "configs" / "serve" / "local.yaml").read_text())
    port = values["http_options"]["port"] = free_port()
    args = values["applications"][0]["args"]
    prior, scan = tiny_prior(tmp_path / "tiny"), phantom_file(tmp_path / "scan.h5")
    args |= {"priors": {"tiny": str(prior)}, "storage": str(tmp_path / "store")}
    (tmp_path / "local.yaml").write_text(yaml.safe_dump(values))
    environment = {**os.environ, "KDRIFT_API_KEYS": key or "", "RAY_ADDRESS": "local"}
    command = [str(Path(sys.executable).parent / "serve"), "run", str(tmp_path / "local.yaml")]
    log = tmp_path / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT, text=True)
    service = Service(process, client_of(port, key), log)
    children: list[psutil.Process] = []
    try:
        service.healthy()
        children = psutil.Process(process.pid).children(recursive=True)
        assert_same(
            service.result(service.accepted(scan, plan=plan(), mask=MASK)), library(scan, prior, plan())
        )  # fmt: skip
        unknown = service.client.get("/v1/priors", headers={"authorization": "Bearer wrong-wrong-wrong"})
        assert unknown.status_code == (401 if key else 200)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(90)
        _, left = psutil.wait_procs(children, 30)
        for child in left:
            child.kill()
