"""A real PostgreSQL of its own, on loopback, that can be stopped and started again."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from benchmarks.over_http import free_port

PLACES = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), Path("/usr/local/bin"), Path("/usr/bin")]


class Postgres:
    """A running server."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self._folder, self._binaries, self.port = folder, binaries, free_port()
        if os.geteuid() == 0:  # it does not run as root
            shutil.chown(folder, "nobody")
        folder.chmod(0o755)
        self._run("initdb", "-D", str(folder / "data"), "-A", "trust", "-U", "kdrift", "--no-sync")
        self.url = f"postgresql+psycopg://kdrift@127.0.0.1:{self.port}/postgres"
        self.running = False
        self.start()

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        log = str(self._folder / "log")
        self._run("pg_ctl", "start", "-w", "-D", str(self._folder / "data"), "-l", log, "-o", options)
        self.running = True

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(self._folder / "data"))
        self.running = False

    def _run(self, name: str, *arguments: str) -> None:
        user = {"user": "nobody"} if os.geteuid() == 0 else {}
        command = [str(self._binaries / name), *arguments]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user)  # type: ignore[call-overload]


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server for the block; the test is skipped where PostgreSQL is not installed.

    Its folder is not one of pytest's, which the user that it runs as may not enter.
    """
    binaries = next((place for place in PLACES if (place / "initdb").exists() and (place / "pg_ctl").exists()), None)
    if binaries is None:
        pytest.skip("no PostgreSQL here: install the package postgresql")
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        server = Postgres(Path(folder), binaries)
        try:
            yield server
        finally:
            if server.running:
                server.stop()
