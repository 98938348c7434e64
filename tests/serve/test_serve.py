"""The service over HTTP: the library's answer, whatever dies; and no bad request that is not told so."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import httpx
import psutil
import pydicom
import pytest

from kdrift.notice import RESEARCH_ONLY
from kdrift.prior.bundle import load_prior
from serve_cases import FORMS, JSON, UPLOADS
from serve_helpers import (
    CALLS,
    KEY,
    LONG,
    MASK,
    Service,
    assert_same,
    free_port,
    library,
    phantom_file,
    plan,
    running,
    tiny_prior,
)

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
QUEUED = 2


@dataclass(frozen=True)
class World:
    """A service of two samplers and what it can read."""

    service: Service
    prior: Path
    scan: Path
    volume: Path
    root: Path
    pids: set[int]
    """Of its replicas, at the start."""
    metrics_port: int


def replica_pids(service: Service) -> set[int]:
    return {each.pid for name in ("Sampler", "Ingress", "Planner") for each in service.replicas(name)}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("serve")
    prior, root = tiny_prior(folder / "tiny"), folder / "root"
    root.mkdir()
    scan, volume = phantom_file(root / "scan.h5"), phantom_file(root / "volume.h5", 3)
    phantom_file(folder / "secret.h5")
    (root / "link.h5").symlink_to(folder / "secret.h5")
    args = {
        "priors": {"tiny": str(prior)},
        "storage": str(folder / "store"),
        "roots": [str(root)],
        "samplers": {"replicas": 2, "num_cpus": 1, "device": "cpu"},
        "limits": {
            "upload_mb": 1,
            "kspace_mb": 4,
            "jobs": 1 + QUEUED,
            "samples": 16,
            "kept_jobs": 500,
            "job_evaluations": 50_000,
        },
    }
    port = free_port()
    with running(folder, args, "--metrics-port", str(port), key=KEY) as service:
        yield World(service, prior, scan, volume, root, replica_pids(service), port)


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("annealed", {}),
        ("annealed", {"num_samples": 5, "seed": 7, "batch_samples": 2}),
        ("score_mri_ssos", {"num_samples": 1}),  # its coils are split
        ("score_mri_hybrid", {"num_samples": 3}),
        ("tv", {"settings": {"max_iter": 5}}),
    ],
    ids=["annealed", "batches", "coils", "coupled", "classical"],
)
def test_answer_is_that_of_the_library(world: World, method: str, values: dict[str, Any]) -> None:
    asked = plan(method, **values)
    job_id = world.service.accepted(world.scan, plan=asked, mask=MASK)
    assert_same(world.service.result(job_id), library(world.scan, world.prior, asked))


def test_an_upload_is_read_once_and_its_plan_resolved_at_the_entrance_and_where_it_runs(world: World) -> None:
    calls = world.service.log.parent / CALLS
    before = calls.read_text().split()
    world.service.result(world.service.accepted(world.volume, plan=plan(num_samples=3, batch_samples=1), mask=MASK))
    assert calls.read_text().split()[len(before) :] == ["resolve", "load_acquisition", "resolve"]


def test_slices_of_a_volume_by_path(world: World) -> None:
    asked = {"plan": plan(), "mask": MASK, "slices": [1, 3], "output": "h5,nifti,dicom"}
    job_id = world.service.accepted(path="volume.h5", **asked)
    assert_same(world.service.result(job_id), library(world.volume, world.prior, plan(), (1, 3)))
    status = world.service.status(job_id)
    assert status["slices"] == [1, 2]
    for kind in ("mean", "std"):
        response = world.service.client.get(f"{status['links']['self']}/{kind}.png", params={"slice": 1})
        assert response.headers["content-type"] == "image/png"
        assert float(response.headers["x-kdrift-top"]) > 0
        assert response.content.startswith(b"\x89PNG")
    assert world.service.client.get(f"{status['links']['self']}/mean.png?slice=2").status_code == 422
    assert world.service.client.get(status["links"]["panel.png"]).content.startswith(b"\x89PNG")
    with zipfile.ZipFile(io.BytesIO(world.service.client.get(status["links"]["outputs.zip"]).content)) as archive:
        kinds = ("mean", "std", "lower", "upper")
        series = [f"dicom/{kind}/{index:04d}.dcm" for kind in kinds for index in range(2)]
        assert archive.namelist() == [*(f"{kind}.nii.gz" for kind in kinds), *series]
        assert pydicom.dcmread(io.BytesIO(archive.read("dicom/std/0001.dcm"))).InstanceNumber == 3


def test_a_job_says_whether_its_images_are_to_be_believed(world: World) -> None:
    mask = {**MASK, "acs_lines": 12}  # leaves lines that can be held out
    asked = plan(on_mistrust="fallback", level=0.8)
    job_id = world.service.accepted(path="volume.h5", plan=asked, mask=mask, slices=[1, 3])
    expected = library(world.volume, world.prior, asked, (1, 3), mask=mask)
    assert_same(world.service.result(job_id), expected)
    status = world.service.status(job_id)
    assert status["verdicts"] == {
        str(index): {"level": verdict.level, "sentence": str(verdict), "given": verdict.given}
        for index, verdict in expected.verdicts.items()
    }
    for index in ("1", "2"):
        verdict = status["verdicts"][index]
        assert (verdict["level"], verdict["given"]) == ("not trusted", "tv")  # its prior is not trained
        assert verdict["sentence"].endswith("TV is given in its place")
        assert status["report"]["verdicts"][index]["reasons"][0] in verdict["sentence"]
    assert (status["config"]["checks"], status["config"]["level"]) == (True, 0.8)
    job_id = world.service.accepted(world.scan, plan=plan(check=False), mask=mask)
    (verdict,) = world.service.wait(job_id)["verdicts"].values()
    assert verdict == {"level": "not checked", "sentence": "not checked: check is off", "given": ""}
    job_id = world.service.accepted(world.scan, plan=plan("tv", settings={"max_iter": 5}), mask=mask)
    assert world.service.wait(job_id)["verdicts"] == {}


def test_a_request_is_refused_for_what_all_its_slices_cost(world: World) -> None:
    asked = plan(num_samples=16, preset="posterior", settings={"num_steps": 2000})  # 32000 a slice
    response = world.service.submit(path="volume.h5", plan=asked, mask=MASK)
    refused(response, 422, "96000 network evaluations in all (3 slices", world)


def test_answers_name_the_prior_and_the_resolved_configuration(world: World) -> None:
    job_id = world.service.accepted(example="phantom", plan=plan(num_samples=2), mask=MASK)
    content = world.service.result(job_id)
    status = world.service.status(job_id)
    sha256 = load_prior(world.prior).sha256
    assert status["prior"] == {"name": "tiny", "reference": "tiny", "sha256": sha256, "version": None}
    assert status["config"]["options"]["num_steps"] == 3
    assert status["config"]["preset"] == "tuned"
    with h5py.File(io.BytesIO(content)) as file:
        assert json.loads(file.attrs["kdrift"])["config"]["prior"]["sha256"] == sha256
        assert file.attrs["simulated"]
    assert str(world.root.parent) not in json.dumps(status)


def test_what_there_is(world: World) -> None:
    client = world.service.client
    assert client.get("/v1/health").json()["status"] == "ok"
    (prior,) = client.get("/v1/priors").json()
    assert prior["default"]
    assert prior["prior"]["sha256"] == load_prior(world.prior).sha256
    methods = client.get("/v1/methods").json()
    assert methods["methods"]["annealed"]["evaluations"]["tuned"] == 40
    assert methods["methods"]["cg_sense"]["needs"] is None
    page = client.get("/")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert RESEARCH_ONLY in page.text
    for part in ("page.css", "page.js", "favicon.svg", "licences.txt"):
        answer = client.get(f"/{part}", headers={"accept-encoding": "identity"})
        assert answer.status_code == 200
        assert client.get(f"/{part}").headers["content-encoding"] == "gzip"
        assert client.get(f"/{part}").text == answer.text
        outside = re.findall(r"https?://[^\s\"'`]+", answer.text) if part != "licences.txt" else []
        assert all(url.startswith("http://www.w3.org/") for url in outside), outside  # names of SVG and MathML
    assert all(f"./{part}" in page.text for part in ("page.css", "page.js", "favicon.svg"))
    assert "http" not in page.text


def refused(response: Any, status: int, sentence: str, world: World) -> None:
    """A problem that helps and gives nothing away."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert sentence in problem["detail"]
    assert len(problem["detail"]) < 700
    for secret in (str(world.root.parent), "Traceback", "site-packages"):
        assert secret not in response.text


