"""What the service offers besides reconstructing: lists, events, forms, a time to keep to, its own description."""

from __future__ import annotations

import base64
import io
import json
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import jsonschema
import numpy as np
import pytest

from kdrift.recon.outputs import OUTPUTS
from serve_helpers import KEY, LONG, MASK, Service, client_of, phantom_file, plan, running, tiny_prior

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
OTHER, ADMIN = "another-key-of-somebody", "the-key-of-the-administrator"
SENDER = "the-key-of-a-scanner"


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantom_file(tmp_path_factory.mktemp("scan") / "scan.h5", 2)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    import hashlib

    import yaml

    folder = tmp_path_factory.mktemp("api")
    scopes = {"admin": (ADMIN, ["admin"]), "scanner": (SENDER, ["submit"])}
    keys = [
        {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": may}
        for name, (key, may) in scopes.items()
    ]
    (folder / "keys.yaml").write_text(yaml.safe_dump({"keys": keys}))
    args = {
        "priors": {"tiny": str(tiny_prior(folder / "tiny"))},
        "storage": str(folder / "store"),
        "samplers": {"replicas": 1, "num_cpus": 1, "device": "cpu"},
        "auth": {"keys_file": str(folder / "keys.yaml")},
    }
    with running(folder, args, key=f"{KEY} {OTHER}") as started:
        started.client.headers["Authorization"] = f"Bearer {KEY}"
        yield started


def as_key(service: Service, key: str) -> Any:
    return client_of(service.client.base_url.port or 0, key)


def events(service: Service, job_id: str) -> Iterator[tuple[str, Any]]:
    """The events of a job as they come; a comment is an event without a name."""
    with service.client.stream("GET", f"/v1/reconstructions/{job_id}/events", timeout=120) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in response.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))


def schema_of(service: Service, path: str, method: str = "get", status: str = "200") -> Any:
    description = service.client.get("/openapi.json").json()
    answer = description["paths"][path][method]["responses"][status]
    (content,) = answer["content"].values()
    return {**content["schema"], "components": description["components"]}


def test_events_tell_what_becomes_of_a_job(service: Service, scan: Path) -> None:
    asked = plan(num_samples=4, settings={"num_steps": 200}, check=False)
    job_id = service.accepted(scan, plan=asked, mask=MASK, slices=0)
    found = list(events(service, job_id))
    states = [values["state"] for name, values in found if name == "state"]
    assert states[-1] == "done"
    assert found[-1][0] == "state"
    assert "running" in states
    fractions = [values["fraction"] for name, values in found if name == "progress"]
    assert fractions == sorted(fractions)
    assert len(set(fractions)) >= 2
    previews = [values for name, values in found if name == "preview"]
    assert len({values["mean"] for values in previews}) >= 2
    assert [values["version"] for values in previews] == sorted({values["version"] for values in previews})
    description = service.client.get("/openapi.json").json()
    for values in previews:
        for kind in ("mean", "std"):
            kind_of, _, content = values[kind].partition(",")
            assert kind_of == "data:image/png;base64"
            assert base64.b64decode(content).startswith(b"\x89PNG")
        assert (values["slice"], values["data_residual"] >= 0) == (0, True)
        jsonschema.validate(values, description["components"]["schemas"]["PreviewView"])
    again = list(events(service, job_id))
    assert [name for name, _ in again] == ["state"], "a job that has ended has nothing else to tell"
    assert not list((service.log.parent / "store" / job_id).glob("preview")), "previews go with the end of their job"


def test_events_of_a_job_that_is_cancelled_end(service: Service, scan: Path) -> None:
    job_id = service.accepted(scan, plan=plan(settings=LONG), mask=MASK)
    states = []
    for name, values in events(service, job_id):
        if name == "preview":
            assert service.cancel(job_id).status_code == 200
        states += [values["state"]] if name == "state" else []
    assert states[-1] == "cancelled"
    assert service.client.get(f"/v1/reconstructions/{'0' * 32}/events").status_code == 404
    began = time.monotonic()
    busy = service.accepted(scan, plan=plan(settings=LONG), mask=MASK)
    assert service.client.head(f"/v1/reconstructions/{busy}/events").status_code == 200
    assert time.monotonic() - began < 10, "HEAD waits for the end of the stream"
    service.cancel(busy)


