"""The client against a real service: files, arrays, waiting, what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import kdrift
from kdrift.client import Client, ServiceError
from kdrift.recon.plan import Plan
from kdrift.recon.request import MaskRequest
from serve_helpers import KEY, LONG, MASK, Service, library, phantom_file, plan, running, tiny_prior

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


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
        "samplers": {"replicas": 1, "num_cpus": 1, "device": "cpu"},
    }  # fmt: skip
    with running(folder, args, key=KEY) as started:
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
