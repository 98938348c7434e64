"""A server that speaks S3, in a process of its own, which can be stopped and started again with what it holds."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from benchmarks.over_http import free_port

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
PROGRAM = """
import sys
from moto.server import ThreadedMotoServer
def made():
    return ThreadedMotoServer("127.0.0.1", int(sys.argv[1]), verbose=False)
server = made()
server.start()
print("start", flush=True)
for line in sys.stdin:
    if line.strip() == "stop":
        server.stop()
    else:
        server = made()
        server.start()
    print(line.strip(), flush=True)
"""

_LEFT: list[Any] = []
"""File systems of servers that ended, which would warn that nobody closes their sessions."""


class Server:
    """The server; only its port is closed while it is stopped."""

    def __init__(self) -> None:
        port = free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(port)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def stop(self) -> None:
        """Answer nobody until `start`."""
        self._tell("stop")

    def start(self) -> None:
        """Answer again, after `stop`."""
        self._tell("start")

    def bucket(self) -> str:
        """Make a new bucket; return its name."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        self._files().mkdir(name)
        return name

    def names(self, url: str) -> list[str]:
        """Return the names of all objects below a URL, hidden ones too."""
        files, root = self._files(), url.removeprefix("s3://")
        return sorted(name.removeprefix(f"{root}/") for name in files.find(root))

    def shown(self, url: str) -> list[str]:
        """Return the names of objects that are not hidden at the top."""
        return [name for name in self.names(url) if not name.startswith(".kdrift")]

    def read(self, url: str) -> bytes:
        """Return what an object holds."""
        content: bytes = self._files().cat_file(url.removeprefix("s3://"))
        return content

    def read_json(self, url: str) -> Any:
        """Return what a JSON object holds."""
        return json.loads(self.read(url))

    def write(self, url: str, content: bytes) -> None:
        """Write an object."""
        self._files().pipe_file(url.removeprefix("s3://"), content)

    def end(self) -> None:
        """End its process; the next server has another port, for which s3fs would not ask the environment again."""
        import s3fs

        self._process.kill()
        self._process.communicate()
        _LEFT.extend(s3fs.S3FileSystem._cache.values())
        s3fs.S3FileSystem.clear_instance_cache()

    def _files(self) -> Any:
        import s3fs

        return s3fs.S3FileSystem(use_listings_cache=False, client_kwargs={"endpoint_url": self.endpoint})

    def _tell(self, word: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(word, file=self._process.stdin, flush=True)
        assert self._process.stdout.readline().strip() == word


@contextlib.contextmanager
def s3_server() -> Iterator[Server]:
    """Start a server for the block; the environment names it."""
    server = Server()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": server.endpoint}.items():
            patch.setenv(name, value)
        try:
            yield server
        finally:
            server.end()


def shorten_waits(patch: pytest.MonkeyPatch) -> None:
    """Make what happens in seconds at a URL happen in tenths."""
    from kdrift.runs import lease, mirror

    for module, name, seconds in (
        (lease, "RENEW_S", 0.2), (lease, "WATCH_S", 1.0), (lease, "SETTLE_S", 0.05), (mirror, "ROUND_S", 0.05),
        (mirror, "OFTEN_S", 0.1), (mirror, "PATIENCE_S", 0.5), (mirror, "PAUSES_S", (0.1, 0.2)),
    ):  # fmt: skip
        patch.setattr(module, name, seconds)
