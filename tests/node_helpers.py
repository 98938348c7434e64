"""A Ray cluster of several nodes on one machine, which come and go."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STORE_BYTES = 100 * 2**20


class Nodes:
    """A cluster whose head has one CPU, and other nodes of one CPU each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
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

    def stop(self) -> None:
        """End all nodes."""
        for process in self._started:
            process.terminate()
            process.wait(30)
        self.cluster.shutdown()


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
