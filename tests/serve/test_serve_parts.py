"""Parts of the service by themselves: storage, pinned priors, progress, answers."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import torch

from kdrift.data.phantom import phantom_volume
from kdrift.methods import METHODS
from kdrift.prior.bundle import load_prior, shipped_priors
from kdrift.prior.pinned import load_pinned, pin_prior
from kdrift.prior.prior_info import PriorInfo
from kdrift.recon.chunks import Chunk, ChunkResult
from kdrift.recon.guard import Diverged
from kdrift.recon.merge import merge_chunks
from kdrift.recon.slices import RawSlice, prepare_slice
from kdrift.runs import registry, tracking
from kdrift.sde import HighFrequencyNoise, LowFrequencies
from kdrift_serve.ingress import Ingress
from kdrift_serve.job_request import (
    allowed_path,
    check_cost,
    choose_prior,
    from_json,
    from_query,
    resolve_plan,
    upload_name,
)
from kdrift_serve.jobs import Job, SliceVerdict
from kdrift_serve.pictures import picture
from kdrift_serve.pieces import Failed, Piece, Step
from kdrift_serve.problems import Problem
from kdrift_serve.routes import create_app
from kdrift_serve.sampler import DeviceFailed, Sampler
from kdrift_serve.serve_config import AuthConfig, Limits, SamplerConfig, ServeConfig
from serve_helpers import free_port, tiny_prior

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own dependencies


def job(**values: Any) -> Job:
    fields: dict[str, Any] = {"id": "a" * 32, "state": "done", "name": "n", "key": "", "service": "s", "slices": [0]}
    return Job(**{**fields, **values})


def test_names_and_paths(tmp_path: Path) -> None:
    assert upload_name("my scan (1).h5") == "my_scan__1_.h5"
    root = tmp_path / "root"
    (root / "a.zarr" / "volume").mkdir(parents=True)
    assert allowed_path("a.zarr/volume", [root]) == root / "a.zarr" / "volume"
    assert allowed_path(str(root / "a.zarr"), [tmp_path / "other", root]) == root / "a.zarr"
    (tmp_path / "root2").mkdir()
    with pytest.raises(Problem, match="outside"):
        allowed_path("../root2", [root])  # begins like the root, and is not in it
    with pytest.raises(Problem, match="by path"):
        allowed_path("a", [])


def test_no_link_leads_out_of_the_roots(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in ("series", "x.zarr/a/kspace/c/0", ".git/annex"):
        (root / folder).mkdir(parents=True)
    outside.mkdir()
    for path in (outside / "secret", root / "b.hdr", root / ".git" / "annex" / "key", root / "series" / "1.dcm"):
        path.write_bytes(b"x")
    (root / "x.zarr" / "a" / "zarr.json").write_text("{}")
    (root / "annexed.h5").symlink_to(".git/annex/key")
    assert allowed_path("annexed.h5", [root]) == root / "annexed.h5"
    assert allowed_path("series", [root]) == root / "series"
    (root / "file.h5").symlink_to(outside / "secret")
    (root / "folder").symlink_to(outside)
    for path in ("file.h5", "folder", "folder/secret"):
        with pytest.raises(Problem, match="outside of the folders"):
            allowed_path(path, [root])
    for link, path in {"series/2.dcm": "series", "b.cfl": "b.hdr", "x.zarr/a/kspace/c/0/1": "x.zarr/a"}.items():
        (root / link).symlink_to(outside / "secret")
        with pytest.raises(Problem, match=rf"a link, {os.path.basename(link)}, that leads out"):
            allowed_path(path, [root])


def test_query_options_are_json_or_text() -> None:
    found = from_query(
        [("plan.settings.num_steps", "3"), ("name", "a.h5"), ("mask.kind", "random"), ("slices", "[1,2]")]
    )
    assert found.plan.settings == {"num_steps": 3}
    assert found.mask is not None
    assert (found.name, found.mask.kind, found.slices) == ("a.h5", "random", (1, 2))


def test_pinned_priors(tmp_path: Path) -> None:
    name = shipped_priors()[0]
    assert pin_prior(name).sha256 == load_prior(name).sha256
    folder = tiny_prior(tmp_path / "tiny")
    pinned = pin_prior(str(folder))
    assert load_pinned(pinned).name == "tiny"
    assert str(tmp_path) not in json.dumps(pinned.describe())
    tiny_prior(folder, seed=1)
    with pytest.raises(ValueError, match="replaced; deploy again"):
        load_pinned(pinned)


def test_registered_priors_are_pinned_by_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = tracking.default_uri(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def register(seed: int) -> str:
        run_id = tracking.start_run(uri, "tiny", {}, tmp_path / "artifacts")
        return registry.register_prior(uri, run_id, tiny_prior(tmp_path / f"bundle{seed}", seed), "tiny")

    assert register(0) == "1"
    by_alias = pin_prior("models:/tiny@candidate", uri)
    assert register(1) == "2"
    assert pin_prior("models:/tiny@candidate", uri).version == "2"
    assert (by_alias.version, by_alias.sha256) == ("1", pin_prior("models:/tiny/1", uri).sha256)
    assert load_pinned(pin_prior("models:/tiny/2", uri)).name == "tiny"
    for reference, text in (
        ("models:/tiny", "expected models:/NAME@ALIAS"), ("models:/tiny@best", "no prior tiny"),
        ("models:/tyni/1", "no prior tyni"), ("brain-magnitud", "did you mean 'brain-magnitude'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            pin_prior(reference, uri)
    with pytest.raises(ValueError, match="needs the variable MLFLOW_TRACKING_URI"):
        pin_prior("models:/tiny/1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert pin_prior("models:/tiny/1").tracking_uri == uri
    away = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ValueError, match=f"^the MLflow registry at {away} does not answer: is it running"):
        pin_prior("models:/tiny/1", away)
    kept = dataclasses.replace(pin_prior("models:/tiny/2"), tracking_uri=away)
    assert load_pinned(kept).sha256 == kept.sha256, "a process that starts again needs no registry"


def test_pictures_are_of_one_slice(tmp_path: Path) -> None:
    import h5py
    import numpy as np

    with h5py.File(tmp_path / "r.h5", "w") as file:
        file["reconstruction"] = np.linspace(0, 2, 32, dtype=np.float32).reshape(2, 4, 4)
        file["std"] = np.zeros((2, 4, 4), np.float32)
    png, top = picture(tmp_path / "r.h5", "mean", 1)
    assert png.startswith(b"\x89PNG")
    assert 1.9 < top <= 2
    assert picture(tmp_path / "r.h5", "std", 0)[1] == 100
    with pytest.raises(ValueError, match="expected 0 to 1"):
        picture(tmp_path / "r.h5", "mean", 2)


def silly_plan(**values: Any) -> dict[str, Any]:
    """A plan that diverges with any prior."""
    settings = {"num_steps": 20, "snr": 50.0}
    return {"method": "score_mri_ssos", "settings": settings, "num_samples": 2, "precision": "float32", **values}


def test_chunks_that_diverge_travel_and_are_no_image(tmp_path: Path) -> None:
    pinned = {"tiny": pin_prior(str(tiny_prior(tmp_path / "tiny")))}
    sampler = Sampler(SamplerConfig(device="cpu"), pinned, str(tmp_path / "store"))
    phantom = torch.as_tensor(phantom_volume(1, 32, 32, 2, seed=1).kspace)[0]
    data = prepare_slice(RawSlice(4, phantom, torch.ones(32, 32, dtype=torch.bool)))
    data = dataclasses.replace(data, mask=data.mask & (torch.arange(32) % 2 == 0))
    for on_divergence in ("error", "fallback"):
        request = from_json(json.dumps({"plan": silly_plan(on_divergence=on_divergence)}).encode())
        plan = resolve_plan(request, sampler._priors, Limits())
        chunks = [Chunk((0, 2), (coil, coil + 1)) for coil in range(2)]
        results = [sampler._run_chunk(plan, "tiny", data, chunk, lambda done, total, show: None) for chunk in chunks]
        found = [pickle.loads(pickle.dumps(result)) for result in results]
        assert all(isinstance(result, ChunkResult) for result in found)
        if on_divergence == "error":
            with pytest.raises(Diverged, match="slice 4: all 2 samples diverged"):
                merge_chunks(found)
        else:
            assert merge_chunks(found).fallback


def test_a_call_tells_what_comes_of_each_piece_and_a_failed_device_does_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = {"tiny": pin_prior(str(tiny_prior(tmp_path / "tiny")))}
    sampler = Sampler(SamplerConfig(device="cpu"), pinned, str(tmp_path / "store"))
    request = from_json(json.dumps({"plan": {"num_samples": 1, "settings": {"num_steps": 3}}}).encode())
    plan = resolve_plan(request, sampler._priors, Limits())
    phantom = torch.as_tensor(phantom_volume(1, 32, 32, 2, seed=1).kspace)[0]
    data = prepare_slice(RawSlice(0, phantom, torch.ones(32, 32, dtype=torch.bool)))
    good, gone = Piece(plan, "tiny", "a" * 32, 0, Chunk((0, 1))), Piece(plan, "tiny", "b" * 32, 0)

    async def ends(pieces: list[Piece]) -> dict[int, Any]:
        given = [None if piece.chunk is None else data for piece in pieces]
        events = [event async for event in sampler.run(pieces, "planner", *given)]
        return {number: event for number, event in events if not isinstance(event, Step)}

    found = asyncio.run(ends([good, gone, good]))
    assert isinstance(found[0], ChunkResult)
    assert isinstance(found[2], ChunkResult)
    assert found[1] == "the data of this job are gone: send it again"
    run = sampler._run_chunk

    def raises(error: Exception) -> None:
        def once(*arguments: Any) -> ChunkResult:
            monkeypatch.setattr(sampler, "_run_chunk", run)
            raise error

        monkeypatch.setattr(sampler, "_run_chunk", once)

    raises(torch.OutOfMemoryError("out of memory"))
    found = asyncio.run(ends([good, good]))
    assert found[0] == Failed("OutOfMemoryError", memory=True)
    assert isinstance(found[1], ChunkResult)
    sampler.check_health()
    raises(RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(DeviceFailed, match="illegal memory access"):
        asyncio.run(ends([good]))
    with pytest.raises(DeviceFailed, match="illegal memory access"):
        sampler.check_health()
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(ends([good]), 0.3))


def test_all_chains_of_a_request_cost(tmp_path: Path) -> None:
    priors = {"tiny": load_prior(tiny_prior(tmp_path / "tiny"))}

    def asked(**values: Any) -> Any:
        return from_json(json.dumps({"example": "phantom", "plan": values}).encode())

    plan = resolve_plan(asked(), priors, Limits())
    assert plan.evaluations(8) == 8 * 15 + 2 * 40 + (2 * 15 + 2 * 40)
    check_cost(plan, 4, 8, Limits(job_evaluations=4 * 310))
    with pytest.raises(ValueError, match=r"1240 network evaluations in all \(4 slices, .* takes at most 1239"):
        check_cost(plan, 4, 8, Limits(job_evaluations=1239))
    with pytest.raises(Problem, match="310 network evaluations in all"):
        resolve_plan(asked(), priors, Limits(job_evaluations=309))
    assert resolve_plan(asked(check=False), priors, Limits(job_evaluations=309)).evaluations(8) == 200
    coils = resolve_plan(asked(method="score_mri_ssos", num_samples=1, check=False), priors, Limits())
    assert coils.evaluations(8) == 8 * coils.evaluations(1)
    with pytest.raises(ValueError, match="network evaluations in all"):
        check_cost(coils, 1, 8, Limits(job_evaluations=7 * coils.evaluations(1)))


def service(tmp_path: Path, *jobs: Job) -> Ingress:
    """An ingress of no planner, with jobs that are as they are."""
    priors = {"tiny": pin_prior(str(tiny_prior(tmp_path / "tiny")))}
    config = ServeConfig(storage=str(tmp_path / "jobs"), auth=AuthConfig(keyless_on_loopback=True))
    made = Ingress(config, "s", priors, None)  # type: ignore[arg-type]
    for each in jobs:
        made._table.reserve(dataclasses.replace(each, state="reading"), most=9, most_of_key=9)
        made._table.write(each)
    return made


def get(made: Ingress, path: str, method: str = "GET") -> httpx.Response:
    """Ask the application itself, without a server."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(made))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as http:
            return await http.request(method, path)

    return asyncio.run(ask())


