"""The MRD server without a service behind it: memory, time-outs, who may connect and by which key scans are sent."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from ismrmrd.serialization import ProtocolDeserializer

from kdrift_serve.mrd.mrd_config import MrdConfig, load_mrd_config
from kdrift_serve.mrd.mrd_process import KEY_VARIABLE, MrdProcess, api_key, beside
from kdrift_serve.mrd.server import MrdServer
from kdrift_serve.serve_config import HttpOptions, Limits, ServeConfig
from mrd_helpers import acquisition, encoding, header
from serve_helpers import KEY, free_port

CLOSE = struct.pack("<H", 4)
NOWHERE = "http://127.0.0.1:1"


def begun(rows: int, cols: int) -> bytes:
    xml = header(encoding((rows, cols, 1)))
    return struct.pack("<HI", 3, len(xml)) + xml


@contextlib.contextmanager
def started(config: MrdConfig) -> Iterator[psutil.Process]:
    """The server in a process of its own."""
    process = MrdProcess(config, "")
    process.start()
    try:
        assert process._process is not None
        yield psutil.Process(process._process.pid)
    finally:
        process.stop()


@contextlib.contextmanager
def connected(config: MrdConfig) -> Iterator[tuple[socket.socket, Any]]:
    address = config.host, config.port
    with socket.create_connection(address, timeout=60) as connection, connection.makefile("rb") as back:
        yield connection, back


def test_a_large_scan_lies_on_disk_and_a_service_that_is_away_is_told(tmp_path: Path) -> None:
    """Lines of 160 MiB come: the server keeps a block of them, and the file is what was sent."""
    config = MrdConfig(port=free_port(), folder=str(tmp_path), service=NOWHERE, patience_s=6.0)
    samples = np.random.default_rng(0).normal(size=(2, 32, 2048)).astype(np.float32)
    line = acquisition(samples[0] + 1j * samples[1], 0)
    sent = struct.pack("<H", 1008) + bytes(line.to_bytes())
    with started(config) as process, connected(config) as (connection, back):
        connection.sendall(begun(2048, 512) + sent)
        before, most = process.memory_info().rss, 0
        for _ in range(319):
            connection.sendall(sent)
            most = max(most, process.memory_info().rss)
        connection.sendall(CLOSE)
        limit = time.monotonic() + 60
        while not (found := list(tmp_path.glob("*/*/scan.h5"))) or found[0].stat().st_size < 320 * len(sent):
            assert time.monotonic() < limit
            time.sleep(0.05)
        assert most - before < 48 << 20
        (folder,) = {path.parent for path in found}
        assert folder.stat().st_mode & 0o077 == 0
        (text,) = ProtocolDeserializer(back).deserialize()
        assert text == "the service of reconstructions does not answer (asked for 6 s)"
    assert list(tmp_path.iterdir()) == []


def test_connections_end_with_the_server(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One that sends, one that was refused and lingers, one whose scan waits for a service that is away."""
    config = MrdConfig(port=free_port(), folder=str(tmp_path), service=NOWHERE)
    line = struct.pack("<H", 1008) + bytes(acquisition(np.ones((1, 8), np.complex64), 0).to_bytes())
    with contextlib.ExitStack() as stack:
        with started(config):
            ends = [stack.enter_context(connected(config)) for _ in range(3)]
            for (connection, _), more in zip(ends, (b"", b"\xff\xff", line + CLOSE), strict=True):
                connection.sendall(begun(8, 8) + more)
            time.sleep(1)
            began = time.monotonic()
        assert time.monotonic() - began < 5
        for _, back in ends:
            with contextlib.suppress(ConnectionResetError):
                back.read()
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in capfd.readouterr().err


def test_a_client_that_does_not_read_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does not read waits in its own buffers, no more than these is sent, and it has `idle_s` for it."""
    made = list[int]()

    async def images(self: MrdServer, scan: Any) -> AsyncIterator[bytes]:
        for _ in range(64):
            made.append(1)
            yield bytes(4 << 20)

    monkeypatch.setattr(MrdServer, "_images", images)
    config = MrdConfig(port=free_port(), folder=str(tmp_path), service=NOWHERE, idle_s=1.0)
    loop, stop, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(MrdServer(config, "").serve(stop, ready.set),))
    thread.start()
    try:
        assert ready.wait(10)
        line = acquisition(np.ones((1, 8), np.complex64), 0)
        with connected(config) as (connection, back):
            connection.sendall(begun(8, 8) + struct.pack("<H", 1008) + bytes(line.to_bytes()) + CLOSE)
            time.sleep(2.5)
            assert 0 < len(made) < 10
            came = back.read()
            assert len(came) < len(made) * (4 << 20), "what was in its buffers, without the close message"
        assert list(tmp_path.glob("*/*")) == []
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()
    assert not thread.is_alive()


@pytest.mark.slow
def test_beside_a_cluster_it_runs_by_a_file(tmp_path: Path) -> None:
    port, path = free_port(), tmp_path / "mrd.yaml"
    path.write_text(f"{{port: {port}, folder: {tmp_path}/scans, service: '{NOWHERE}'}}")
    command = [sys.executable, "-m", "kdrift_serve.mrd", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        taken = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert taken.returncode == 1
        assert "address already in use" in taken.stderr
        assert "Traceback" not in taken.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert list((tmp_path / "scans").iterdir()) == []
    path.write_text("prot: 9002")
    wrong = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (wrong.returncode, "did you mean 'port'?" in wrong.stderr) == (1, True)


def test_other_hosts_need_to_be_allowed() -> None:
    with pytest.raises(ValueError, match=r"MRD has no passwords, and on 0\.0\.0\.0 others than this machine"):
        MrdConfig(host="0.0.0.0")
    with pytest.raises(ValueError, match=r"allow: .*10\.0\.0\.300"):
        MrdConfig(allow=["10.0.0.300"])
    config = MrdConfig(host="0.0.0.0", allow=["10.1.0.0/16", "fe80::1"])
    assert all(map(config.allows, ("127.0.0.1", "::1", "10.1.2.3", "::ffff:10.1.2.3", "fe80::1%eth0")))
    assert not any(map(config.allows, ("10.2.0.1", "192.168.0.1", "::ffff:10.2.0.1", "fe80::2")))


def test_kdrift_serve_says_where_the_service_is_and_how_much_it_takes(tmp_path: Path) -> None:
    assert load_mrd_config(None) is None
    mrd = load_mrd_config(None, 9002)
    assert mrd is not None
    config = ServeConfig(storage=str(tmp_path), limits=Limits(upload_mb=7))
    found = beside(mrd, HttpOptions("0.0.0.0", 8001), config)
    assert (found.service, found.upload_mb) == ("http://127.0.0.1:8001", 7)
    assert found.own_folder.parent == tmp_path / "mrd"
    assert beside(mrd, HttpOptions("::", 8001), config).service == "http://[::1]:8001"


def test_a_scan_is_sent_by_a_key_where_the_service_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (KEY_VARIABLE, "KDRIFT_API_KEYS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=f"set {KEY_VARIABLE}"):
        api_key(ServeConfig())
    monkeypatch.setenv("KDRIFT_API_KEYS", f"{KEY} other-key-of-some-length")
    assert api_key(ServeConfig()) == KEY
    monkeypatch.setenv(KEY_VARIABLE, "a-key-of-the-scanner")
    assert api_key(ServeConfig()) == "a-key-of-the-scanner"
