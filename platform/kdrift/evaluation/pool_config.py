"""The actors of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PoolConfig:
    """The actors of a batch."""

    actors: int | None = None
    """How many; null: as many as CPUs or GPUs allow, and no more than there is work for."""
    cpus: float = 1
    """CPUs an actor."""
    gpus: float = 0
    """GPUs an actor, e.g. 0.5 for two on one; 0: it computes on its CPUs."""
    max_failures: int = 3
    """A slice whose actor is lost this often is given up."""

    def __post_init__(self) -> None:
        if (self.actors is not None and self.actors < 1) or self.cpus <= 0 or self.gpus < 0 or self.max_failures < 1:
            raise ValueError(f"pool needs actors and max_failures >= 1, cpus > 0 and gpus >= 0, got {self}")

    @property
    def device(self) -> str:
        """The kind of device that an actor computes on."""
        return "cuda" if self.gpus else "cpu"


def num_actors(nodes: list[dict[str, Any]], pool: PoolConfig) -> int:
    """Return how many actors the nodes (`ray.nodes()`) have room for. Raises ValueError if none."""
    room = 0
    for node in nodes:
        if node["Alive"]:
            resources = node["Resources"]
            fits = [resources.get("CPU", 0) / pool.cpus]
            fits += [resources.get("GPU", 0) / pool.gpus] if pool.gpus else []
            room += int(min(fits) + 1e-6)
    if not room:
        raise ValueError(f"no node has the {pool.cpus:g} CPUs and {pool.gpus:g} GPUs that pool asks for an actor")
    return room