@pytest.mark.parametrize("case", JSON)
def test_bad_json_is_refused(world: World, case: str) -> None:
    body, status, sentence = JSON[case]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = {"content-type": "application/json"}
    refused(world.service.client.post("/v1/reconstructions", content=content, headers=kind), status, sentence, world)


@pytest.mark.parametrize("case", UPLOADS)
def test_bad_upload_is_refused(world: World, case: str) -> None:
    body, query, status, sentence = UPLOADS[case]
    kind = {"content-type": "application/octet-stream"}
    response = world.service.client.post(f"/v1/reconstructions?{query}", content=body, headers=kind)
    refused(response, status, sentence, world)


@pytest.mark.parametrize("case", FORMS)
def test_bad_form_is_refused(world: World, case: str) -> None:
    body, kind, status, sentence = FORMS[case]
    headers = {"content-type": kind or "multipart/form-data; boundary=B"}
    refused(world.service.client.post("/v1/reconstructions", content=body, headers=headers), status, sentence, world)


def test_a_form_is_a_file_and_its_options(world: World) -> None:
    asked = plan(num_samples=2)
    fields = {"options": json.dumps({"plan": asked, "mask": MASK, "name": "b.h5"})}
    files = {"file": ("a.h5", world.scan.read_bytes())}
    answer = world.service.client.post("/v1/reconstructions", data=fields, files=files)
    assert (answer.status_code, answer.json()["name"]) == (202, "b.h5"), answer.text
    assert_same(world.service.result(answer.json()["id"]), library(world.scan, world.prior, asked))
    answer = world.service.client.post("/v1/reconstructions", files=files, params={"slices": "0"})
    refused(answer, 400, "into its field options", world)


