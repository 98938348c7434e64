"""The demo (slow): a page with a finished job, and nothing left after Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from kdrift.client import Client

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.ray]


class Demo:
    """`python -m benchmarks.demo` as a process, its lines as they come, and whatever it started."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "TMPDIR": str(folder), "KDRIFT_API_KEYS": "not-a-key-of-the-demo"}
        command = [sys.executable, "-m", "benchmarks.demo"]
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.children: dict[int, psutil.Process] = {}

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            self.lines.extend(iter(lines.readline, ""))

    def line(self, pattern: str, seconds: float) -> re.Match[str]:
        """Wait for a line."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            for each in psutil.Process(self.process.pid).children(recursive=True):
                self.children[each.pid] = each
            for line in list(self.lines):
                if found := re.search(pattern, line):
                    return found
            assert self.process.poll() is None, self.lines
            time.sleep(0.1)
        raise TimeoutError("".join(self.lines))

    def end(self) -> int:
        """Ctrl-C, twice, as one does who is in a hurry."""
        self.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        status = self.process.wait(120)
        self._reader.join(10)
        return status

    def left(self) -> list[psutil.Process]:
        _, left = psutil.wait_procs(list(self.children.values()), 30)
        return left

    def close(self) -> None:
        for each in [*self.left(), *([psutil.Process(self.process.pid)] if self.process.poll() is None else [])]:
            each.kill()
        self.process.wait(30)


@pytest.fixture
def demo() -> Iterator[Demo]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="d") as folder:  # short: Ray's sockets lie below it
        made = Demo(Path(folder))
        yield made
        made.close()
        assert not list(Path(folder).iterdir())


@pytest.mark.timeout(900)
def test_the_page_has_a_finished_job_and_ctrl_c_stops_all(demo: Demo) -> None:
    found = demo.line(r"Ready after (\d+) s\. Open  (http://127\.0\.0\.1:\d+)(/#/jobs/([0-9a-f]{32}))$", 600)
    base, path, job_id = found.group(2), found.group(3), found.group(4)
    page = httpx.get(base + path)
    assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (200, "text/html")
    with Client(base, "") as client:
        assert client.status(job_id)["state"] == "done"
        assert client.page(job_id) == base + path
        assert len(client.result(job_id).mean) == 1
    assert demo.end() == 0, demo.lines
    assert demo.lines[-1] == "demo: stopped\n"
    assert demo.left() == []


@pytest.mark.timeout(900)
def test_ctrl_c_before_it_is_ready(demo: Demo) -> None:
    demo.line("kdrift serve", 120)
    demo.line("^Ray: private", 300)
    assert demo.end() == 130, demo.lines
    assert demo.left() == []
