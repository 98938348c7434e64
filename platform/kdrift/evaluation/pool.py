"""A pool of sampler actors works through the volumes of a store."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

from kdrift.data.store import normalise_location
from kdrift.evaluation.hand_out import HandOut
from kdrift.evaluation.partial import is_finished, slices_left
from kdrift.evaluation.pool_config import PoolConfig, num_actors
from kdrift.evaluation.table import count_levels, named_levels
from kdrift.evaluation.work import Unit, VolumeTask, plan_units
from kdrift.prior.bundle import Prior
from kdrift.recon.request import AcquisitionOptions
from kdrift.runs.cluster import own_cpus, ray_session
from kdrift.runs.config import to_dict
from kdrift.runs.files import read_json
from kdrift.runs.home import Home
from kdrift.runs.nodes import check_shared, this_node
from kdrift.runs.progress import progress

OBJECT_STORE_BYTES = 512 * 2**20
"""Size of a private Ray's object store: it holds the priors and a few slices' results."""


@dataclass(frozen=True, kw_only=True)
class StoreOptions(AcquisitionOptions):
    """Which volumes are reconstructed, by whom, and where the results go."""

    store: str
    """Store to read, a folder or URL that all nodes see."""
    out: str
    """Folder for the results, on a cluster one that all nodes share; or a URL such as s3://bucket/x."""
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


def run_tasks(
    tasks: Sequence[VolumeTask],
    priors: Sequence[Prior],
    pool: PoolConfig,
    home: Home,
    *,
    address: str | None = None,
    quiet: bool = False,
    echo: Callable[[str], None] = print,
) -> BatchReport:
    """Reconstruct volumes on Ray actors; what is finished already is left alone.

    `priors` are those that the tasks' plans were resolved with. The tasks write into the folder of `home`: at a URL
    on the node of this process alone, else from all nodes, which is tried first.

    Raises ValueError if no node of the cluster has room for an actor, or one cannot write into the folder, and OSError
    if actors do not start.
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
        if home.url is None:
            check_shared(home.folder, echo)
        else:
            node = this_node()
            unfinished = [replace(task, node=node) for task in unfinished]
            missing = [(replace(task, node=node), index) for task, index in missing]
        most = sum(task.num_chains for task, _ in missing) or len(unfinished)
        count = min(pool.actors or num_actors(ray.nodes(), pool), most)
        units = plan_units(missing, count)
        chunks = Counter((unit.task.out, unit.index) for unit in units for _ in unit.chunks)
        left = Counter(task.out for task, _ in missing)
        ends = deque(Unit(task) for task in unfinished if not left[task.out])
        echo(f"{len(missing)} slices of {len(unfinished)} volumes in {len(units)} units on {count} actors")
        with progress(len(missing), "slices", quiet=quiet, echo=echo) as meter:
            batch = HandOut(
                pool, meter, echo, deque(units), ends, left, chunks, sum(task.slice_cost for task, _ in missing)
            )
            batch.work(priors, count)
    _tell_verdicts(tasks, echo)
    return BatchReport(len(unfinished) - len(batch.failed), meter.done, before, batch.failed, meter.elapsed)


def _tell_verdicts(tasks: Sequence[VolumeTask], echo: Callable[[str], None]) -> None:
    """Say how many slices of the volumes that are finished, now or before, are to be believed, if that was checked."""
    levels = count_levels(read_json(task.out / "metrics.json") for task in tasks if is_finished(task))
    if levels:
        echo(f"slices: {named_levels(levels)} (verdicts in each metrics.json)")