def test_a_list_has_ones_own_jobs_and_goes_on(service: Service, scan: Path) -> None:
    with as_key(service, OTHER) as other, as_key(service, ADMIN) as admin:
        assert other.get("/v1/reconstructions").json() == {"reconstructions": [], "links": {"next": None}}
        made = [service.accepted(scan, plan=plan("tv", settings={"max_iter": 2}), mask=MASK) for _ in range(3)]
        for job_id in made:
            service.wait(job_id)
        found = service.client.get("/v1/reconstructions", params={"count": 2}).json()
        assert [each["id"] for each in found["reconstructions"]] == made[:0:-1]
        assert {each["method"] for each in found["reconstructions"]} == {"tv"}
        following = service.client.get(found["links"]["next"]).json()
        assert following["reconstructions"][0]["id"] == made[0]
        assert [each["id"] for each in admin.get("/v1/reconstructions?count=1").json()["reconstructions"]] == made[-1:]
        assert other.get("/v1/reconstructions").json()["reconstructions"] == []
        cancelled = service.client.get("/v1/reconstructions", params={"state": "cancelled"}).json()["reconstructions"]
        assert {each["state"] for each in cancelled} == {"cancelled"}
        for options in ("count=0", "count=101", "before=nan", "before=soon", "state=reading", "state=x"):
            assert service.client.get(f"/v1/reconstructions?{options}").status_code == 422, options
        assert other.delete(f"/v1/reconstructions/{made[0]}?results=true").status_code == 404


def test_a_key_that_sends_may_cancel_and_not_read(service: Service, scan: Path) -> None:
    with as_key(service, SENDER) as scanner:
        asked = {
            "name": scan.name,
            "plan.settings.num_steps": 5000,
            **{f"mask.{key}": value for key, value in MASK.items()},
        }
        kind = {"content-type": "application/octet-stream"}
        sent = scanner.post("/v1/reconstructions", params=asked, content=scan.read_bytes(), headers=kind)
        assert sent.status_code == 202, sent.text
        address = sent.headers["location"]
        assert scanner.get(address).status_code == 403
        assert scanner.delete(address).json()["state"] == "cancelled"
        assert scanner.delete(address, params={"results": True}).status_code == 204


@pytest.mark.parametrize(
    ("address", "status", "sentence"),
    [
        ("/v1/reconstructions?stat=done", 422, "unknown option 'stat', did you mean 'state'?"),
        ("/v1/reconstructions/0/result?fromat=nifti", 422, "did you mean 'format'?"),
        ("/v1/reconstructions/0/mean.png?slices=3", 422, "did you mean 'slice'?"),
        ("/v1/priors?name=x", 422, "unknown option 'name'"),
        ("/v1/times?shape=32x32&coils=4&size=3", 422, "size"),
        ("/v1/times?shape=0x32&coils=4", 422, "shape"),
        ("/v1/priors/", 404, "there is nothing"),
        ("/v1/reconstructions/", 404, "there is nothing"),
    ],
)
def test_what_an_address_does_not_have_is_refused(service: Service, address: str, status: int, sentence: str) -> None:
    answer = service.client.get(address)
    assert (answer.status_code, sentence in answer.json()["detail"]) == (status, True), answer.text


@pytest.mark.parametrize("name", ["12345", "null", "true", "[1]"])
def test_a_file_is_called_what_it_is_called(service: Service, scan: Path, name: str) -> None:
    kind = {"content-type": "application/octet-stream"}
    params = {"name": name, "plan.method": "zero_filled"}
    answer = service.client.post("/v1/reconstructions", params=params, content=scan.read_bytes(), headers=kind)
    assert (answer.status_code, answer.json()["name"]) == (202, name.replace("[", "_").replace("]", "_"))


def test_a_job_that_has_ended_is_deleted_with_its_results(service: Service, scan: Path) -> None:
    job_id = service.accepted(scan, plan=plan(settings=LONG), mask=MASK)
    address = f"/v1/reconstructions/{job_id}"
    answer = service.client.delete(address, params={"results": True})
    assert (answer.status_code, "cancel it first" in answer.json()["detail"]) == (409, True)
    service.cancel(job_id)
    answer = service.client.delete(address)
    assert (answer.status_code, "is cancelled already" in answer.json()["detail"]) == (409, True)
    done = service.accepted(scan, plan=plan("tv", settings={"max_iter": 2}), mask=MASK)
    assert service.result(done)
    for each in (job_id, done):
        answer = service.client.delete(f"/v1/reconstructions/{each}", params={"results": True})
        assert (answer.status_code, answer.content) == (204, b"")
        assert not (service.log.parent / "store" / each).exists()
        assert service.client.get(f"/v1/reconstructions/{each}/result").status_code == 404
        assert service.client.delete(f"/v1/reconstructions/{each}", params={"results": True}).status_code == 404