@pytest.mark.parametrize("value", [5001, 10**27, 10**400, 1e300, "9" * 400])
def test_no_whole_number_is_counted_up_to_before_it_is_refused(value: Any) -> None:
    for name, method in METHODS.items():
        for option in dataclasses.fields(method.options):
            request = from_json(json.dumps({"plan": {"method": name, "settings": {option.name: value}}}).encode())
            if str(option.type).startswith("int"):
                with pytest.raises(Problem, match=f"{option.name} is .* at most 5000"):
                    resolve_plan(request, {}, Limits())


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/", "GET, HEAD"),
        ("/v1/reconstructions/0", "DELETE, GET, HEAD"),
        ("/v1/uploads", "GET, OPTIONS, POST, HEAD"),
        ("/v1/uploads/0", "DELETE, GET, OPTIONS, PATCH, POST, HEAD"),
        ("/v1/inspections", "POST"),
    ],
)
def test_an_address_tells_which_methods_it_takes(tmp_path: Path, path: str, methods: str) -> None:
    answer = get(service(tmp_path, job()), path, "TRACE")
    assert (answer.status_code, answer.headers["allow"]) == (405, methods)
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_description_says_what_a_request_needs(tmp_path: Path) -> None:
    described = get(service(tmp_path, job()), "/openapi.json").json()
    paths = described["paths"]
    for method, path, names in (
        ("post", "/v1/uploads", {"Tus-Resumable", "Upload-Length"}),
        ("patch", "/v1/uploads/{upload_id}", {"upload_id", "Tus-Resumable", "Upload-Offset"}),
        ("post", "/v1/uploads/{upload_id}", {"upload_id", "Tus-Resumable", "X-HTTP-Method-Override"}),
        ("delete", "/v1/uploads/{upload_id}", {"upload_id", "Tus-Resumable"}),
        ("options", "/v1/uploads/{upload_id}", {"upload_id"}),
    ):
        assert {each["name"] for each in paths[path][method]["parameters"] if each["required"]} == names
    create = paths["/v1/reconstructions"]["post"]
    operations = {route["operationId"] for item in paths.values() for route in item.values()}
    links = create["responses"]["202"]["links"]
    assert {"get", "delete", "get-result", "get-events", "get-images-name-.npy"} <= set(links)
    assert {link["operationId"] for link in links.values()} <= operations
    asked = create["requestBody"]["content"]["application/json"]["schema"]
    check = jsonschema.Draft202012Validator({**asked, "components": described["components"]})
    for named in ({"path": "a.h5"}, {"example": "phantom"}, {"upload": "0", "name": "a.h5"}):
        check.validate(named)
    for unnamed in ({}, {"path": None}, {"path": "a.h5", "example": "phantom"}, {"path": "a.h5", "name": "b.h5"}):
        assert not check.is_valid(unnamed), unnamed


