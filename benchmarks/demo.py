"""The service's page with a finished job in it, until Ctrl-C.

    make demo            # or: python -m benchmarks.demo [--port 8000] [--prior NAME|PATH]

Starts the service with the shipped prior in a folder that goes with it, has it reconstruct a simulated scan, and prints
the page's address with that job. Ctrl-C (or SIGTERM) stops all that was started: exit status 0, or 130 before the job
was done; 1 where the service or the job failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.over_http import free_port, service
from kdrift.client import KEY_VARIABLE, Client, Job, ServiceError
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.phantom import phantom_volume
from kdrift.recon.plan import DEFAULT_PRIOR

PLAN = {"num_samples": 4, "settings": {"num_steps": 20}}
MASK = {"kind": "equispaced", "acceleration": 4, "acs_fraction": 0.08}
NOT_OURS = ("KDRIFT_API_KEYS", "KDRIFT_SERVE_DATABASE", KEY_VARIABLE)
"""What of the environment would make it another service."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until Ctrl-C and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, help="port of the page (default: one that is free)")
    parser.add_argument("--prior", default=DEFAULT_PRIOR, help="shipped prior or bundle folder")
    args = parser.parse_args(arguments)
    for name in NOT_OURS:
        os.environ.pop(name, None)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    began, ready = time.monotonic(), False
    try:
        with tempfile.TemporaryDirectory(prefix="kdrift-") as folder:
            os.environ["RAY_TMPDIR"] = folder  # Ray's own files and logs go with the rest
            given = ["--storage", f"{folder}/service", "--prior", args.prior]
            given += ["--set", f"samplers.num_cpus={os.cpu_count() or 1}"]
            with service(given, args.port or free_port()) as base, Client(base) as client:
                job = reconstruct(client, Path(folder) / "phantom.h5")
                ready = True
                print(where_to_look(client, job, time.monotonic() - began), flush=True)
                while True:
                    time.sleep(5)
                    client.status(job["id"])  # a service that ended is told, not waited for
    except KeyboardInterrupt:
        print("demo: stopped", flush=True)
        return 0 if ready else 130
    except (RuntimeError, ServiceError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def stop(*_: Any) -> None:
    """End the demo; once is enough, and stopping is not interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def reconstruct(client: Client, scan: Path) -> Job:
    """Simulate a scan, send it, and return its job when it is done. Raises RuntimeError where it fails."""
    phantom = phantom_volume(1, 128, 128, 8, seed=1)
    write_fastmri(scan, phantom.kspace, reference=phantom.reference, attrs=phantom.attrs)
    print("a simulated scan of 128 x 128: 8 coils, 4x, 4 samples of 20 steps", flush=True)
    job = client.wait(client.submit(scan, plan=PLAN, mask=MASK))
    if job["state"] != "done":
        raise RuntimeError(f"the job is {job['state']}: {job['detail']}")
    return job


def where_to_look(client: Client, job: Job, seconds: float) -> str:
    """Return what is to be seen, and where."""
    lines = [f"Ready after {seconds:.0f} s. Open  {client.page(job['id'])}", ""]
    lines += [
        f"  verdict of slice {slice_}: {each['level']}. {each['sentence']}" for slice_, each in job["verdicts"].items()
    ]
    lines += [
        "  mean and standard deviation of the samples, and what they are compared with, are on the page;",
        "  send a scan of your own there, or the built-in example. What the service can do: /docs at the same address.",
        "", "Ctrl-C stops it and deletes all of it.",
    ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