def test_results_come_in_forms(service: Service, scan: Path) -> None:
    job_id = service.accepted(scan, plan=plan(num_samples=2), mask=MASK, output="h5,nifti,bart")
    content = service.result(job_id)
    address = f"/v1/reconstructions/{job_id}/result"

    def form(name: str) -> bytes:
        answer = service.client.get(address, params={"format": name})
        assert answer.status_code == 200, answer.text
        assert len(answer.content) == int(answer.headers["content-length"])
        assert "scan-" in answer.headers["content-disposition"]
        return answer.content

    assert form("h5") == content
    with h5py.File(io.BytesIO(content)) as file, np.load(io.BytesIO(form("npz")), allow_pickle=False) as arrays:
        assert set(arrays) == {*file, "kdrift"}
        assert all(np.array_equal(arrays[name], file[name][:]) for name in file)
    asked = service.client.get(f"/v1/reconstructions/{job_id}/outputs.zip").content
    with zipfile.ZipFile(io.BytesIO(form("nifti"))) as made, zipfile.ZipFile(io.BytesIO(asked)) as before:
        import gzip

        pairs = [f"{kind}.{suffix}" for kind in ("lower", "mean", "std", "upper") for suffix in ("cfl", "hdr")]
        assert sorted(before.namelist()) == sorted([*made.namelist(), *pairs])
        for name in made.namelist():
            assert gzip.decompress(made.read(name)) == gzip.decompress(before.read(name)), name
    with zipfile.ZipFile(io.BytesIO(form("png"))) as pictures:
        assert pictures.namelist() == [f"{kind}/{index:04d}.png" for kind in ("mean", "std") for index in (0, 1)]
        shown = service.client.get(f"/v1/reconstructions/{job_id}/std.png?slice=1").content
        assert pictures.read("std/0001.png") == shown
    for name in OUTPUTS:
        assert form(name)
    answer = service.client.get(address, params={"format": "jpeg"})
    assert answer.status_code == 422
    assert "no format 'jpeg'" in answer.json()["detail"]
    assert "h5, npz, png, nifti, dicom" in answer.json()["detail"]
    assert [path for path in (service.log.parent / "store" / "incoming").iterdir() if path.is_dir()] == []


@pytest.mark.slow
def test_a_time_is_kept_to_by_fewer_steps(service: Service, scan: Path) -> None:
    """The method and its prior's speed are known once a job of them was done; until then the answer says so."""
    asked = plan("score_mri_hybrid", num_samples=2, settings={"num_steps": 60}, check=False)

    def told(**values: Any) -> dict[str, Any]:
        answer = service.submit(scan, plan=asked, mask=MASK, slices=0, **values)
        assert answer.status_code == 202, answer.text
        return service.wait(answer.json()["id"])

    first = told(max_seconds=5.0)
    assert first["config"]["options"]["num_steps"] == 60
    assert any("was not kept to: no job of score_mri_hybrid" in note for note in first["notes"])
    seconds = first["finished"] - first["started"]
    plenty = told(max_seconds=1000.0)
    assert plenty["config"]["options"]["num_steps"] == 60
    assert any(note.startswith("60 of 60 steps, to be done in about") for note in plenty["notes"])
    half = told(max_seconds=seconds / 2)
    steps = half["config"]["options"]["num_steps"]
    assert 2 <= steps < 60
    assert half["config"]["max_seconds"] == seconds / 2
    (note,) = [note for note in half["notes"] if " steps, " in note]
    assert note.startswith((f"{steps} of 60 steps, to be done", "max_seconds"))
    assert not any("other settings" in note for note in half["notes"])
    assert half["finished"] - half["started"] < 0.9 * seconds + 0.5
    short = told(max_seconds=1e-6)
    assert any("cannot be kept to" in note and "the fewest of score_mri_hybrid" in note for note in short["notes"])
    for values, sentence in (
        ({"plan": plan("tv", settings={"max_iter": 2}), "max_seconds": 3}, "tv has no steps of which fewer"),
        ({"plan": asked, "max_seconds": 0}, "max_seconds must be above 0"),
        ({"plan": asked, "max_seconds": "soon"}, "max_seconds"),
    ):
        answer = service.submit(scan, mask=MASK, **values)
        assert (answer.status_code, sentence in answer.json()["detail"]) == (422, True), answer.text


