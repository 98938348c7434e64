"""What a batch has to do: the volumes of a store as tasks, their slices packed into units that fill the actors."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from kdrift.data.store import open_store
from kdrift.recon.chunks import Chunk
from kdrift.recon.request import AcquisitionOptions, AcquisitionRequest
from kdrift.recon.resolved import ResolvedPlan
from kdrift.runs.config import to_dict

COIL_COST = 0.05
"""Work on a coil image outside of the network, in evaluations of it."""
IMBALANCE = 1.02
"""A slice is split where it would otherwise end later than this times all actors' work, evenly spread."""
MORE = 1
"""Slices that are split besides, where those that must be do not fill the gaps: the chunk that checks a slice is a
third of it and stays whole."""
FINEST = 2
"""Most chunks an actor of the chains of one kind: samples, mean and check differ in length, so that as many chunks as
actors do not fill them."""


@dataclass(frozen=True)
class VolumeTask:
    """One volume to reconstruct in one way."""

    request: AcquisitionRequest
    """The volume and how it is read."""
    out: Path
    """Folder for its results; unique, it names the task."""
    plan: ResolvedPlan
    slices: tuple[int, ...]
    """Numbers of the slices in their volume."""
    num_coils: int
    """Coils that take part, after compression."""
    num_pixels: int
    """Pixels of a slice."""
    key: str
    """Hash of all that decides a slice's result: resolved plan, prior, mask, the volume's checksums."""
    outputs: tuple[str, ...] = ()
    """What is written besides `reconstruction.h5`."""
    node: str | None = None
    """Id of the Ray node whose disk `out` is on; None: all nodes see it."""

    @property
    def num_chains(self) -> int:
        """Chains of a slice."""
        return self.plan.num_chains(self.num_coils)

    @property
    def slice_cost(self) -> float:
        """About how long a slice takes, in arbitrary units: its pixels through the network, and a part of that for the
        Fourier transforms and maps of each coil."""
        return float(self.num_pixels * (self.plan.evaluations(self.num_coils) + COIL_COST * self.num_coils))


@dataclass(frozen=True)
class Unit:
    """What is done at a time: some chunks, mostly all, of one slice, by an actor; or the end of a volume, by a task."""

    task: VolumeTask
    index: int = -1
    """Number of the slice in its volume."""
    chunks: tuple[Chunk, ...] = ()
    """None: the slices of the volume are done, and its results are to be written."""
    cost: float = 0.0

    @property
    def name(self) -> tuple[Path, int, tuple[Chunk, ...]]:
        """What tells it from all others."""
        return self.task.out, self.index, self.chunks

    @property
    def slice_name(self) -> tuple[Path, int]:
        """What tells its slice from all others."""
        return self.task.out, self.index

    def __str__(self) -> str:
        return f"{f'slice {self.index}' if self.chunks else 'the end'} of {self.task.out.name}"


def volume_tasks(
    store: str, volumes: Sequence[str], options: AcquisitionOptions, plan: ResolvedPlan, out: Path
) -> list[VolumeTask]:
    """Return one task for each k-space volume of a store whose name matches one of the patterns `volumes`.

    Raises ValueError for a pattern that matches none, or slices that leave a volume none.
    """
    opened = open_store(store)
    infos = {name: opened.read_volume(name).info for name in opened.list_volumes()}
    infos = {name: info for name, info in infos.items() if info.kind == "kspace"}
    for pattern in volumes:
        if not any(fnmatch(name, pattern) for name in infos):
            known = ", ".join(list(infos)[:8]) or "none"
            raise ValueError(f"no k-space volume of {opened.location} matches {pattern!r}; it has {known}")
    tasks = []
    for name, info in infos.items():
        if not any(fnmatch(name, pattern) for pattern in volumes):
            continue
        request = options.of(f"{opened.location}/{name}")
        chosen = tuple(range(info.num_slices)[request.chosen])
        if not chosen:
            raise ValueError(f"{name} has {info.num_slices} slices; none is in the range asked for")
        decides = {
            "plan": {name: value for name, value in plan.config.items() if name != "preset_source"},
            "samples": plan.plan.keep_samples,
            "acquisition": {key: value for key, value in to_dict(request).items() if key not in ("source", "slices")},
            "arrays": opened.attributes(name)["arrays"],
        }
        tasks.append(
            VolumeTask(
                request=request,
                out=out / name,
                plan=plan,
                slices=chosen,
                num_coils=request.virtual_coils or info.num_coils,
                num_pixels=info.rows * info.cols,
                key=hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest(),
            )
        )
    return tasks


def plan_units(slices: Sequence[tuple[VolumeTask, int]], num_actors: int) -> list[Unit]:
    """Pack slices (task, number) into units, longest first, so that all actors are busy to the end.

    Slices stay whole, which batches their chains best, but for those that would leave other actors idle: they are split
    into as many chunks as bring all actors to their end together.
    """
    ordered = sorted(slices, key=lambda item: -item[0].slice_cost)
    goal = IMBALANCE * sum(task.slice_cost for task, _ in ordered) / num_actors
    whole, rest, loads = list[tuple[VolumeTask, int]](), list[tuple[VolumeTask, int]](), [0.0] * num_actors
    for item in ordered:
        least = loads.index(min(loads))
        if loads[least] + item[0].slice_cost <= goal:
            whole.append(item)
            loads[least] += item[0].slice_cost
        else:
            rest.append(item)
    best, end = list[Unit](), math.inf
    for more in range(min(MORE, len(whole)) + 1):
        kept = len(whole) - more
        units, loads = _placed(whole[:kept], 0, [0.0] * num_actors)
        for parts in range(FINEST * num_actors + 1):
            if end <= goal:
                break
            found, ends = _placed([*whole[kept:], *rest], parts, loads)
            if max(ends) < end:
                best, end = [*units, *found], max(ends)
        if end <= goal:
            break
    return sorted(best, key=lambda unit: -unit.cost)


def _placed(slices: Sequence[tuple[VolumeTask, int]], parts: int, loads: list[float]) -> tuple[list[Unit], list[float]]:
    """Return slices as units, and the actors' loads once each piece, the longest first, has gone to the least loaded.

    The chains of each kind are about `parts` chunks, with 0 slices stay whole. Chunks of a slice that an actor gets are
    one unit: it prepares the slice once.
    """
    loads, pieces = loads.copy(), list[tuple[float, int, tuple[Chunk, ...]]]()
    for number, (task, _) in enumerate(slices):
        split = task.plan.split(task.num_coils, max(1, parts))
        shares = [max(1, task.plan.evaluations(task.num_coils, chunk)) for chunk in split]  # classical: none
        if parts:
            cost = task.slice_cost / sum(shares)
            pieces += [(cost * share, number, (chunk,)) for chunk, share in zip(split, shares, strict=True)]
        else:
            pieces.append((task.slice_cost, number, tuple(split)))
    given: dict[tuple[int, int], tuple[float, tuple[Chunk, ...]]] = {}
    for cost, number, chunks in sorted(pieces, key=lambda piece: -piece[0]):
        actor = loads.index(min(loads))
        loads[actor] += cost
        before = given.get((number, actor), (0.0, ()))
        given[number, actor] = before[0] + cost, before[1] + chunks
    return [Unit(*slices[number], chunks, cost) for (number, _), (cost, chunks) in given.items()], loads
