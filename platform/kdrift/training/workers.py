"""The workers of a training: how many, what each is lent, and what it found itself on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdrift.training.train_config import HardwareConfig

Workers = int | tuple[int, int]
"""How many workers: a number, or the fewest and the most of an elastic run."""


@dataclass(frozen=True)
class Lent:
    """What Ray lends each worker."""

    cpus: int
    gpus: int
    notes: tuple[str, ...] = ()
    """What the user is told before the workers start."""

    @property
    def resources(self) -> dict[str, float]:
        """For Ray's `resources_per_worker`."""
        return {"CPU": self.cpus, "GPU": self.gpus}


def parse_workers(text: str) -> Workers:
    """Return the workers of `--workers`: `4`, or `2:4` for an elastic run. Raises ValueError for anything else."""
    try:
        numbers = tuple(int(part) for part in text.split(":"))
    except ValueError:
        numbers = ()
    if len(numbers) == 1 and numbers[0] >= 1:
        return numbers[0]
    if len(numbers) == 2 and 1 <= numbers[0] <= numbers[1]:
        return numbers[0] if numbers[0] == numbers[1] else (numbers[0], numbers[1])
    raise ValueError(f"workers are a number, such as 4, or the fewest and the most, such as 2:4; got {text!r}")


def fewest_and_most(workers: Workers) -> tuple[int, int]:
    """Return both bounds of how many workers there may be."""
    return workers if isinstance(workers, tuple) else (workers, workers)


def lend(nodes: list[dict[str, Any]], workers: Workers, hardware: HardwareConfig, *, can_grow: bool) -> Lent:
    """Return what each worker is lent; `nodes` is what `ray.nodes()` returns.

    What `hardware` declares is asked for as it is. Where it says nothing, a worker gets a GPU if the cluster has any,
    and as many CPUs as let all workers (of an elastic run as many as there is room for) run at once. Workers that ask
    for more than there is wait where the cluster `can_grow`, as an autoscaler may bring it; they are never put on CPUs
    in the place of GPUs.

    Raises ValueError where the cluster cannot grow and is too small.
    """
    fewest, most = fewest_and_most(workers)
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    has = {name: int(sum(node.get(name, 0) for node in alive)) for name in ("CPU", "GPU")}
    gpus = hardware.gpus if hardware.gpus is not None else int(has["GPU"] > 0)
    counts = [hardware.cpus] if hardware.cpus else range(max(has["CPU"], 1), 0, -1)
    for wanted in range(most, fewest - 1, -1):
        for cpus in counts:
            if sum(_room(node, cpus, gpus) for node in alive) >= wanted:
                return Lent(cpus, gpus)
    cpus = hardware.cpus or 1
    asked = f"{fewest} worker(s) of {cpus} CPU(s) and {gpus} GPU(s) each"
    found = f"the Ray cluster has {has['CPU']} CPU(s) and {has['GPU']} GPU(s) on {len(alive)} node(s)"
    if can_grow:
        return Lent(cpus, gpus, (f"{asked} wait: {found}, until an autoscaler brings more; Ctrl-C ends the wait",))
    advice = ", or hardware.gpus=0 to train on CPUs" if gpus and hardware.gpus is None else ""
    raise ValueError(f"{asked} do not fit: {found}; take fewer --workers{advice}")


def _room(node: dict[str, float], cpus: int, gpus: int) -> int:
    """How many workers a node holds."""
    by_cpu = int(node.get("CPU", 0)) // cpus
    return min(by_cpu, int(node.get("GPU", 0)) // gpus) if gpus else by_cpu


def told(worker: dict[str, Any]) -> str:
    """Return a line on what a worker runs on, an entry of `workers.json`."""
    return "worker {rank}: node {node}, {device}, {precision}, {cpus} CPU(s)".format(**worker)
