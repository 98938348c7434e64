"""A real Ray cluster on this machine: one or more `ray start` processes, on loopback, that end with the block."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

START_S = 180.0


@dataclass(frozen=True)
class LocalCluster:
    """Where it answers."""

    dashboard: str
    """`http://127.0.0.1:PORT`: what jobs are submitted to."""
    address: str
    """`IP:PORT`: what a driver connects to."""
    environment: dict[str, str]
    """Of processes that talk to it: it has a token of its own."""


@contextlib.contextmanager
def local_cluster(cpus: list[int], object_store_bytes: int = 200 * 2**20) -> Iterator[LocalCluster]:
    """Start a node for each of `cpus`, the first one the head, and end them all after the block.

    The nodes' PATH begins with the folder of this Python, so that a job's `python` is the same.
    """
    folder = Path(tempfile.mkdtemp(prefix="kd-", dir="/tmp"))  # short: Ray makes sockets in it
    token = folder / "token"
    token.write_text(os.urandom(32).hex())
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
    }
    for variable in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN"):
        environment.pop(variable, None)
    gcs, dashboard = free_ports(2)
    cluster = LocalCluster(f"http://127.0.0.1:{dashboard}", f"{_address()}:{gcs}", environment)
    common = ["--block", "--object-store-memory", str(object_store_bytes), "--disable-usage-stats"]
    head = ["--head", "--port", str(gcs), "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)]
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        for number, count in enumerate(cpus):
            agent, client, grpc = free_ports(3)
            where = [*head, "--ray-client-server-port", str(client)] if number == 0 else ["--address", cluster.address]
            # a folder each: nodes that share one unpack a job's code over each other's
            where += ["--temp-dir", str(folder / f"ray{number}")]
            ports = ["--dashboard-agent-listen-port", str(agent), "--dashboard-agent-grpc-port", str(grpc)]
            command = [sys.executable, "-m", "ray.scripts.scripts", "start", *where, *common, *ports]
            with open(folder / f"node{number}.log", "wb") as log:
                nodes.append(
                    subprocess.Popen(
                        [*command, "--num-cpus", str(count)],
                        env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                    )
                )  # fmt: skip
            if number == 0:
                _wait(cluster, nodes[0], folder / "node0.log", token.read_text())
        yield cluster
    finally:
        for node in reversed(nodes):
            _end(node)
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback that nobody uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _address() -> str:
    """Return the address that Ray gives this machine's nodes, whatever is asked for."""
    import ray.util

    return str(ray.util.get_node_ip_address())


def _wait(cluster: LocalCluster, head: subprocess.Popen[bytes], log: Path, token: str) -> None:
    """Wait until the dashboard takes jobs."""
    request = urllib.request.Request(f"{cluster.dashboard}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    until = time.monotonic() + START_S
    while time.monotonic() < until and head.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(request, timeout=5):
            return
        time.sleep(0.3)
    raise OSError(f"the Ray cluster did not start:\n{log.read_text()[-2000:]}")


def _end(node: subprocess.Popen[bytes]) -> None:
    """End a node and all it started; at once, for Ray would drain it for half a minute first."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [*psutil.Process(node.pid).children(recursive=True), node]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    node.wait()
