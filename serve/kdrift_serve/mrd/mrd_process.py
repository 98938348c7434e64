"""The MRD server beside a service of this machine: in a process of its own, started again where it breaks down."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from kdrift.runs.config import to_dict
from kdrift.runs.remote import is_url
from kdrift_serve.auth import keys_given
from kdrift_serve.mrd.mrd_config import MrdConfig
from kdrift_serve.serve_config import HttpOptions, ServeConfig

KEY_VARIABLE = "KDRIFT_MRD_KEY"
READY = "ready"
AGAIN_S = 10.0
"""A server that broke down is started again, at most so often."""
_START_S, _STOP_S = 120.0, 10.0


def beside(mrd: MrdConfig, http: HttpOptions, config: ServeConfig) -> MrdConfig:
    """Return the configuration of the MRD server of a service on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(http.host, http.host)
    shown = f"[{host}]" if ":" in host else host
    folder = mrd.folder if is_url(config.storage) else str(Path(config.storage).expanduser() / "mrd")
    url = f"http://{shown}:{http.port}"
    return replace(mrd, service=url, upload_mb=config.limits.upload_mb, folder=folder)


def api_key(config: ServeConfig) -> str:
    """Return the key by which scans go to a service that asks for keys.

    Raises ValueError where it is not told: only digests are known of the keys of a file.
    """
    if key := os.environ.get(KEY_VARIABLE, "").strip():
        return key
    given = keys_given(config.auth)
    if not given:
        raise ValueError(f"the service asks for API keys: set {KEY_VARIABLE} to the one by which scans are sent to it")
    return given[0]


class MrdProcess:
    """The process of the server, which ends with this one."""

    def __init__(self, config: MrdConfig, key: str) -> None:
        self._said = json.dumps({"config": to_dict(config), "key": key}).encode() + b"\n"
        self._began = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it takes connections. Raises OSError where it does not."""
        self._began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "kdrift_serve.mrd"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(self._said)
            process.stdin.flush()
        told, _, _ = select.select([process.stdout], [], [], _START_S)
        if not told or process.stdout.readline().strip() != READY.encode():
            self.stop()
            raise OSError("the MRD server did not start: the lines above say why")

    def look_after(self, echo: Callable[[str], None]) -> None:
        """Start it again where it has ended."""
        if self._process is not None and self._process.poll() is None:
            return
        if time.monotonic() - self._began < AGAIN_S:
            return
        echo("the MRD server broke down, with the scans that were coming: it is started again")
        self.stop()
        try:
            self.start()
        except OSError as error:
            echo(str(error))

    def stop(self) -> None:
        """End it, with the connections that are open."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextlib.contextmanager
def mrd_beside(config: MrdConfig | None, key: str, echo: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Run the server for the block, if there is to be one; yield what looks after it, to be called now and then."""
    if config is None:
        yield lambda: None
        return
    process = MrdProcess(config, key)
    try:
        process.start()
        allowed = f", {', '.join(config.allow)}" if config.allow else ""
        echo(f"MRD streams at {config.host} port {config.port} (from this machine{allowed}; MRD has no passwords)")
        yield lambda: process.look_after(echo)
    finally:
        process.stop()
