"""What the service adds to the library, what a second sampler gives, and what small requests gain by sharing batches.

A request of 16 chains, from sending the file to the result on disk, against `reconstruct` with reading and writing in a
process of the same environment and threads; two samplers of one core against one; 16 small equal requests that are
sent at once to one sampler against the same one after the other. All over HTTP to real services, which run at the same
time: the sides of a ratio take turns, warmed up, and the ratio is the median of the rounds, so that other work on the
machine meets both. Run `python -m benchmarks.bench_serve [--quick]` from the root; it starts and stops services of its
own.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
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
SAMPLES, SMALL = 16, 16
Side = Callable[[], float]
"""Does one side of a comparison and returns its seconds."""


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Rows of the benchmark table; `quick` takes smaller images, fewer steps and one round."""
    size, steps, small, small_steps, rounds = (96, 6, 48, 12, 1) if quick else (192, 24, 64, 40, 3)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        scan, tiny = _scan(folder / "scan.h5", size, 8), _scan(folder / "small.h5", small, 4)
        library = stack.enter_context(_library(scan))
        one, two = (stack.enter_context(_serving(count, folder / str(count))) for count in (1, 2))
        _request(one, scan, SAMPLES, 2)
        _request(two, scan, SAMPLES, 2)
        _request(one, tiny, 1, 2)
        sides: list[Side] = [
            lambda: library(steps),
            lambda: _request(one, scan, SAMPLES, steps),
            lambda: _request(two, scan, SAMPLES, steps),
            lambda: sum(_request(one, tiny, 1, small_steps) for _ in range(SMALL)),
            lambda: _at_once(one, tiny, small_steps),
        ]
        in_library, by_one, by_two, in_turn, at_once = zip(
            *[[side() for side in sides] for _ in range(rounds)], strict=True
        )
    what = f"{SAMPLES} chains, {steps} steps, {size}x{size}"
    small_what = f"{SMALL} requests of a chain, {small_steps} steps, {small}x{small}"
    return [
        _row(f"service against library, {what}", by_one, in_library, "<= 1.05"),
        _row(f"2 samplers against 1, {what}", by_two, by_one, ">= 1.8", speed_up=True),
        _row(f"at once against one by one, {small_what}", at_once, in_turn, "<= 0.60"),
    ]


def _row(
    name: str, values: tuple[float, ...], baselines: tuple[float, ...], target: str, *, speed_up: bool = False
) -> dict[str, Any]:
    """Return a row of the seconds of both sides, in each round; `speed_up` divides the other way."""
    ratios = [b / a if speed_up else a / b for a, b in zip(values, baselines, strict=True)]
    return {
        "name": name, "value": min(values), "unit": "s", "baseline": min(baselines),
        "ratio": statistics.median(ratios), "target": target, "command": COMMAND,
        "rounds": {"value": values, "baseline": baselines, "ratio": ratios},
    }  # fmt: skip


def _scan(path: Path, size: int, coils: int) -> Path:
    phantom = phantom_volume(1, size, size, coils, seed=0)
    write_fastmri(path, phantom.kspace, reference=phantom.reference, attrs=phantom.attrs)
    return path


def measure(scan: str, steps: int) -> float:
    """Seconds of the library in this process: reading, reconstruction, writing."""
    plan = Plan(num_samples=SAMPLES, settings={"num_steps": steps})
    began = time.perf_counter()
    data = load_acquisition(AcquisitionRequest(source=scan, mask=MaskRequest(**MASK)))  # type: ignore[arg-type]
    result = reconstruct(data.kspace, data.mask, plan=plan, slice_indices=data.slice_indices, device="cpu")
    with tempfile.TemporaryDirectory() as out:
        save_result(Path(out), data, result)
    return time.perf_counter() - began


def answer(scan: str) -> None:
    """Measure the library once for each line of standard input, the steps."""
    for line in sys.stdin:
        print(measure(scan, int(line)), flush=True)


@contextmanager
def _library(scan: Path) -> Iterator[Callable[[int], float]]:
    command = [sys.executable, "-m", "benchmarks.bench_serve", "--library", str(scan)]
    environment = os.environ | worker_environment(1)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def seconds(steps: int) -> float:
            print(steps, file=process.stdin, flush=True)
            return float(process.stdout.readline())  # type: ignore[union-attr]

        seconds(2)
        yield seconds


def _at_once(url: str, scan: Path, steps: int) -> float:
    """Seconds until all of the small requests are done that were sent at the same time."""
    began = time.perf_counter()
    with ThreadPoolExecutor(SMALL) as threads:
        list(threads.map(lambda _: _request(url, scan, 1, steps), range(SMALL)))
    return time.perf_counter() - began


def _request(url: str, scan: Path, samples: int, steps: int) -> float:
    options = f"name=scan.h5&plan.num_samples={samples}&plan.settings.num_steps={steps}"
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
    with urlopen(request, timeout=120) as response:
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
            _json(Request(f"{url}/v1/ready"))
            return
        except (URLError, ConnectionError):
            time.sleep(0.2)
    raise RuntimeError("kdrift serve has ended")


if __name__ == "__main__":
    if "--library" in sys.argv:
        answer(sys.argv[-1])
    else:
        main(run, __doc__ or "")
