"""A Ray cluster of several nodes on one machine, which come and go."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

STORE_BYTES = 100 * 2**20


class Nodes:
    """A cluster whose head has one CPU, and other nodes of one CPU each."""

    def __init__(self, head_cpus: int = 1) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": head_cpus, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        self.cluster: Any = Cluster(True, head_node_args=head)
        self._started: list[subprocess.Popen[bytes]] = []

    def add(self) -> Any:
        """Add a node before anything runs."""
        return self.cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)

    def remove(self, node: Any) -> None:
        """Take a node away, with all that runs on it."""
        self.cluster.remove_node(node)

    def start(self) -> None:
        """Add a node while something runs: from any thread, as `add` sets handlers of signals."""
        ray = Path(sys.executable).with_name("ray")
        command = [str(ray), "start", "--block", f"--address={self.cluster.address}", "--num-cpus=1"]
        self._started.append(
            subprocess.Popen(
                [*command, f"--object-store-memory={STORE_BYTES}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        )

    def start_apart(self, hidden: Path) -> None:
        """Add a node for which a folder is an empty one of its own, and wait for it."""
        import ray

        ray_command = Path(sys.executable).with_name("ray")
        script = f"mount -t tmpfs none {hidden} && exec {ray_command} start --block --address={self.cluster.address}"
        script += f" --num-cpus=1 --object-store-memory={STORE_BYTES}"
        quiet = subprocess.DEVNULL
        self._started.append(subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=quiet, stderr=quiet))
        deadline, before = time.monotonic() + 60, len(ray.nodes())
        while len([node for node in ray.nodes() if node["Alive"]]) <= before:
            assert time.monotonic() < deadline, "the node did not come up"
            time.sleep(0.2)

    def stop(self) -> None:
        """End all nodes."""
        for process in self._started:
            process.terminate()
            process.wait(30)
        self.cluster.shutdown()


@contextlib.contextmanager
def node_apart(hidden: Path) -> Iterator[None]:
    """Connect to a head without CPUs and a node that has them but does not see a folder, for the block."""
    import ray

    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode:
        pytest.skip("a folder cannot be hidden from a process here (unshare -m, mount)")
    hidden.mkdir(parents=True, exist_ok=True)
    ray.shutdown()
    nodes = Nodes(head_cpus=0)
    ray.init(address=nodes.cluster.address, log_to_driver=False)
    try:
        nodes.start_apart(hidden)
        yield
    finally:
        ray.shutdown()
        nodes.stop()


@contextlib.contextmanager
def two_nodes() -> Iterator[tuple[Nodes, Any]]:
    """Connect to a cluster of a head and a second node for the block; yield it and the second node."""
    import ray

    ray.shutdown()
    nodes = Nodes()
    second = nodes.add()
    ray.init(address=nodes.cluster.address, log_to_driver=False)
    try:
        yield nodes, second
    finally:
        ray.shutdown()
        nodes.stop()


def switch_off(driver: subprocess.Popen[Any]) -> None:
    """Kill a driver and all that it started, as if its machine lost power."""
    started = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
