"""The process in which strangers' files are parsed: `python -m kdrift_serve.reading`.

`kdrift_serve.readers` starts it. It has imported what parsing needs and forks a child for each request, a line of JSON
on its standard input. A child has limits of memory, time and size of files; it writes what it read into a folder
(`kdrift_serve.spool`) with `answer.json`, and ends. A line on standard output says that a child began or ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.phantom import phantom_volume
from kdrift.recon.acquisition import declared_bytes, open_source
from kdrift.recon.request import AcquisitionRequest
from kdrift.runs.config import parse
from kdrift.runs.files import write_json
from kdrift_serve.inspecting import inspect_source
from kdrift_serve.job_request import JobRequest, in_our_words, load
from kdrift_serve.problems import Problem
from kdrift_serve.spool import write_spool

ANSWER = "answer.json"
BASE_MB = 256
"""Memory that every child may take besides what its process has, for headers and libraries."""
TIMES = 8
"""Memory that it may take besides, in multiples of the k-space that it was asked for."""


@dataclass(frozen=True)
class Reading:
    """What a child is asked to read."""

    request: dict[str, Any]
    """A `JobRequest`."""
    source: str | None
    """Path of the data; None: the built-in example is made."""
    shown: str
    """What clients are told that the file is called."""
    roots: list[str]
    kspace_mb: int
    seconds: float
    out: str
    """Folder for what was read."""
    inspect: bool = False
    """Only tell what the file holds: `Inspected`, in place of what was read."""


def read(asked: Reading) -> dict[str, Any]:
    """Read and undersample what a request asks for, write it, and return what the service needs to know of it.

    Raises ValueError with a sentence that clients may see.
    """
    request, out = parse(JobRequest, asked.request, "request"), Path(asked.out)
    source = Path(asked.source) if asked.source is not None else _example(out)
    with contextlib.suppress(ValueError):  # `load` says what is wrong
        named = request.of(str(source))
        with open_source(named) as opened:
            allow(min(declared_bytes(opened, named), asked.kspace_mb << 20))
    if asked.inspect:
        return _inspected(request.of(str(source), max_bytes=asked.kspace_mb << 20), asked.shown)
    acquisition = load(request, source, asked.shown, [Path(root) for root in asked.roots], asked.kspace_mb << 20)
    if asked.source is None:
        source.unlink()
    write_spool(out, acquisition)
    return {
        "slices": acquisition.slice_indices,
        "coils": acquisition.kspace.shape[1],
        "shape": list(acquisition.kspace.shape[2:]),
        "sampling": acquisition.sampling,
        "notes": [*map(in_our_words, acquisition.notes)],
    }


def _inspected(request: AcquisitionRequest, shown: str) -> dict[str, Any]:
    try:
        return inspect_source(request, shown)
    except ValueError as error:
        source = Path(request.source)
        raise ValueError(str(error).replace(str(source), shown).replace(str(source.parent), "")) from None


def _example(out: Path) -> Path:
    """Write the built-in example: one slice of the head phantom, simulated."""
    phantom = phantom_volume(1, 192, 192, 8, seed=1)
    write_fastmri(out / "phantom.h5", phantom.kspace, reference=phantom.reference, attrs=phantom.attrs)
    return out / "phantom.h5"


def allow(kspace_bytes: int) -> None:
    """Set how much memory this process may take for a request of so much k-space."""
    base = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = base + (BASE_MB << 20) + TIMES * kspace_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def child(asked: Reading) -> None:
    """Read under limits, and leave an answer."""
    import torch

    torch.set_num_threads(1)
    most = 2 * (asked.kspace_mb << 20) + (BASE_MB << 20)
    limits = {"CPU": int(asked.seconds) + 1, "FSIZE": most, "CORE": 0, "NOFILE": 256}
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        resource.setrlimit(number, (value, value))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing more is then an OSError
    try:
        allow(0)
        answer = read(asked)
    except (ValueError, Problem) as error:
        answer = {"error": error.detail if isinstance(error, Problem) else str(error)}
    except MemoryError:
        answer = {"error": f"{asked.shown}: what the file declares takes far more memory than its k-space explains"}
    except OSError as error:
        answer = {"fault": f"{error.strerror or type(error).__name__}", "errno": error.errno}
    except Exception as error:  # a parser of foreign bytes
        answer = {"error": f"{asked.shown} cannot be read", "fault": f"{type(error).__name__}: {error}"}
    write_json(Path(asked.out) / ANSWER, answer)


def serve(run: Callable[[Reading], None] = child) -> None:
    """Fork a child a line until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ends_read, ends_write = os.pipe()
    os.set_blocking(ends_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(ends_write)
    running: dict[int, int] = {}
    with selectors.DefaultSelector() as ready:
        ready.register(sys.stdin.buffer, selectors.EVENT_READ)
        ready.register(ends_read, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj == ends_read:
                    os.read(ends_read, 4096)
                    _reap(running)
                    continue
                line = sys.stdin.buffer.readline()
                if not line:
                    for pid in running:
                        os.kill(pid, signal.SIGKILL)
                    return
                asked = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    _begin(asked, run)
                running[pid] = asked["number"]
                _say({"number": asked["number"], "pid": pid})


def _begin(asked: Mapping[str, Any], run: Callable[[Reading], None]) -> None:
    """Be the child, and end."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1):
            os.dup2(null, number)
        run(parse(Reading, asked["reading"], "reading"))
        status = 0
    finally:
        os._exit(status)


def _reap(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        _say({"number": running.pop(pid), "status": os.waitstatus_to_exitcode(status)})


def _say(values: Mapping[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(values).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve()
