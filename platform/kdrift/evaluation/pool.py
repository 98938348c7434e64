"""A pool of sampler actors works through volumes: one unit an actor at a time, a lost actor's unit is done again."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from kdrift.data.store import normalise_location
from kdrift.evaluation.partial import is_finished, save_failure, save_slice, slices_left
from kdrift.evaluation.table import count_levels, named_levels
from kdrift.evaluation.work import Unit, VolumeTask, plan_units
from kdrift.prior.bundle import Prior
from kdrift.recon.chunks import ChunkResult
from kdrift.recon.gather import SliceFacts
from kdrift.recon.guard import Diverged
from kdrift.recon.merge import merge_chunks
from kdrift.recon.request import AcquisitionOptions
from kdrift.recon.sentences import divergence_lines, named
from kdrift.runs.cluster import own_cpus, ray_session
from kdrift.runs.config import to_dict
from kdrift.runs.files import read_json
from kdrift.runs.hardware import worker_environment
from kdrift.runs.hint import first_line
from kdrift.runs.progress import Meter, progress

OBJECT_STORE_BYTES = 512 * 2**20
"""Size of a private Ray's object store: it holds the priors and a few slices' results."""


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


@dataclass(frozen=True, kw_only=True)
class StoreOptions(AcquisitionOptions):
    """Which volumes are reconstructed, by whom, and where the results go."""

    store: str
    """Store to read, a folder or URL that all nodes see."""
    out: str
    """Folder for the results; on a cluster one that all nodes share."""
    volumes: list[str] = field(default_factory=lambda: ["*"])
    """Volumes by name or pattern; magnitude volumes are passed over."""
    prior: str | None = None
    """Shipped prior or bundle folder, of all samplers; null: of each method its shipped prior. Only the driver reads
    it."""
    pool: PoolConfig = field(default_factory=PoolConfig)
    """The actors."""

    @property
    def settings(self) -> dict[str, Any]:
        """All of it that must stay as it is while `out` does."""
        values = {**to_dict(self), "store": normalise_location(self.store)}
        del values["out"]
        return values


@dataclass(frozen=True)
class BatchReport:
    """What a batch did; `failed` maps the folder of a volume's results to the reason there are none."""

    volumes: int
    """Finished now."""
    slices: int
    """Reconstructed now."""
    slices_before: int
    """Found done."""
    failed: dict[Path, str]
    seconds: float


@dataclass
class _Batch:
    """What is left to do and what came back."""

    pool: PoolConfig
    meter: Meter
    echo: Callable[[str], None]
    queue: deque[Unit]
    left: Counter[Path]
    """Slices that each volume lacks."""
    chunks: Counter[tuple[Path, int]]
    """Chunks of each slice."""
    total_cost: float
    """Cost of all units, in the arbitrary units of `VolumeTask.slice_cost`."""
    cost: float = 0.0
    """Cost of the units that are done."""
    found: dict[tuple[Path, int], list[ChunkResult]] = field(default_factory=dict)
    facts: dict[tuple[Path, int], SliceFacts] = field(default_factory=dict)
    losses: Counter[Any] = field(default_factory=Counter)
    failed: dict[Path, str] = field(default_factory=dict)
    gone: set[tuple[Path, int]] = field(default_factory=set)
    """Slices that were given up."""

    def fail(self, task: VolumeTask, reason: str) -> None:
        """Give up a volume and forget its other units."""
        self.failed.setdefault(task.out, reason)
        self.queue = deque(unit for unit in self.queue if unit.task.out not in self.failed)

    def work(self, priors: Sequence[Prior], count: int) -> None:
        """Hand out units until none is left. An actor takes part once it is up, so a busy cluster only starts later."""
        import ray

        from kdrift.evaluation.slice_worker import SliceWorker

        threads = max(1, int(self.pool.cpus))
        shared = ray.put(priors)
        kind = ray.remote(SliceWorker).options(
            num_cpus=self.pool.cpus, num_gpus=self.pool.gpus, runtime_env={"env_vars": worker_environment(threads)}
        )
        actors: list[Any] = []
        running: dict[Any, tuple[Any, Unit | None]] = {}
        idle: list[Any] = []

        def start() -> None:
            actors.append(kind.remote(shared, self.pool.device, threads))
            running[actors[-1].process.remote()] = (actors[-1], None)

        try:
            for _ in range(count):
                start()
            while self.queue or any(unit is not None for _, unit in running.values()):
                while self.queue and idle:
                    actor, unit = idle.pop(), self.queue.popleft()
                    call = actor.run.remote(unit) if unit.chunks else actor.finish.remote(unit.task)
                    running[call] = (actor, unit)
                ready, _ = ray.wait(list(running), num_returns=1, timeout=5)
                if not ready:
                    self.meter.show()
                    continue
                actor, done = running.pop(ready[0])
                try:
                    outcome = ray.get(ready[0])
                except ray.exceptions.RayError as error:
                    self.lost(done, error)
                    ray.kill(actor)  # it may still live: then its result was lost with a node
                    start()
                    continue
                idle.append(actor)
                if done is None:
                    self.echo(f"actor {actors.index(actor) + 1} is up: process {outcome}")
                elif done.chunks:
                    self.take(done, outcome)
                elif outcome:
                    self.fail(done.task, outcome)
                else:
                    self.echo(f"written: {done.task.out}/reconstruction.h5 metrics.json panel.png")
                    if removed := read_json(done.task.out / "metrics.json").get("removed"):
                        self.echo(f"removed, of an earlier run: {' '.join(removed)}")
        finally:
            for actor in actors:
                ray.kill(actor)

    def lost(self, unit: Unit | None, error: Exception) -> None:
        """Note that an actor died; its unit goes to the front of the queue, unless it has cost too many."""
        reason = first_line(error)
        name = None if unit is None else (unit.task.out, unit.index, unit.chunks)
        self.losses[name] += 1
        too_many = self.losses[name] > self.pool.max_failures
        if unit is None:
            if too_many:
                raise OSError(f"actors do not start: {reason}")
        elif too_many:
            reason = f"{unit} lost {self.losses[name]} actors, the last one so: {reason}"
            if unit.chunks:
                self.lose(unit, reason)
            else:
                self.fail(unit.task, reason)
        elif not self.is_gone(unit):
            self.echo(f"an actor was lost at {unit}: another one does it again")
            self.queue.appendleft(unit)

    def is_gone(self, unit: Unit) -> bool:
        """Whether the volume or slice of a unit was given up."""
        return unit.task.out in self.failed or (unit.task.out, unit.index) in self.gone

    def lose(self, unit: Unit, reason: str) -> None:
        """Give up a slice, which costs itself alone, and forget its other units."""
        if self.is_gone(unit):
            return
        self.gone.add((unit.task.out, unit.index))
        self.queue = deque(other for other in self.queue if not other.chunks or not self.is_gone(other))
        self.found.pop((unit.task.out, unit.index), None)
        said = named(unit.index, reason)
        self.echo(f"{unit.task.out.name}: {said}")
        save_failure(unit.task, unit.index, said)
        self.count(unit)

    def count(self, unit: Unit) -> None:
        """Count a slice that is done or given up, and queue the end of its volume after the last one."""
        self.meter.update(self.meter.done + 1, fraction=min(1.0, self.cost / self.total_cost))
        self.left[unit.task.out] -= 1
        if not self.left[unit.task.out]:
            self.queue.appendleft(Unit(unit.task))

    def take(self, unit: Unit, outcome: Any) -> None:
        """Keep the chunks of a unit; write the slice once it is whole, and queue the end of a volume that is."""
        if self.is_gone(unit):
            return
        if isinstance(outcome, str):
            self.lose(unit, outcome)
            return
        name = (unit.task.out, unit.index)
        facts, results = outcome
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
        save_slice(unit.task, self.facts.pop(name), merged)
        self.count(unit)


