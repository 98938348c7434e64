"""A real service in a process of its own, what it serves, and the library's answer to compare with."""

from __future__ import annotations

import io
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import psutil
import torch
import yaml

from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.phantom import phantom_volume
from kdrift.networks import NCSNppConfig, NetworkConfig, build_network
from kdrift.prior.bundle import save_prior
from kdrift.prior.prior_info import PriorInfo
from kdrift.recon.acquisition import load_acquisition
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct
from kdrift.recon.request import AcquisitionRequest, MaskRequest
from kdrift.sde import WhiteNoise

KEY = "0123456789abcdef-test"
START_S, JOB_S = 240.0, 120.0
CONFIG = NetworkConfig(
    NCSNppConfig(image_size=32, nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), middle_attention=False,
                 centered=True, scale_by_sigma=False, init_scale=0.1),
    preconditioning="edm",
)  # fmt: skip
CALLS = "calls.txt"
"""What each process of the service called, in a line each; see counting/sitecustomize.py."""
MASK = {"kind": "equispaced", "acceleration": 2, "acs_lines": 14}
LONG = {"num_steps": 5000}
"""Settings of a job that is still running when it is looked at."""


def tiny_prior(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    return save_prior(folder, build_network(CONFIG), CONFIG, PriorInfo(WhiteNoise(0.01, 5.0)))


def phantom_file(path: Path, num_slices: int = 1) -> Path:
    phantom = phantom_volume(num_slices, 32, 32, 4, seed=1)
    write_fastmri(path, phantom.kspace, reference=phantom.reference, attrs=phantom.attrs)
    return path


def plan(method: str = "annealed", **values: Any) -> dict[str, Any]:
    settings = {"num_steps": 3} if method in ("annealed", "score_mri_ssos", "score_mri_hybrid") else {}
    return {"method": method, "num_samples": 4, "precision": "float32", "settings": settings, **values}


def library(
    source: Path, prior: Path, values: dict[str, Any], slices: tuple[int, int] | None = None, *,
    mask: dict[str, Any] | None = MASK,
) -> Any:  # fmt: skip
    """What `reconstruct` in this process says."""
    scan = load_acquisition(
        AcquisitionRequest(source=str(source), mask=MaskRequest(**mask) if mask else None, slices=slices)
    )
    return reconstruct(
        scan.kspace, scan.mask, plan=Plan(**values), prior=str(prior), slice_indices=scan.slice_indices
    )  # fmt: skip


def assert_same(content: bytes, expected: Any, within: float = 1e-5) -> None:
    """Mean and deviation of a result file are those of the library, within 1e-5 of the largest value.

    Chunks of another size are batches of another size, whose float32 sums round otherwise: one sample moves by up to
    5e-6 of its largest value (the library's own with `batch_samples` 1 and 2), and the deviation, of a few samples and
    five times smaller, by up to 1.5e-5 of its own. Longer chains, in a batch of 8 or alone, by up to 1.5e-5.
    """
    with h5py.File(io.BytesIO(content)) as file:
        assert_close({"mean": file["reconstruction"][:], "std": file["std"][:]}, expected, within)


def assert_close(images: dict[str, np.ndarray], expected: Any, within: float = 1e-5) -> None:
    """Images `(slice, row, col)` are those of the library, as in `assert_same`."""
    found = {name: torch.from_numpy(values) for name, values in images.items()}
    for name, image in found.items():
        reference = getattr(expected, name)
        assert image.shape == reference.shape
        assert float((image - reference).abs().max()) <= within * float(expected.mean.max()), name
        if float(reference.max()) > 0:
            ratio = float((image - reference).abs().max()) / float(reference.max())
            assert ratio <= 3e-5, f"{name} differs by {ratio:.1e} of its largest value"


@dataclass
class Service:
    """A running `kdrift serve`."""

    process: subprocess.Popen[str]
    client: httpx.Client
    log: Path

    def submit(self, source: Path | None = None, **values: Any) -> httpx.Response:
        """Upload a file, or send JSON where there is none."""
        if source is None:
            return self.client.post("/v1/reconstructions", json=values)
        options = {"name": source.name, **flatten(values)}
        kind = {"content-type": "application/octet-stream"}
        return self.client.post("/v1/reconstructions", params=options, content=source.read_bytes(), headers=kind)

    def accepted(self, source: Path | None = None, **values: Any) -> str:
        response = self.submit(source, **values)
        assert response.status_code == 202, response.text
        assert response.headers["location"] == f"/v1/reconstructions/{response.json()['id']}"
        return str(response.json()["id"])

    def status(self, job_id: str) -> dict[str, Any]:
        response = self.client.get(f"/v1/reconstructions/{job_id}")
        assert response.status_code == 200, response.text
        return dict(response.json())

    def wait(self, job_id: str, until: Callable[[dict[str, Any]], bool] | None = None) -> dict[str, Any]:
        """Wait until a job is finished, or `until` is true of its status."""
        limit = time.monotonic() + JOB_S
        while time.monotonic() < limit:
            status = self.status(job_id)
            if until(status) if until else status["state"] not in ("queued", "running"):
                return status
            time.sleep(0.1)
        raise TimeoutError(f"job {job_id}: {status}")

    def sampling(self, job_id: str) -> dict[str, Any]:
        """Wait until a job is in the midst of sampling."""
        return self.wait(job_id, lambda status: bool((status["progress"] or {}).get("evaluations_done")))

    def result(self, job_id: str) -> bytes:
        status = self.wait(job_id)
        assert status["state"] == "done", status
        response = self.client.get(f"/v1/reconstructions/{job_id}/result")
        assert response.status_code == 200
        return response.content

    def cancel(self, job_id: str) -> httpx.Response:
        return self.client.delete(f"/v1/reconstructions/{job_id}")

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Processes of the replicas of a deployment."""
        title, found = f"ray::ServeReplica:kdrift:{deployment}", list[psutil.Process]()
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                found += [child] if " ".join(child.cmdline()).startswith(title) else []
        return found

    def healthy(self, timeout_s: float = START_S) -> None:
        """Wait until the ingress answers."""
        limit = time.monotonic() + timeout_s
        while time.monotonic() < limit:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if self.client.get("/v1/health").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise TimeoutError(f"the service does not answer: {self.log.read_text()}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop the service; nothing that it started may be left."""
        children = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.send_signal(number)
        status = self.process.wait(60)
        _, left = psutil.wait_procs(children, 30)
        for child in left:
            child.kill()
        self.client.close()
        assert not left, f"left behind: {left}"
        return status


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The options of a query."""
    import json

    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return flat


def free_port() -> int:
    """A port that nobody holds, above Ray's own and below those that the kernel hands out before it is bound."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no port is free between 20000 and 32000")


def serve_file(folder: Path, args: dict[str, Any], port: int) -> Path:
    """A configuration as in configs/serve/."""
    application = {"name": "kdrift", "import_path": "kdrift_serve.app:build", "route_prefix": "/", "args": args}
    path = folder / "serve.yaml"
    http = {"host": "127.0.0.1", "port": port, "request_timeout_s": 600}
    path.write_text(yaml.safe_dump({"http_options": http, "applications": [application]}))
    return path


def client_of(port: int, key: str | None) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, trust_env=False)


def start(
    folder: Path, args: dict[str, Any], *options: str, key: str | None = None, source: Path | None = None
) -> Service:
    """Start `kdrift serve` with some options, of another checkout if `source` is one, and wait until it answers."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "serve.log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KDRIFT_API_KEYS": key or ""}
    counting = str(Path(__file__).parent / "counting")
    others = [str(source / part) for part in ("platform", "serve")] if source else [os.environ.get("PYTHONPATH")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (counting, *others)))
    environment["KDRIFT_CALLS"] = str(folder / CALLS)
    command = [sys.executable, "-m", "kdrift", "serve", "--config", str(serve_file(folder, args, port)), *options]
    with log.open("a") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT, text=True)
    service = Service(process, client_of(port, key), log)
    try:
        service.healthy()
    except BaseException:
        service.client.close()
        process.terminate()
        process.wait(60)
        raise
    return service


@contextmanager
def running(folder: Path, args: dict[str, Any], *options: str, key: str | None = None) -> Iterator[Service]:
    service = start(folder, args, *options, key=key)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.stop()
        service.client.close()
