"""What a batch has to do: the volumes of a store as tasks, their slices packed into units that fill the actors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from kdrift.data.store import open_store
from kdrift.data.volume import VolumeInfo
from kdrift.recon.acquisition import MaskRequest
from kdrift.recon.chunks import Chunk, split_chains
from kdrift.recon.plan import Plan
from kdrift.recon.runner import Runner
from kdrift.runs.config import to_dict

IMBALANCE = 1.02
"""A slice is split where it would otherwise end later than this times all actors' work, evenly spread."""


@dataclass(frozen=True)
class VolumeTask:
    """One volume to reconstruct in one way."""

    source: str
    """`X.zarr/NAME`, as `load_acquisition` takes it."""
    out: Path
    """Folder for its results; unique, it names the task."""
    mask: MaskRequest | None
    plan: Plan
    """Pinned: an actor's node may have no preset of that name, or another."""
    config: dict[str, Any]
    """The resolved plan, which travels with the result."""
    slices: tuple[int, ...]
    num_samples: int
    num_coils: int | None
    """Coils that are chains of their own; None where a method combines or couples them."""
    slice_cost: float
    """About how long a slice takes, in no unit."""
    key: str
    """Hash of all that decides a slice's result: resolved plan, prior, mask, the volume's checksums."""


@dataclass(frozen=True)
class Unit:
    """What one actor does at a time: some chunks, mostly all, of one slice."""

    task: VolumeTask
    index: int
    """Number of the slice in its volume."""
    chunks: tuple[Chunk, ...]
    cost: float


def volume_tasks(
    store: str, volumes: Sequence[str], slices: slice, mask: MaskRequest | None, plan: Plan, runner: Runner, out: Path
) -> list[VolumeTask]:
    """Return one task for each k-space volume of a store whose name matches one of the patterns `volumes`.

    `plan` is pinned, `runner` what it resolves to.

    Raises ValueError for a pattern that matches none, or `slices` that leave a volume none.
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
        chosen = tuple(range(info.num_slices)[slices])
        if not chosen:
            raise ValueError(f"{name} has {info.num_slices} slices; none is in the range asked for")
        decides = {
            "plan": {name: value for name, value in runner.config.items() if name != "preset_source"},
            "samples": plan.keep_samples,
            "mask": to_dict(mask) if mask else None,
            "arrays": opened.attributes(name)["arrays"],
        }
        tasks.append(
            VolumeTask(
                source=f"{opened.location}/{name}",
                out=out / name,
                mask=mask,
                plan=plan,
                config=runner.config,
                slices=chosen,
                num_samples=runner.num_samples,
                num_coils=info.num_coils if runner.independent_coils else None,
                slice_cost=_cost(info, runner),
                key=hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest(),
            )
        )
    return tasks


def plan_units(slices: Sequence[tuple[VolumeTask, int]], num_actors: int) -> list[Unit]:
    """Pack slices (task, number) into units, longest first, so that all actors are busy to the end.

    Slices stay whole, which batches their chains best, but for the last ones: those that would leave other actors
    idle are split into as many chunks as bring all actors to their end together.
    """
    ordered = sorted(slices, key=lambda item: -item[0].slice_cost)
    goal = IMBALANCE * sum(task.slice_cost for task, _ in ordered) / num_actors
    loads = [0.0] * num_actors
    units: list[Unit] = []
    for task, index in ordered:
        best = _placed(task, index, 1, loads)
        for parts in range(2, num_actors + 1):
            if max(best[1]) <= goal:
                break
            best = min(best, _placed(task, index, parts, loads), key=lambda found: max(found[1]))
        units.extend(best[0])
        loads = best[1]
    return sorted(units, key=lambda unit: -unit.cost)


def _placed(task: VolumeTask, index: int, parts: int, loads: list[float]) -> tuple[list[Unit], list[float]]:
    """Return a slice as about `parts` units, and the actors' loads once each has gone to the least loaded."""
    units, loads = [], loads.copy()
    for chunks in _split(task, parts):
        chains = sum(_chains(task, chunk) for chunk in chunks)
        cost = task.slice_cost * chains / (task.num_samples * (task.num_coils or 1))
        units.append(Unit(task, index, chunks, cost))
        loads[loads.index(min(loads))] += cost
    return units, loads


def _split(task: VolumeTask, parts: int) -> list[tuple[Chunk, ...]]:
    """Return the chunks of a slice for each of `parts` units; one unit runs all of them in turn."""
    chunks = split_chains(
        task.num_samples, num_coils=task.num_coils, num_chunks=parts, batch_samples=task.plan.batch_samples
    )
    return [tuple(chunks)] if parts == 1 else [(chunk,) for chunk in chunks]


def _chains(task: VolumeTask, chunk: Chunk) -> int:
    return chunk.num_samples * (chunk.coils[1] - chunk.coils[0] if chunk.coils else task.num_coils or 1)


def _cost(info: VolumeInfo, runner: Runner) -> float:
    """Return about how long a slice takes: pixels through the network, or a small part of that an FFT."""
    options: dict[str, Any] = runner.config["options"]
    pixels = info.rows * info.cols
    if "num_steps" not in options:
        return 0.05 * pixels * info.num_coils
    evaluations = options["num_steps"] * (1 + options.get("num_corrector_steps", 0))
    return float(pixels * evaluations * runner.num_samples * (info.num_coils if runner.independent_coils else 1))