def test_every_route_is_described_and_answers_as_it_says(service: Service, scan: Path) -> None:
    description = service.client.get("/openapi.json").json()
    jsonschema.Draft202012Validator.check_schema(description["components"]["schemas"]["JobRequest"])
    assert description["openapi"].startswith("3.1")
    assert description["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    routes = {(method, path) for path, item in description["paths"].items() for method in item}
    base = "/v1/reconstructions"
    assert routes == {
        ("post", base), ("get", base), ("get", f"{base}/{{job_id}}"), ("delete", f"{base}/{{job_id}}"),
        *(("get", f"{base}/{{job_id}}/{name}") for name in
          ("events", "result", "outputs.zip", "panel.png", "mean.png", "std.png", "images", "images/{name}.npy")),
        *(("get", f"/v1/{name}") for name in ("priors", "methods", "times", "health", "ready")),
        ("post", "/v1/inspections"),
        *((method, "/v1/uploads") for method in ("options", "post", "get")),
        *((method, "/v1/uploads/{upload_id}") for method in ("options", "get", "patch", "delete", "post")),
    }  # fmt: skip
    for path, item in description["paths"].items():
        for method, route in item.items():
            assert route["description"], (method, path)
            assert ("security" in route) == (path not in ("/v1/health", "/v1/ready") and method != "options")
            for option in route.get("parameters", []):
                assert option["in"] == "path" or option["description"], (path, option)
    upload = {each["name"]: each for each in description["paths"][base]["post"]["parameters"]}
    assert upload["plan.num_samples"]["schema"] == {"type": "integer", "default": 8}
    assert "mask.kind" in upload
    assert "path" not in upload
    job_id = service.accepted(scan, plan=plan(num_samples=2), mask=MASK)
    service.wait(job_id)
    accepted = service.submit(scan, plan=plan("tv", settings={"max_iter": 2}), mask=MASK)
    jsonschema.validate(accepted.json(), schema_of(service, base, "post", "202"))
    for path, address in {
        base: base, f"{base}/{{job_id}}": f"{base}/{job_id}", "/v1/uploads": "/v1/uploads",
        **{f"/v1/{name}": f"/v1/{name}" for name in ("priors", "methods", "health", "ready")},
        "/v1/times": "/v1/times?shape=32x32&coils=4",
        f"{base}/{{job_id}}/images": f"{base}/{job_id}/images",
    }.items():  # fmt: skip
        answer = service.client.get(address)
        assert answer.status_code == 200, answer.text
        jsonschema.validate(answer.json(), schema_of(service, path))
    wrong = service.client.get(f"{base}/abc")
    jsonschema.validate(wrong.json(), schema_of(service, f"{base}/{{job_id}}", "get", "404"))
    page = service.client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"https?://(?!127)", page.text)
    for path in description["paths"]:
        assert path in page.text
    assert "schema-JobRequest" in page.text
    assert service.client.get("/docs.css").status_code == 200


def test_a_file_is_inspected_and_nothing_of_it_kept(service: Service, scan: Path, tmp_path: Path) -> None:
    binary = {"content-type": "application/octet-stream"}

    def inspected(path: Path, status: int = 200, **options: Any) -> Any:
        content, params = path.read_bytes(), {"name": path.name, **options}
        answer = service.client.post("/v1/inspections", params=params, content=content, headers=binary)
        assert answer.status_code == status, answer.text
        return answer.json()

    found = inspected(scan)
    jsonschema.validate(found, schema_of(service, "/v1/inspections", "post"))
    assert (found["slices"], found["coils"], found["shape"], found["undersampled"]) == (2, 4, [32, 32], False)
    assert (found["mask"]["kind"], found["mask"]["acceleration"], found["simulated"]) == ("equispaced", 2.0, True)
    assert found["method"] == "annealed"
    noise = np.random.default_rng(0).normal(size=(2, 4, 32, 32))
    gaps = (noise[0] + 1j * noise[1]).astype(np.complex64)
    gaps[..., 1:12:2] = 0
    np.save(tmp_path / "gaps.npy", gaps)
    measured = inspected(tmp_path / "gaps.npy", axes="coil,row,col")
    assert (measured["undersampled"], measured["mask"], measured["slices"]) == (True, None, 1)
    assert "no mask" in measured["why"]
    (tmp_path / "broken.h5").write_bytes(scan.read_bytes()[:500])
    told = inspected(tmp_path / "broken.h5", 422)["detail"]
    assert "broken.h5" in told
    assert "/" not in told
    example = service.client.post("/v1/inspections", json={"example": "phantom"}).json()
    assert (example["coils"], example["shape"], example["mask"]["acceleration"]) == (8, [192, 192], 4.0)
    assert service.client.post("/v1/inspections", json={}).status_code == 422
    assert [path for path in (service.log.parent / "store" / "incoming").iterdir() if path.is_dir()] == []