def test_a_stream_is_cut_off_at_the_limit(world: World) -> None:
    """Without Content-Length nothing announces how much will come."""
    kind = {"content-type": "application/octet-stream"}
    body = (b"\0" * 65536 for _ in range(40))
    response = world.service.client.post("/v1/reconstructions", content=body, headers=kind)
    refused(response, 413, "larger than 1 MiB", world)


def test_an_announced_size_is_refused_before_the_body_comes(world: World) -> None:
    address = (str(world.service.client.base_url.host), int(world.service.client.base_url.port or 0))
    lines = f"POST /v1/reconstructions HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nAuthorization: Bearer {KEY}\r\n"
    lines += f"Content-Type: application/octet-stream\r\nContent-Length: {10**12}\r\n\r\n"
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(lines.encode())
        assert b" 413 " in connection.recv(4096).partition(b"\r\n")[0]


def test_an_upload_that_breaks_off_leaves_nothing(world: World) -> None:
    address = (str(world.service.client.base_url.host), int(world.service.client.base_url.port or 0))
    lines = f"POST /v1/reconstructions HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nAuthorization: Bearer {KEY}\r\n"
    lines += "Content-Type: application/octet-stream\r\nContent-Length: 5000\r\n\r\nabc"
    store = world.root.parent / "store"
    before = set(os.listdir(store))
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(lines.encode())
        time.sleep(0.5)
    limit = time.monotonic() + 20
    while set(os.listdir(store)) != before and time.monotonic() < limit:
        time.sleep(0.1)
    assert set(os.listdir(store)) == before