def test_a_diverged_job_is_a_problem_and_no_path_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDRIFT_PRESETS", str(tmp_path / "presets"))
    sentence = "slice 0: all 2 samples diverged, sample 0 at step 3 of 20: its values are not finite"
    made = service(tmp_path, job(state="failed", detail=sentence))
    answer = get(made, f"/v1/reconstructions/{'a' * 32}/result")
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == f"this reconstruction is failed: {sentence}"
    assert get(made, "/v1/methods").json()["methods"]["annealed"]["default_preset"] == "tuned"
    (tmp_path / "presets" / "annealed").mkdir(parents=True)
    (tmp_path / "presets" / "annealed" / "mine.yaml").write_text("method: annealed\nsettings: {num_step: 3}\n")
    (tmp_path / "presets" / "defaults.yaml").write_text("annealed: mine\n")
    methods = get(made, "/v1/methods")
    assert methods.status_code == 200
    assert methods.json()["methods"]["annealed"]["default_preset"] is None
    assert "preset annealed/mine.yaml" in methods.json()["methods"]["annealed"]["fault"]
    assert methods.json()["methods"]["score_mri"]["priors"] == ["tiny"]
    assert str(tmp_path) not in methods.text
    kinds = methods.json()
    assert "annealed" in kinds["samplers"]
    assert "varnet" in kinds["learned"]
    assert "tv" in kinds["classical"]
    assert {*kinds["samplers"], *kinds["learned"], *kinds["classical"]} == set(METHODS)
    with pytest.raises(Problem) as error:
        resolve_plan(from_json(b'{"example": "phantom", "plan": {"method": "annealed"}}'), made._priors, Limits())
    assert (error.value.status, str(tmp_path) in error.value.detail) == (422, False)
    assert "preset annealed/mine.yaml" in error.value.detail
    assert get(made, "/v1/priors").json()[0]["trained_for"] == "white"


