"""The client, and another one's, against a real service: files, arrays, uploads that are resumed, what goes wrong."""

from __future__ import annotations

import base64
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import psutil
import pytest

import kdrift
from kdrift import client as client_module
from kdrift import resumable
from kdrift.client import Client, ServiceError
from kdrift.recon.plan import Plan
from kdrift.recon.request import MaskRequest
from serve_helpers import KEY, LONG, MASK, Service, client_of, library, phantom_file, plan, running, start, tiny_prior

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

OTHER = "another-key-of-somebody"
TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {**TUS, "Content-Type": "application/offset+octet-stream"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("client")
    phantom_file(made / "scan.h5", 2)
    tiny_prior(made / "tiny")
    return made


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    args = {
        "priors": {"tiny": str(folder / "tiny")}, "storage": str(folder / "store"), "roots": [str(folder)],
        "samplers": {"replicas": 1, "num_cpus": 1, "device": "cpu"}, "limits": {"upload_mb": 2, "uploads_a_key": 4},
    }  # fmt: skip
    with running(folder, args, key=f"{KEY} {OTHER}") as started:
        started.client.headers["Authorization"] = f"Bearer {KEY}"
        yield started


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with kdrift.Client(str(service.client.base_url), KEY) as made:
        yield made


def test_a_file_an_array_and_a_path_give_the_same_images(client: Client, folder: Path) -> None:
    asked = Plan(**plan(num_samples=2))
    expected = library(folder / "scan.h5", folder / "tiny", plan(num_samples=2))
    seen: list[str] = []
    by_file = client.reconstruct(
        folder / "scan.h5", plan=asked, mask=MaskRequest(**MASK), follow=lambda job: seen.append(job["state"])
    )
    assert seen[-1] == "done"
    assert by_file.job["config"]["num_samples"] == 2
    assert by_file.report["nfe"] == expected.nfe
    assert set(by_file.arrays) >= {"mask", "reference", "lower", "upper"}
    with h5py.File(folder / "scan.h5") as file:
        kspace = file["kspace"][:]
    by_array = client.reconstruct(kspace, plan=plan(num_samples=2), mask=MASK)
    by_path = client.result(client.wait(client.submit_path("scan.h5", plan=asked, mask=MASK))["id"])
    for found in (by_file, by_array, by_path):
        assert float(np.abs(found.mean - expected.mean.numpy()).max()) <= 1e-5 * float(expected.mean.max())
        assert found.std.shape == found.mean.shape


def test_jobs_are_followed_cancelled_saved_and_deleted(client: Client, folder: Path, tmp_path: Path) -> None:
    job_id = client.submit(folder / "scan.h5", plan=plan(settings=LONG), mask=MASK)
    with pytest.raises(TimeoutError, match="it goes on"):
        client.wait(job_id, timeout_s=1.0)
    assert client.cancel(job_id)["state"] == "cancelled"
    with pytest.raises(ServiceError, match="is cancelled already") as error:
        client.cancel(job_id)
    assert error.value.status == 409
    with pytest.raises(ServiceError, match="is cancelled: cancelled on request"):
        client.result(job_id)
    done = client.submit(folder / "scan.h5", plan=plan("tv", settings={"max_iter": 2}), mask=MASK, slices=1)
    client.wait(done)
    with h5py.File(client.save(done, tmp_path / "r.h5")) as file:
        assert len(file["reconstruction"]) == 1
    assert client.save(done, tmp_path / "r.png", format="png").read_bytes().startswith(b"\x89PNG")
    assert next(client.jobs())["id"] == done
    assert [job["id"] for job in client.jobs(state="cancelled")] == [job_id]
    for job in list(client.jobs()):
        client.delete(job["id"])
    assert list(client.jobs()) == []


@pytest.mark.parametrize(
    ("values", "status", "sentence"),
    [
        ({"plan": {"methd": "tv"}}, 422, "unknown key 'plan.methd'"),
        ({"plan": {"num_samples": 0}}, 422, "num_samples"),
        ({"prior": "tinny"}, 422, "did you mean 'tiny'"),
        ({"max_seconds": -1}, 422, "max_seconds"),
    ],
)
def test_a_refusal_is_the_services_sentence(
    client: Client, folder: Path, values: dict[str, Any], status: int, sentence: str
) -> None:
    with pytest.raises(ServiceError, match=sentence) as error:
        client.submit(folder / "scan.h5", **values)
    assert error.value.status == status


def test_what_does_not_answer_is_said(service: Service, folder: Path) -> None:
    with Client(str(service.client.base_url), "no-such-key-at-all") as stranger:
        with pytest.raises(ServiceError, match="not known") as error:
            list(stranger.jobs())
        assert error.value.status == 401
        with pytest.raises(FileNotFoundError):
            stranger.submit(folder / "none.h5")
    with Client("http://127.0.0.1:9", KEY) as nowhere, pytest.raises(ServiceError, match="does not answer") as error:
        nowhere.status("a" * 32)
    assert error.value.status == 0


# --- uploads that are resumed -----------------------------------------------------------------------------------------


def begun(service: Service, length: int = 6, **headers: str) -> str:
    answer = service.client.post("/v1/uploads", headers={**TUS, "Upload-Length": str(length), **headers})
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"])


def metadata(name: bytes) -> str:
    return f"filename {base64.b64encode(name).decode()}"


def ended(service: Service, *addresses: str) -> None:
    for address in addresses:
        assert service.client.delete(address, headers=TUS).status_code == 204


def test_what_tus_clients_ask_and_are_told(service: Service) -> None:
    with httpx.Client(base_url=service.client.base_url) as nobody:
        told = nobody.options("/v1/uploads")
        assert (told.status_code, told.headers["tus-version"], told.headers["tus-resumable"]) == (204, "1.0.0", "1.0.0")
        assert told.headers["tus-max-size"] == str(2 << 20)
        assert "creation" in told.headers["tus-extension"]
        assert nobody.head("/v1/uploads/x", headers=TUS).status_code == 401
        assert nobody.delete("/v1/uploads/x").status_code == 401, "no version is asked of who has no key"
    address = begun(service, **{"Upload-Metadata": metadata("Hügel 1.h5".encode())})
    head = service.client.head(address, headers=TUS)
    assert (head.status_code, head.headers["upload-offset"], head.headers["upload-length"]) == (200, "0", "6")
    assert head.headers["upload-metadata"] == metadata("Hügel 1.h5".encode())
    assert (head.headers["cache-control"], head.headers["tus-resumable"]) == ("no-store", "1.0.0")
    assert "GMT" in head.headers["upload-expires"]
    added = service.client.patch(address, headers={**BYTES, "Upload-Offset": "0"}, content=b"abc")
    assert (added.status_code, added.headers["upload-offset"]) == (204, "3")
    other = {**BYTES, "Upload-Offset": "3", "X-HTTP-Method-Override": "PATCH"}
    assert service.client.post(address, headers=other, content=b"def").headers["upload-offset"] == "6"
    (listed,) = service.client.get("/v1/uploads").json()
    assert (listed["name"], listed["offset"], listed["length"]) == ("H_gel_1.h5", 6, 6)
    with client_of(service.client.base_url.port or 0, OTHER) as stranger:
        for method in ("HEAD", "PATCH", "DELETE"):
            answer = stranger.request(method, address, headers={**BYTES, "Upload-Offset": "6"})
            assert (answer.status_code, answer.headers["tus-resumable"]) == (404, "1.0.0")
        assert stranger.get("/v1/uploads").json() == []
        asked = {"upload": address, "plan": plan("tv")}
        assert stranger.post("/v1/reconstructions", json=asked).status_code == 404
    answer = service.client.post("/v1/reconstructions", json={"upload": address})
    assert (answer.status_code, "unknown format" in answer.json()["detail"]) == (422, True)
    ended(service, address)
    for method in ("HEAD", "PATCH", "DELETE"):
        answer = service.client.request(method, address, headers={**BYTES, "Upload-Offset": "6"})
        assert answer.status_code == 404, "it is gone"
    with_body = {**BYTES, "Upload-Length": "6"}
    made = service.client.post("/v1/uploads", headers=with_body, content=b"abc")
    assert (made.status_code, made.headers["upload-offset"]) == (201, "3")
    ended(service, made.headers["location"])
    assert service.client.post("/v1/uploads", headers=with_body, content=b"abcdefg").status_code == 413
    assert service.client.get("/v1/uploads").json() == [], "of a first part that is refused nothing is kept"


CREATIONS: list[tuple[dict[str, str], int, str]] = [
    ({}, 400, "Upload-Length"),
    ({"Upload-Length": "-1"}, 400, "a whole number"),
    ({"Upload-Length": "9" * 40}, 400, "a whole number"),
    ({"Upload-Length": "1e3"}, 400, "a whole number"),
    ({"Upload-Length": "2097153"}, 413, "at most 2097152 bytes"),
    ({"Upload-Defer-Length": "1"}, 400, "needs Upload-Length at once"),
    ({"Upload-Length": "3", "Upload-Concat": "partial"}, 400, "joins no uploads"),
    ({"Upload-Length": "3", "Tus-Resumable": "0.2.2"}, 412, "Tus-Resumable: 1.0.0"),
    ({"Upload-Length": "3", "Upload-Metadata": "filename *"}, 400, "Upload-Metadata"),
    ({"Upload-Length": "3", "Upload-Metadata": "filename YQ==,filename YQ=="}, 400, "no key twice"),
    ({"Upload-Length": "3", "Upload-Metadata": "filename YQ==,"}, 400, "Upload-Metadata"),
    ({"Upload-Length": "3", "Upload-Metadata": metadata(b"../a.h5")}, 422, "no folders"),
    ({"Upload-Length": "3", "Upload-Metadata": metadata(b"a\0.h5")}, 422, "the name of a file"),
    ({"Upload-Length": "3", "Upload-Metadata": metadata(b"\xed\xa0\x80.h5")}, 422, "not UTF-8"),
    ({"Upload-Length": "3", "Upload-Metadata": metadata(b"a" * 1000)}, 422, "the name of a file"),
    ({"Upload-Length": "3", "Upload-Metadata": metadata(b"a" * 10_000)}, 400, "at most 4096"),
]


@pytest.mark.parametrize(("headers", "status", "sentence"), CREATIONS)
def test_a_bad_creation_is_refused(service: Service, headers: dict[str, str], status: int, sentence: str) -> None:
    answer = service.client.post("/v1/uploads", headers={**TUS, **headers})
    assert (answer.status_code, sentence in answer.json()["detail"]) == (status, True), answer.text
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert service.client.get("/v1/uploads").json() == []


def test_a_bad_part_is_refused_and_changes_nothing(service: Service) -> None:
    address, sha1 = begun(service), {"Upload-Checksum": f"sha1 {base64.b64encode(b'x' * 20).decode()}"}
    cases: list[tuple[dict[str, str], bytes, int, str]] = [
        ({"Upload-Offset": "3"}, b"abc", 409, "where this upload ends"),
        ({}, b"abc", 400, "Upload-Offset"),
        ({"Upload-Offset": "-1"}, b"abc", 400, "a whole number"),
        ({"Upload-Offset": "0", "Content-Type": "application/octet-stream"}, b"abc", 415, "offset+octet-stream"),
        ({"Upload-Offset": "0"}, b"abcdefg", 413, "more than the 6 bytes"),
        ({"Upload-Offset": "0", **sha1}, b"abc", 460, "the sha1 of what came"),
        ({"Upload-Offset": "0", "Upload-Checksum": "crc32 AAAA"}, b"abc", 400, "sha1 or sha256"),
        ({"Upload-Offset": "0", "Tus-Resumable": ""}, b"abc", 412, "Tus-Resumable"),
    ]
    for headers, content, status, sentence in cases:
        answer = service.client.patch(address, headers={**BYTES, **headers}, content=content)
        assert (answer.status_code, sentence in answer.json()["detail"]) == (status, True), answer.text
    chunked = service.client.patch(address, headers={**BYTES, "Upload-Offset": "0"}, content=iter([b"abc", b"defg"]))
    assert chunked.status_code == 413, "nothing announced how much comes"
    assert service.client.head(address, headers=TUS).headers["upload-offset"] == "0"
    answer = service.client.post("/v1/reconstructions", json={"upload": address})
    assert (answer.status_code, "0 of 6 bytes" in answer.json()["detail"]) == (409, True)
    others = [begun(service) for _ in range(3)]
    assert service.client.post("/v1/uploads", headers={**TUS, "Upload-Length": "1"}).status_code == 429
    ended(service, address, *others)


def test_a_connection_that_breaks_or_stalls_is_taken_up_again(service: Service) -> None:
    host, port = str(service.client.base_url.host), int(service.client.base_url.port or 0)

    def connect(address: str, offset: int, body: bytes) -> socket.socket:
        lines = [
            f"PATCH {address} HTTP/1.1",
            f"Host: {host}:{port}",
            f"Authorization: Bearer {KEY}",
            "Content-Length: 6",
        ]
        lines += [f"{name}: {value}" for name, value in {**BYTES, "Upload-Offset": str(offset)}.items()]
        connection = socket.create_connection((host, port), timeout=30)
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return connection

    address = begun(service, 12)
    offset = lambda: service.client.head(address, headers=TUS).headers["upload-offset"]  # noqa: E731
    with connect(address, 0, b"abc"):
        time.sleep(1.0)
        second = service.client.patch(address, headers={**BYTES, "Upload-Offset": "0"}, content=b"abc")
        assert (second.status_code, "another request" in second.json()["detail"]) == (423, True)
    limit = time.monotonic() + 20
    while offset() != "3" and time.monotonic() < limit:
        time.sleep(0.1)
    with connect(address, 3, b"def") as stalled:
        assert b" 408 " in stalled.recv(4096).partition(b"\r\n")[0]
    assert offset() == "6"
    ended(service, address)


def test_another_clients_upload_becomes_a_job(service: Service, folder: Path) -> None:
    from tusclient.client import TusClient

    tus = TusClient(f"{service.client.base_url}/v1/uploads", headers={"Authorization": f"Bearer {KEY}"})
    size = (folder / "scan.h5").stat().st_size
    with (folder / "scan.h5").open("rb") as file:
        given = {"file_stream": file, "metadata": {"filename": "scan.h5"}, "upload_checksum": True}
        first = tus.uploader(chunk_size=size // 3, **given)
        first.upload_chunk()
        again = tus.uploader(url=first.url, chunk_size=1 << 20, **given)
        assert again.offset == size // 3
        again.upload()
    asked = {"upload": again.url, "plan": plan("tv", settings={"max_iter": 2}), "mask": MASK}
    for _ in range(2):
        answer = service.client.post("/v1/reconstructions", json=asked)
        assert (answer.status_code, answer.json()["name"]) == (202, "scan.h5"), answer.text
        assert service.wait(answer.json()["id"])["state"] == "done"
    ended(service, str(httpx.URL(again.url).path))


def test_a_large_file_is_sent_in_parts_and_no_upload_is_left(
    client: Client, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "RESUMABLE_BYTES", 1000)
    monkeypatch.setattr(resumable, "REQUEST_BYTES", 40_000)
    size, seen = (folder / "scan.h5").stat().st_size, list[tuple[int, int]]()
    asked = plan("tv", settings={"max_iter": 2})
    job_id = client.submit(folder / "scan.h5", plan=asked, mask=MASK, progress=lambda *sent: seen.append(sent))
    assert seen == [(at, size) for at in (*range(0, size, 40_000), size)]
    assert client.wait(job_id)["state"] == "done"
    with pytest.raises(ServiceError, match=r"unknown key 'plan\.methd'"):
        client.submit(folder / "scan.h5", plan={"methd": "tv"})
    with pytest.raises(ServiceError, match="at most 2097152 bytes"):
        client.submit(np.zeros((1, 4, 300, 300), np.complex64))
    assert client._http.get("/v1/uploads").json() == []


@pytest.mark.slow
def test_an_upload_outlives_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service is killed while a file comes, and started again; the client goes on as if nothing had been."""
    monkeypatch.setattr(client_module, "RESUMABLE_BYTES", 1000)
    monkeypatch.setattr(resumable, "REQUEST_BYTES", 10_000)
    monkeypatch.setattr(resumable, "PATIENCE_S", 400.0)
    scan = phantom_file(tmp_path / "scan.h5", 2)
    args = {
        "priors": {"tiny": str(tiny_prior(tmp_path / "tiny"))}, "storage": str(tmp_path / "store"),
        "samplers": {"device": "cpu"},
    }  # fmt: skip
    first = start(tmp_path / "first", args, key=KEY)
    again, go_on, seen = threading.Event(), threading.Event(), list[int]()

    def progress(sent: int, _: int) -> None:
        seen.append(sent)
        if sent == 20_000:
            again.set()
            go_on.wait(300)

    found: list[Any] = []
    port = first.client.base_url.port or 0

    def send() -> None:
        with Client(f"http://127.0.0.1:{port}", KEY) as made:
            found.append(made.submit(scan, plan=plan("tv", settings={"max_iter": 2}), mask=MASK, progress=progress))

    sender = threading.Thread(target=send)
    sender.start()
    try:
        assert again.wait(60)
        for process in [*psutil.Process(first.process.pid).children(recursive=True), psutil.Process(first.process.pid)]:
            os.kill(process.pid, signal.SIGKILL)
        first.process.wait(30)
        first.client.close()
        monkeypatch.setattr("serve_helpers.free_port", lambda: port)
        go_on.set()
        with running(tmp_path / "second", args, key=KEY) as second:
            sender.join(120)
            assert second.wait(found[0])["state"] == "done"
            assert seen == sorted(seen)
            assert seen.count(0) == 1, "it did not begin again"
    finally:
        go_on.set()
        sender.join(10)