def run_tasks(
    tasks: Sequence[VolumeTask],
    priors: Sequence[Prior],
    pool: PoolConfig,
    *,
    address: str | None = None,
    quiet: bool = False,
    echo: Callable[[str], None] = print,
) -> BatchReport:
    """Reconstruct volumes on Ray actors; what is finished already is left alone.

    `priors` are those that the tasks' plans were resolved with.

    Raises ValueError if no node of the cluster has room for an actor, and OSError if actors do not start.
    """
    unfinished = [task for task in tasks if not is_finished(task)]
    missing = [(task, index) for task in unfinished for index in slices_left(task)]
    before = sum(len(task.slices) for task in tasks) - len(missing)
    if before:
        echo(f"{before} of {before + len(missing)} slices are done already")
    if not unfinished:
        _tell_verdicts(tasks, echo)
        return BatchReport(0, 0, before, {}, 0.0)
    import ray

    cpus = own_cpus(None if pool.actors is None else ceil(pool.actors * pool.cpus))
    with ray_session(address, cpus=cpus, object_store_bytes=OBJECT_STORE_BYTES, echo=echo):
        most = sum(task.num_chains for task, _ in missing) or len(unfinished)
        count = min(pool.actors or num_actors(ray.nodes(), pool), most)
        units = plan_units(missing, count)
        chunks = Counter((unit.task.out, unit.index) for unit in units for _ in unit.chunks)
        left = Counter(task.out for task, _ in missing)
        queue = deque(units)
        queue.extendleft(Unit(task) for task in unfinished if not left[task.out])
        echo(f"{len(missing)} slices of {len(unfinished)} volumes in {len(queue)} units on {count} actors")
        with progress(len(missing), "slices", quiet=quiet, echo=echo) as meter:
            batch = _Batch(pool, meter, echo, queue, left, chunks, sum(task.slice_cost for task, _ in missing))
            batch.work(priors, count)
    _tell_verdicts(tasks, echo)
    return BatchReport(len(unfinished) - len(batch.failed), meter.done, before, batch.failed, meter.elapsed)


def _tell_verdicts(tasks: Sequence[VolumeTask], echo: Callable[[str], None]) -> None:
    """Say how many slices of the volumes that are finished, now or before, are to be believed, if that was checked."""
    levels = count_levels(read_json(task.out / "metrics.json") for task in tasks if is_finished(task))
    if levels:
        echo(f"slices: {named_levels(levels)} (verdicts in each metrics.json)")


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