def test_a_job_without_a_number_is_still_told(tmp_path: Path) -> None:
    """A classical method that found no number has an infinite error, which JSON has no word for."""
    verdict = SliceVerdict("not trusted", "not trusted: TV predicts left-out k-space better", "tv")
    found = job(verdicts={"3": verdict}, report={"outputs": [], "errors": [1.0, math.inf, math.nan]})
    answer = get(service(tmp_path, found), f"/v1/reconstructions/{'a' * 32}")
    assert answer.status_code == 200
    assert answer.json()["report"]["errors"] == [1.0, None, None]
    assert answer.json()["verdicts"]["3"] == dataclasses.asdict(verdict)


def test_a_prior_is_found_that_serves_the_method(tmp_path: Path) -> None:
    white = load_prior(tiny_prior(tmp_path / "tiny"))
    info = PriorInfo(HighFrequencyNoise(0.01, 5.0, LowFrequencies()))
    other = dataclasses.replace(white, name="hf", info=info)
    both = {"hf": other, "white": white}

    def asked(**values: Any) -> Any:
        return from_json(json.dumps({"example": "phantom", "plan": {"settings": {"num_steps": 2}}, **values}).encode())

    assert choose_prior(asked(), both) == "white"
    assert choose_prior(asked(plan={"method": "tv"}), both) == "hf"
    assert (white.network_config.images, METHODS["annealed"].images) == ("magnitude", "complex")
    complex_network = load_prior("brain-complex-small")  # the second of the service, and of what annealed was made for
    assert choose_prior(asked(), {"white": white, "complex": complex_network}) == "complex"
    assert choose_prior(asked(plan={"method": "score_mri"}), {"complex": complex_network, "white": white}) == "white"
    assert resolve_plan(asked(), both, Limits()).config["prior"]["name"] == "tiny"
    for request, priors, sentence in (
        (asked(prior="hf"), both, r"needs a prior trained on white noise, hf was trained on .*; .* serve it: white"),
        (asked(prior="wite"), both, "no prior 'wite', did you mean 'white'"),
        (asked(), {"hf": other}, "needs a prior trained on white noise; this service has none"),
        (
            asked(plan={"method": "score_mri_real"}),
            {"complex": complex_network},
            "of magnitude images; this service has",
        ),
    ):
        with pytest.raises(Problem, match=sentence) as error:
            resolve_plan(request, priors, Limits())
        assert error.value.status == 422
