"""Shared fixtures. Real data is read from KDRIFT_DATA (default: ../shared/data beside the checkout)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from s3_helpers import Server, s3_server, shorten_waits

REPOSITORY = Path(__file__).resolve().parents[1]

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 starves workers on a busy machine
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real MR data; tests that ask for it are skipped where it is absent."""
    folder = Path(os.environ.get("KDRIFT_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data folder {folder} is absent (set KDRIFT_DATA)")
    return folder


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """Folder with outputs of published code; tests that ask for it are skipped where it is absent."""
    folder = Path(os.environ.get("KDRIFT_REFERENCE", REPOSITORY.parent / "shared" / "reference"))
    if not folder.is_dir():
        pytest.skip(f"reference outputs folder {folder} is absent (set KDRIFT_REFERENCE)")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _no_presets_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["KDRIFT_PRESETS"] = str(tmp_path_factory.getbasetemp() / "presets")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where workers share the files, those that start a Ray come first, so that none is left to the end alone."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("ray")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module", autouse=True)
def _own_ray(request: pytest.FixtureRequest) -> None:
    """End the Ray that files with `cluster` share before a file without it, which may start its own."""
    shares = any(
        "cluster" in getattr(item, "fixturenames", ()) for item in request.session.items if item.path == request.path
    )
    if "ray" in sys.modules and not shares:
        sys.modules["ray"].shutdown()


@pytest.fixture(scope="module")
def cluster() -> None:
    """A Ray of two CPUs: the one that the file before left, or a new one."""
    import ray

    if not ray.is_initialized():
        ray.init(num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that speaks S3, named by the environment."""
    with s3_server() as found:
        yield found


@pytest.fixture
def url(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place on the server, with waits that are short and a cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shorten_waits(monkeypatch)
    return f"s3://{server.bucket()}/runs/x"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What makes this another machine, with an empty cache."""
    numbers = iter(range(10))
    return lambda: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"machine-{next(numbers)}"))


torch.set_num_threads(1)  # the tensors of tests are small, and a busy machine makes thread barriers slow


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
