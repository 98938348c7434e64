"""Units of work go to actors, and what a lost actor, a failing device or a slow one had is done again.

An actor gets a unit at a time and the next one to read ahead. The end of a volume is a task of its own, which no actor
waits for.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdrift.evaluation.faults import Fault
from kdrift.evaluation.partial import save_failure, save_slice
from kdrift.evaluation.pool_config import PoolConfig
from kdrift.evaluation.work import Unit, VolumeTask
from kdrift.prior.bundle import Prior
from kdrift.recon.chunks import ChunkResult
from kdrift.recon.gather import SliceFacts
from kdrift.recon.guard import Diverged
from kdrift.recon.merge import merge_chunks
from kdrift.recon.seen import Seen
from kdrift.recon.sentences import divergence_lines, named
from kdrift.runs.files import read_json
from kdrift.runs.hardware import worker_environment
from kdrift.runs.hint import first_line
from kdrift.runs.nodes import begun, working_nodes
from kdrift.runs.progress import Meter

SLOW = 3.0
"""A unit that takes this many times what units of its cost have taken is given to an idle actor as well."""
SLOW_SECONDS = 20.0
"""Units that take less than this are never given out twice."""


@dataclass
class _Call:
    """What an actor is doing, or the task that ends a volume."""

    number: int | None
    """Number of the actor; None: a task does it."""
    unit: Unit | None
    """None: the actor is starting."""
    began: float = field(default_factory=time.monotonic)


@dataclass
class HandOut:
    """What is left to do and what came back."""

    pool: PoolConfig
    meter: Meter
    echo: Callable[[str], None]
    queue: deque[Unit]
    """Units of slices."""
    ends: deque[Unit]
    """Ends of volumes."""
    left: Counter[Path]
    """Slices that each volume lacks."""
    chunks: Counter[tuple[Path, int]]
    """Chunks of each slice."""
    total_cost: float
    """Cost of all units, in the arbitrary units of `VolumeTask.slice_cost`."""
    cost: float = 0.0
    """Cost of the units that are done."""
    ahead: dict[int, Unit] = field(default_factory=dict)
    """The unit that an actor reads ahead, by its number."""
    found: dict[tuple[Path, int], list[ChunkResult]] = field(default_factory=dict)
    seen: dict[tuple[Path, int], Seen] = field(default_factory=dict)
    facts: dict[tuple[Path, int], SliceFacts] = field(default_factory=dict)
    losses: Counter[Any] = field(default_factory=Counter)
    failed: dict[Path, str] = field(default_factory=dict)
    gone: set[tuple[Path, int]] = field(default_factory=set)
    """Slices that were given up."""
    answered: set[Any] = field(default_factory=set)
    """Units that came back."""
    doubled: set[Any] = field(default_factory=set)
    """Units that two actors do."""
    spent: float = 0.0
    """Seconds that actors took for the cost that is done."""
    aside: list[str] = field(default_factory=list)
    """Actors that get no work any more, and why."""

    def fail(self, task: VolumeTask, reason: str) -> None:
        """Give up a volume and forget its other units."""
        self.failed.setdefault(task.out, reason)
        self.queue = deque(unit for unit in self.queue if unit.task.out not in self.failed)
        self.ends = deque(unit for unit in self.ends if unit.task.out not in self.failed)

    def work(self, priors: Sequence[Prior], count: int) -> None:
        """Hand out units until none is left. An actor takes part once it is up, so a busy cluster only starts later.

        An actor whose device raises errors is put aside and keeps the device, so that no other gets it. Raises OSError
        where no actor is left, as none starts.
        """
        import ray

        from kdrift.evaluation import slice_worker

        threads = max(1, int(self.pool.cpus))
        shared = ray.put(priors)
        kind = ray.remote(slice_worker.SliceWorker).options(
            num_cpus=self.pool.cpus, num_gpus=self.pool.gpus, runtime_env={"env_vars": worker_environment(threads)}
        )
        actors: list[Any] = []
        running: dict[Any, _Call] = {}
        idle: list[int] = []
        ended_volumes = itertools.count()

        def start() -> None:
            actors.append(kind.remote(shared, self.pool.device, threads))
            running[actors[-1].process.remote()] = _Call(len(actors) - 1, None)

        try:
            for _ in range(count):
                start()
            while self.queue or self.ahead or self.ends or any(self.waits_for(call.unit) for call in running.values()):
                while self.ends and sum(call.number is None for call in running.values()) < max(1, count):
                    end = self.ends.popleft()
                    alive = list(working_nodes())
                    node = end.task.node or alive[next(ended_volumes) % len(alive)]
                    running[begun(node, slice_worker.finish_volume, end.task, threads)] = _Call(None, end)
                while idle and (unit := self.next_unit(idle[-1], running.values())):
                    number = idle.pop()
                    running[actors[number].run.remote(unit, self.read_ahead(number, count))] = _Call(number, unit)
                if not running and (self.queue or self.ahead):
                    raise OSError(f"no actor is left to work: {'; '.join(self.aside)}")
                if not running:
                    break
                ready, _ = ray.wait(list(running), num_returns=1, timeout=5)
                if not ready:
                    self.meter.show()
                    continue
                ended = running.pop(ready[0])
                try:
                    outcome = ray.get(ready[0])
                except ray.exceptions.RayError as error:
                    if ended.number is None:
                        assert ended.unit is not None
                        self.again(ended.unit, _reason(error), "lost its process")
                        continue
                    ray.kill(actors[ended.number])  # it may still live: then its result was lost with a node
                    if self.lost(ended.number, ended.unit, _reason(error)):
                        start()
                    continue
                if ended.number is not None and isinstance(outcome, Fault) and outcome.kind == "device":
                    self.put_aside(ended.number, ended.unit, outcome.reason)
                    continue
                if ended.number is not None:
                    idle.append(ended.number)
                if ended.unit is None:
                    self.echo(f"actor {(ended.number or 0) + 1} is up: process {outcome}")
                else:
                    self.answer(ended, outcome)
        finally:
            for actor in actors:
                ray.kill(actor)

    def next_unit(self, number: int, running: Collection[_Call]) -> Unit | None:
        """Return what an idle actor does next: what it has read, the queue's first, what another has read for later, or
        what another is slow at; None: nothing."""
        self.hand_back(number)
        while self.queue or self.ahead:
            if self.waits_for(unit := self.queue.popleft() if self.queue else self.ahead.popitem()[1]):
                return unit
        pace = self.spent / self.cost if self.cost else math.inf
        for call in running:
            slow, seconds = call.unit, time.monotonic() - call.began
            if slow is None or not slow.chunks or slow.name in self.doubled or not self.waits_for(slow):
                continue
            if seconds > max(SLOW_SECONDS, SLOW * pace * slow.cost):
                self.doubled.add(slow.name)
                self.echo(f"{slow} takes {seconds:.0f} s, others of its size {pace * slow.cost:.0f} s: done twice")
                return slow
        return None

    def read_ahead(self, number: int, count: int) -> Unit | None:
        """Return the unit that an actor is to read while it does another. The last units, one an actor, are nobody's
        until they are begun: who is free first takes them, and reads them alone."""
        while len(self.queue) >= count:
            if self.waits_for(unit := self.queue.popleft()):
                self.ahead[number] = unit
                return unit
        return None

    def hand_back(self, number: int) -> None:
        """Put the unit that an actor was to do next in front of the queue."""
        if (unit := self.ahead.pop(number, None)) is not None:
            self.queue.appendleft(unit)

    def waits_for(self, unit: Unit | None) -> bool:
        """Whether a unit's answer is still needed."""
        return unit is not None and unit.name not in self.answered and not self.is_gone(unit)

    def answer(self, call: _Call, outcome: Any) -> None:
        """Take what an actor made of a unit; the second answer of two is not needed."""
        unit = call.unit
        assert unit is not None
        if not self.waits_for(unit):
            return
        if isinstance(outcome, Fault) and outcome.kind == "passing":
            self.again(unit, outcome.reason, "failed for a moment")
            return
        self.answered.add(unit.name)
        if isinstance(outcome, Fault):
            self.see(unit, outcome.seen)
            self.give_up(unit, outcome.reason)
        elif unit.chunks:
            self.spent += time.monotonic() - call.began
            self.take(unit, *outcome)
        else:
            self.echo(f"written: {unit.task.out}/reconstruction.h5 metrics.json panel.png")
            if removed := read_json(unit.task.out / "metrics.json").get("removed"):
                self.echo(f"removed, of an earlier run: {' '.join(removed)}")

    def put_aside(self, number: int, unit: Unit | None, reason: str) -> None:
        """Note that an actor's device raises errors: it gets no more work, and another one does its unit again."""
        self.hand_back(number)
        self.aside.append(f"actor {number + 1}: {reason}")
        self.echo(f"actor {number + 1} is put aside, with the device that it holds: {reason}")
        if unit is not None:
            self.again(unit, reason, "had its device fail")

    def lost(self, number: int, unit: Unit | None, reason: str) -> bool:
        """Note that an actor died; return whether another one is to take its place.

        Its unit goes to the front of the queue, unless it has cost too many. Actors that do not even start are replaced
        so often, and then the others go on without.
        """
        self.hand_back(number)
        if unit is not None:
            self.again(unit, reason, "lost its actor")
            return True
        self.losses[None] += 1
        if self.losses[None] <= self.pool.max_failures:
            return True
        self.aside.append(f"actor {number + 1} does not start: {reason}")
        self.echo(self.aside[-1])
        return False

    def again(self, unit: Unit, reason: str, what: str) -> None:
        """Queue a unit in front of all others once more, unless that was too often."""
        if not self.waits_for(unit):
            return
        self.losses[unit.name] += 1
        if self.losses[unit.name] <= self.pool.max_failures:
            self.echo(f"{unit} {what}: another one does it again")
            (self.queue if unit.chunks else self.ends).appendleft(unit)
            return
        self.give_up(unit, f"{unit} {what} {self.losses[unit.name]} times, the last time so: {reason}")

    def is_gone(self, unit: Unit) -> bool:
        """Whether the volume or slice of a unit was given up."""
        return unit.task.out in self.failed or unit.slice_name in self.gone

    def give_up(self, unit: Unit, reason: str) -> None:
        """Give up the slice of a unit, or, where that is its end, the volume."""
        if unit.chunks:
            self.lose(unit, reason)
        else:
            self.fail(unit.task, reason)

    def lose(self, unit: Unit, reason: str) -> None:
        """Give up a slice, which costs itself alone, and forget its other units."""
        self.gone.add(unit.slice_name)
        self.queue = deque(other for other in self.queue if not self.is_gone(other))
        self.found.pop(unit.slice_name, None)
        said = named(unit.index, reason)
        self.echo(f"{unit.task.out.name}: {said}")
        save_failure(unit.task, unit.index, said, self.seen.pop(unit.slice_name, None))
        self.count(unit)

    def count(self, unit: Unit) -> None:
        """Count a slice that is done or given up, and queue the end of its volume after the last one."""
        self.meter.update(self.meter.done + 1, fraction=min(1.0, self.cost / self.total_cost))
        self.left[unit.task.out] -= 1
        if not self.left[unit.task.out]:
            self.ends.append(Unit(unit.task))

    def see(self, unit: Unit, seen: Seen | None) -> None:
        """Keep what was seen of a slice; who reads it again sees the same."""
        if seen is not None:
            self.seen[unit.slice_name] = seen

    def take(self, unit: Unit, facts: SliceFacts, results: list[ChunkResult], seen: Seen) -> None:
        """Keep the chunks of a unit; write the slice once it is whole, and queue the end of a volume that is."""
        name = unit.slice_name
        self.see(unit, seen)
        self.facts.setdefault(name, facts)
        self.found.setdefault(name, []).extend(results)
        self.cost += unit.cost
        if len(self.found[name]) < self.chunks[name]:
            return
        try:
            merged = merge_chunks(self.found.pop(name))
        except Diverged as error:
            self.lose(unit, str(error))
            return
        for line in divergence_lines({unit.index: merged.diverged}, [unit.index] if merged.fallback else []):
            self.echo(f"{unit.task.out.name}: {line}")
        if merged.verdict is not None and merged.verdict.level == "not trusted":
            self.echo(f"{unit.task.out.name}: slice {unit.index}: {merged.verdict}")
        save_slice(unit.task, self.facts.pop(name), merged, self.seen.pop(name))
        self.count(unit)


def _reason(error: Exception) -> str:
    """Return what Ray says of a lost actor; of one that did not start, the last line, which says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines and "creation task" in lines[0] else first_line(error)