@pytest.mark.parametrize(
    ("headers", "status", "sentence"),
    [
        ({"authorization": ""}, 401, "an API key is needed"),
        ({"authorization": "Bearer"}, 401, "an API key is needed"),
        ({"authorization": f"Basic {KEY}"}, 401, "an API key is needed"),
        ({"authorization": f"Bearer {KEY}x"}, 401, "not known"),
        ({"authorization": f"Bearer {KEY[:-1]}"}, 401, "not known"),
        ({"content-type": "text/plain"}, 415, "expected application/octet-stream"),
        ({"content-type": "multipart/mixed; boundary=x"}, 415, "expected application/octet-stream"),
    ],
)
def test_keys_and_types(world: World, headers: dict[str, str], status: int, sentence: str) -> None:
    refused(world.service.client.post("/v1/reconstructions", content=b"{}", headers=headers), status, sentence, world)


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("GET", "/v1/reconstructions/abc", 404, "no reconstruction of this id"),
        ("GET", f"/v1/reconstructions/{'0' * 32}/result", 404, "no reconstruction of this id"),
        ("GET", "/v1/reconstructions/..%2f..%2fetc%2fpasswd/result", 404, "nothing at this address"),
        ("DELETE", f"/v1/reconstructions/{'0' * 32}", 404, "no reconstruction of this id"),
        ("GET", f"/v1/reconstructions/{'0' * 32}?wait=1", 404, "no reconstruction of this id"),
        ("GET", f"/v1/reconstructions/{'0' * 32}?wait=soon", 422, "wait"),
        ("GET", f"/v1/reconstructions/{'0' * 32}?wait=-1", 422, "wait"),
        ("GET", f"/v1/reconstructions/{'0' * 32}?wait=61", 422, "wait"),
        ("GET", f"/v1/reconstructions/{'0' * 32}/mean.png?slice=x", 422, "slice"),
        ("GET", "/v2/reconstructions", 404, "nothing at this address"),
        ("PUT", "/v1/reconstructions", 405, "does not take that method"),
        ("GET", "/page/../app.py", 404, "nothing at this address"),
    ],
)
def test_other_addresses(world: World, method: str, path: str, status: int, sentence: str) -> None:
    refused(world.service.client.request(method, path), status, sentence, world)


def test_a_slice_that_cannot_be_calibrated_fails_with_a_sentence(world: World) -> None:
    mask = {"kind": "random", "acceleration": 4, "acs_lines": 0}
    status = world.service.wait(world.service.accepted(world.scan, plan=plan(), mask=mask))
    assert status["state"] == "failed"
    assert "ACS" in status["detail"] or "acs" in status["detail"]
    refused(world.service.client.get(f"/v1/reconstructions/{status['id']}/result"), 409, "is failed", world)


def test_a_job_whose_samples_all_diverge(world: World) -> None:
    """As an error that says so, or CG-SENSE by its name."""
    silly = {"num_steps": 20, "snr": 50.0}
    job_id = world.service.accepted(world.scan, plan=plan("score_mri_ssos", settings=silly, num_samples=1), mask=MASK)
    status = world.service.wait(job_id)
    assert status["state"] == "failed"
    assert status["detail"].startswith("slice 0: the sample diverged, sample 0 at step ")
    answer = world.service.client.get(f"/v1/reconstructions/{job_id}/result")
    assert (answer.status_code, answer.headers["content-type"]) == (409, "application/problem+json")
    asked = plan("score_mri_ssos", settings=silly, num_samples=1, on_divergence="fallback")
    job_id = world.service.accepted(world.scan, plan=asked, mask=MASK)
    assert_same(world.service.result(job_id), library(world.scan, world.prior, asked))
    assert world.service.status(job_id)["report"]["fallback"] == [0]


def test_cancel_waiting_and_running_jobs(world: World) -> None:
    service = world.service
    first = service.accepted(world.scan, plan=plan(settings=LONG), mask=MASK)
    second = service.accepted(world.scan, plan=plan(settings=LONG), mask=MASK)
    third = service.accepted(world.scan, plan=plan(settings=LONG), mask=MASK)
    progress = service.sampling(first)["progress"]
    assert progress["evaluations_total"] == 4 * 15 + 2 * 5000  # samples, and chains for the mean; too long to check
    assert progress["seconds_left"] > 0
    last = service.status(third)  # its slice is prepared where a sampler is free for a moment
    assert last["state"] == "running" or last["progress"]["jobs_ahead"] in (0, 1)
    refused(service.client.get(f"/v1/reconstructions/{first}/result"), 409, "is running", world)
    for job_id in (third, second, first):
        response = service.cancel(job_id)
        assert response.status_code == 200
        assert response.json()["state"] == "cancelled"
    refused(service.cancel(first), 409, "is cancelled already", world)
    began = time.monotonic()
    assert service.result(service.accepted(world.scan, plan=plan(), mask=MASK))
    assert time.monotonic() - began < 30, "the samplers went on with the cancelled jobs"


