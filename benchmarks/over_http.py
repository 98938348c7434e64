"""Start the service on this machine, reconstruct one file over HTTP, keep the results, stop the service.

    python -m benchmarks.over_http SCAN.h5 --out DIR --storage DIR [--prior NAME|PATH|models:/NAME@ALIAS]
        [--tracking-uri URI] [--option plan.num_samples=4 ...]

It does what a client does: wait for /v1/health, send the file, ask for the status until it is done, fetch the
results. What it sends is printed as the `curl` commands that do the same.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_SECONDS = 180
POLL_SECONDS = 1.0


@contextmanager
def service(arguments: list[str], port: int) -> Iterator[str]:
    """Run `kdrift serve` for the block; yields its address. Raises RuntimeError where it does not start."""
    command = [sys.executable, "-m", "kdrift", "serve", "--port", str(port), *arguments]
    base = f"http://127.0.0.1:{port}"
    print(f"$ {shlex.join(['kdrift', *command[3:]])}", flush=True)
    process = subprocess.Popen(command, start_new_session=True)
    try:
        began = time.monotonic()
        while not _answers(base):
            if process.poll() is not None or time.monotonic() - began > START_SECONDS:
                raise RuntimeError(f"the service did not start within {START_SECONDS} s")
            time.sleep(POLL_SECONDS)
        yield base
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def reconstruct(base: str, scan: Path, out: Path, options: list[str], key: str | None = None) -> dict[str, Any]:
    """Send a file, wait, write reconstruction.h5, panel.png and metrics.json into `out`; returns the finished job.

    Raises RuntimeError, with the service's own words, for a request or a job that failed.
    """
    query = urllib.parse.urlencode([tuple(option.split("=", 1)) for option in options] + [("name", scan.name)])
    url = f"{base}/v1/reconstructions?{query}"
    print(f"$ curl --data-binary @{scan} -H 'Content-Type: application/octet-stream' '{url}'", flush=True)
    job = json.loads(_fetch(url, key, scan.read_bytes()))
    shown = -1.0
    while job["state"] in ("queued", "running"):
        job = json.loads(_fetch(f"{base}{job['links']['self']}?wait={POLL_SECONDS:g}", key))
        fraction = (job["progress"] or {}).get("fraction", 0.0)
        if fraction >= shown + 0.25:
            left = (job["progress"] or {}).get("seconds_left")
            print(f"{job['state']} {100 * fraction:.0f} %{'' if left is None else f', {left:.0f} s left'}", flush=True)
            shown = fraction
    if job["state"] != "done":
        raise RuntimeError(f"the job is {job['state']}: {job['detail']}")
    out.mkdir(parents=True, exist_ok=True)
    for link, name in (("result", "reconstruction.h5"), ("panel.png", "panel.png")):
        print(f"$ curl -o {out / name} {base}{job['links'][link]}", flush=True)
        (out / name).write_bytes(_fetch(base + job["links"][link], key))
    (out / "metrics.json").write_text(json.dumps(job["report"], indent=2) + "\n")
    return job


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(base: str) -> bool:
    try:
        return bool(json.loads(_fetch(f"{base}/v1/health", None))["status"] == "ok")
    except (OSError, RuntimeError, ValueError):
        return False


def _fetch(url: str, key: str | None, body: bytes | None = None) -> bytes:
    headers = {"Content-Type": "application/octet-stream"} | ({"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=120) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{error.code} {error.reason}: {error.read().decode(errors='replace')[:500]}") from None
    except urllib.error.URLError as error:
        why = "" if body is None else "; a request that is refused is cut off before its file is read"
        raise RuntimeError(f"{error.reason}{why}") from None


def main() -> int:
    """Run it once."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.over_http", description=__doc__.partition("\n")[0])
    parser.add_argument("scan", type=Path, help="k-space file")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--storage", required=True, help="the service's folder of jobs")
    parser.add_argument("--prior", help="shipped prior, bundle folder or models:/NAME@ALIAS")
    parser.add_argument("--tracking-uri", help="MLflow registry of a models: prior")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="of the request")
    args = parser.parse_args()
    given = [("--storage", args.storage), ("--prior", args.prior), ("--tracking-uri", args.tracking_uri)]
    arguments = [part for name, value in given if value for part in (name, value)]
    arguments += ["--set", f"samplers.num_cpus={os.cpu_count() or 1}"]
    try:
        with service(arguments, free_port()) as base:
            job = reconstruct(base, args.scan, args.out, args.option)
    except RuntimeError as error:
        print(f"over_http: {error}", file=sys.stderr)
        return 1
    print(f"prior {job['prior']['reference']} (sha256 {job['prior']['sha256'][:12]}), written: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