def test_methods_say_what_they_are_expected_to_take(service: Service, scan: Path) -> None:
    service.result(service.accepted(scan, plan=plan(num_samples=2, check=False), mask=MASK))

    def times(**options: Any) -> Any:
        answer = service.client.get("/v1/times", params={"shape": "32x32", "coils": 4, **options})
        assert answer.status_code == 200, answer.text
        return answer.json()

    found = times(samples=2)
    assert found["annealed"]["measured"]
    assert (found["loraks"]["evaluations"], found["loraks"]["seconds"]) == (0, None)
    service.result(service.accepted(scan, plan=plan("cg_sense"), mask=MASK))
    classical = times()["cg_sense"]
    assert (classical["evaluations"], classical["measured"]) == (0, True)
    assert times(slices=40)["cg_sense"]["seconds"] > classical["seconds"] >= 0
    assert found["annealed"]["seconds"] > 0
    assert found["dds"]["seconds"] > 0
    assert not found["dds"]["measured"]
    assert "this service has none" in found["varnet"]["fault"]
    more = times(samples=2, slices=4, steps=80)
    assert more["annealed"]["evaluations"] > 4 * found["annealed"]["evaluations"]
    assert more["annealed"]["seconds"] > found["annealed"]["seconds"]
    for options in ({"shape": "32"}, {"coils": 0}, {"samples": 0}):
        assert service.client.get("/v1/times", params={"shape": "32x32", "coils": 4, **options}).status_code == 422


def test_images_come_as_numbers(service: Service, scan: Path) -> None:
    asked = plan(num_samples=2, keep_samples=True)
    job_id = service.accepted(scan, plan=asked, mask=MASK)
    content, base = service.result(job_id), f"/v1/reconstructions/{job_id}/images"
    assert service.status(job_id)["links"]["images"] == base
    listed = service.client.get(base).json()
    assert (listed["shape"], listed["slices"], listed["samples"]) == ([32, 32], [0, 1], 2)
    assert listed["images"] == ["mean", "std", "lower", "upper", "zero_filled", "reference", "samples"]
    with h5py.File(io.BytesIO(content)) as file:
        for name in listed["images"]:
            answer = service.client.get(f"{base}/{name}.npy", params={"slice": 1, "sample": 1})
            assert answer.headers["cache-control"] == "no-store"
            found = np.load(io.BytesIO(answer.content), allow_pickle=False)
            stored = file["reconstruction" if name == "mean" else name][1]
            assert (found.dtype, np.array_equal(found, stored[1] if name == "samples" else stored)) == ("<f4", True)
    for address, sentence in (
        ("men.npy", "no image 'men'"), ("mean.npy?slice=2", "expected 0 to 1"),
        ("samples.npy?sample=2", "sample is 2, expected 0 to 1"), ("mask.npy", "this result has mean, std"),
    ):  # fmt: skip
        answer = service.client.get(f"{base}/{address}")
        assert (answer.status_code, sentence in answer.json()["detail"]) == (422, True), answer.text
    classical = service.accepted(scan, plan=plan("tv", settings={"max_iter": 2}), mask=MASK)
    service.wait(classical)
    listed = service.client.get(f"/v1/reconstructions/{classical}/images").json()
    assert listed["images"] == ["mean", "zero_filled", "reference"]


def test_readiness_is_told_apart_from_health(service: Service) -> None:
    with as_key(service, "") as nobody:
        answer = nobody.get("/v1/ready")
        assert (answer.status_code, answer.json()) == (200, {"ready": True, "missing": {}, "warnings": []})
        (sampler,) = service.replicas("Sampler")
        sampler.kill()
        limit = time.monotonic() + 30
        while (answer := nobody.get("/v1/ready")).status_code == 200 and time.monotonic() < limit:
            time.sleep(0.2)
        assert answer.status_code == 503
        assert "sampler" in answer.json()["missing"]
        assert nobody.get("/v1/health").status_code == 200
        while nobody.get("/v1/ready").status_code == 503 and time.monotonic() < limit + 60:
            time.sleep(0.2)
        assert nobody.get("/v1/ready").status_code == 200