def test_a_request_can_wait_for_the_end(world: World) -> None:
    service = world.service
    asked = service.accepted(world.scan, plan=plan(settings=LONG), mask=MASK)
    began = time.monotonic()
    status = service.client.get(f"/v1/reconstructions/{asked}", params={"wait": 1.5}).json()
    assert status["state"] in ("queued", "running")
    assert time.monotonic() - began >= 1.5
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(service.client.get, f"/v1/reconstructions/{asked}", params={"wait": 60}, timeout=70)
        service.sampling(asked)
        assert service.cancel(asked).status_code == 200
        assert waiting.result().json()["state"] == "cancelled"
    assert time.monotonic() - began < 50


def test_a_burst_is_told_when_to_come_back(world: World) -> None:
    service = world.service
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(service.submit, world.scan, plan=plan(settings=LONG), mask=MASK) for _ in range(8)]
        responses = [each.result() for each in asked]
    codes = sorted(response.status_code for response in responses)
    assert codes == [202] * (1 + QUEUED) + [429] * (8 - 1 - QUEUED)
    for response in responses:
        if response.status_code == 429:
            refused(response, 429, "try again in about", world)
            assert int(response.headers["retry-after"]) >= 1
        else:
            assert service.cancel(response.json()["id"]).status_code == 200
    assert service.client.get("/v1/health").json()["jobs"] == {"running": 0, "queued": 0}


def test_prometheus_can_read_what_was_done(world: World) -> None:
    world.service.result(world.service.accepted(world.scan, plan=plan(check=False), mask=MASK))
    limit, text = time.monotonic() + 60, ""
    wanted = ("kdrift_verdicts_total{", "kdrift_job_seconds_bucket{", "kdrift_network_images_total{", "kdrift_jobs{")
    while time.monotonic() < limit and not all(name in text for name in wanted):
        text = httpx.get(f"http://127.0.0.1:{world.metrics_port}/metrics", trust_env=False).text
        time.sleep(1)
    lines = [line for line in text.splitlines() if "kdrift_" in line and not line.startswith("#")]
    assert all(any(name in line for line in lines) for name in wanted), lines
    (done,) = [
        line for line in lines if "kdrift_jobs_ended_total" in line and 'state="done"' in line and "annealed" in line
    ]
    assert float(done.split()[-1]) >= 1


def test_no_request_above_has_killed_a_replica(world: World) -> None:
    assert replica_pids(world.service) == world.pids
    assert "Traceback" not in world.service.log.read_text()


def test_a_killed_sampler_changes_nothing(world: World) -> None:
    asked = plan(num_samples=8, settings={"num_steps": 80})
    job_id = world.service.accepted(world.scan, plan=asked, mask=MASK)
    world.service.sampling(job_id)
    before = world.service.replicas("Sampler")
    os.kill(before[0].pid, signal.SIGKILL)
    assert_same(world.service.result(job_id), library(world.scan, world.prior, asked))
    limit = time.monotonic() + 60
    while len(world.service.replicas("Sampler")) < 2 and time.monotonic() < limit:
        time.sleep(0.2)
    assert {each.pid for each in world.service.replicas("Sampler")} != {each.pid for each in before}


@pytest.mark.slow
@pytest.mark.parametrize("deployment", ["Ingress", "Planner"])
def test_jobs_outlive_a_killed_process(world: World, deployment: str) -> None:
    """What is finished stays, what ran goes on with the slices that it had, what waited is done."""
    service, asked = world.service, plan(num_samples=8, settings={"num_steps": 60})
    done = service.accepted(world.scan, plan=plan(), mask=MASK)
    content = service.result(done)
    running = service.accepted(path="volume.h5", plan=asked, mask=MASK)
    waiting = service.accepted(world.scan, plan=plan(), mask=MASK)
    service.sampling(running)
    (process,) = service.replicas(deployment)
    process.send_signal(signal.SIGKILL)
    psutil.wait_procs([process], 10)
    service.healthy()
    assert service.status(done)["state"] == "done"
    assert service.result(done) == content
    assert_same(service.result(waiting), library(world.scan, world.prior, plan()))
    assert_same(service.result(running), library(world.volume, world.prior, asked))
