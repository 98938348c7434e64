"""What the workers of a training do together: each takes a share, and all of them have the whole afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def together(count: int, shape: Sequence[int], work: Callable[[range], Tensor], device: torch.device) -> Tensor:
    """Return what `work` makes of the numbers below `count`, float64 `(count, *shape)` on the CPU, on every worker.

    `work` is given this worker's share of the numbers and returns `(len(numbers), *shape)`; outside of a group it does
    all of them. Each number is done by one worker and nothing is added up, so that the result does not depend on how
    many there are, if what `work` makes of a number does not depend on the others. All workers must call this.
    """
    rank, workers = (dist.get_rank(), dist.get_world_size()) if in_group() else (0, 1)
    found = torch.zeros(count, *shape, dtype=torch.float64, device=device)
    if mine := range(count)[rank::workers]:
        found[rank::workers] = work(mine).to(found)
    if workers > 1:
        dist.all_reduce(found)  # all but one of the summands are zero
    return found.cpu()


def mean_over_ranks(value: float, device: torch.device) -> float:
    """Return the mean of a number over the workers."""
    if not in_group():
        return value
    total = torch.tensor(value, device=device)
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()


def from_first(value: T, device: torch.device) -> T:
    """Return what the first worker was given."""
    if not in_group():
        return value
    held = [value]
    dist.broadcast_object_list(held, src=0, device=device)
    return held[0]


def in_group() -> bool:
    """Whether this process is one of a group of workers."""
    return dist.is_available() and dist.is_initialized()
