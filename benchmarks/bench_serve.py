"""What the service adds to the library, and what a second sampler gives.

A request of 16 chains, from sending the file to the result on disk, against `reconstruct` with reading and writing in a
process of the same environment and threads; then two samplers of one core against one. Both sides are warmed up; the
best of two. Run `python -m benchmarks.bench_serve [--quick]` from the root; it starts and stops services of its own.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from benchmarks.table import main
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.phantom import phantom_volume
from kdrift.recon.acquisition import load_acquisition
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct
from kdrift.recon.report import save_result
from kdrift.recon.request import AcquisitionRequest, MaskRequest
from kdrift.runs.hardware import worker_environment

COMMAND = "python -m benchmarks.bench_serve"
MASK = {"kind": "equispaced", "acceleration": 4.0, "acs_fraction": 0.08}
SAMPLES, REPEATS = 16, 2


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Rows of the benchmark table; `quick` takes 96x96 and 6 steps."""
    size, steps = (96, 6) if quick else (192, 24)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan = folder / "scan.h5"
        phantom = phantom_volume(1, size, size, 8, seed=0)
        write_fastmri(scan, phantom.kspace, reference=phantom.reference, attrs=phantom.attrs)
        library = _library(scan, steps)
        one, two = (_service(scan, steps, replicas, folder / str(replicas)) for replicas in (1, 2))
    what = f"{SAMPLES} chains, {steps} steps, {size}x{size}"
    return [
        _row(f"service against library, {what}", one, library, one / library, "<= 1.05"),
        _row(f"2 samplers against 1, {what}", two, one, one / two, ">= 1.7"),
    ]


def _row(name: str, value: float, baseline: float, ratio: float, target: str) -> dict[str, Any]:
    return {
        "name": name, "value": value, "unit": "s", "baseline": baseline, "ratio": ratio, "target": target,
        "command": COMMAND,
    }  # fmt: skip


def measure(scan: str, steps: int) -> float:
    """Seconds of the library in this process: reading, reconstruction, writing."""
    seconds = []
    for repeat in range(REPEATS + 1):
        plan = Plan(num_samples=SAMPLES, settings={"num_steps": 2 if repeat == 0 else steps})
        began = time.perf_counter()
        data = load_acquisition(AcquisitionRequest(source=scan, mask=MaskRequest(**MASK)))  # type: ignore[arg-type]
        result = reconstruct(data.kspace, data.mask, plan=plan, slice_indices=data.slice_indices, device="cpu")
        with tempfile.TemporaryDirectory() as out:
            save_result(Path(out), data, result)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def _library(scan: Path, steps: int) -> float:
    command = [
        sys.executable,
        "-m",
        "benchmarks.bench_serve",
        "--case",
        json.dumps({"scan": str(scan), "steps": steps}),
    ]
    environment = os.environ | worker_environment(1)
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout.splitlines()[-1])


def _service(scan: Path, steps: int, replicas: int, folder: Path) -> float:
    """Seconds of a request to a service of one-core samplers."""
    with _serving(replicas, folder) as url:
        _request(url, scan, 2)
        return min(_request(url, scan, steps) for _ in range(REPEATS))


def _request(url: str, scan: Path, steps: int) -> float:
    options = f"name=scan.h5&plan.num_samples={SAMPLES}&plan.settings.num_steps={steps}"
    options += "".join(f"&mask.{key}={value}" for key, value in MASK.items())
    began = time.perf_counter()
    kind = {"Content-Type": "application/octet-stream"}
    job = _json(Request(f"{url}/v1/reconstructions?{options}", scan.read_bytes(), kind))
    while job["state"] in ("queued", "running"):
        job = _json(Request(f"{url}/v1/reconstructions/{job['id']}?wait=30"))
    if job["state"] != "done":
        raise RuntimeError(job["detail"])
    return time.perf_counter() - began


def _json(request: Request) -> dict[str, Any]:
    with urlopen(request, timeout=60) as response:
        return dict(json.load(response))


@contextmanager
def _serving(replicas: int, folder: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "kdrift", "serve", "--port", str(port), "--samplers", str(replicas)]
    command += ["--storage", str(folder), "--set", "samplers.device=cpu"]
    environment = os.environ | {"KDRIFT_API_KEYS": ""}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_until_ready(url, process)
            yield url
        finally:
            process.terminate()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            _json(Request(f"{url}/v1/health"))
            return
        except (URLError, ConnectionError):
            time.sleep(0.2)
    raise RuntimeError("kdrift serve has ended")


if __name__ == "__main__":
    if "--case" in sys.argv:
        print(measure(**json.loads(sys.argv[-1])))
    else:
        main(run, __doc__ or "")
