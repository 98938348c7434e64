"""`kdrift reconstruct --config`: all or some volumes of a store, by a pool of Ray actors, resumable a slice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from kdrift.data.store import normalise_location
from kdrift.evaluation.partial import run_folder
from kdrift.evaluation.pool import BatchReport, PoolConfig, run_tasks
from kdrift.evaluation.work import volume_tasks
from kdrift.recon.acquisition import MaskRequest
from kdrift.recon.plan import Plan, pin
from kdrift.recon.runner import load_priors, resolve
from kdrift.runs.config import to_dict

FREE = ("pool", "store", "volumes", "prior", "plan.batch_samples")
"""May change when a batch is resumed: the pool, where things lie (their checksums count), and what to add to it."""


@dataclass(frozen=True)
class BatchConfig:
    """One batch reconstruction."""

    store: str
    """Store to read, a folder or URL that all nodes see."""
    out: str
    """Folder for the results, one below it a volume; on a cluster one that all nodes share."""
    volumes: list[str] = field(default_factory=lambda: ["*"])
    """Volumes by name or pattern; magnitude volumes are passed over."""
    slices: tuple[int, int | None] | None = None
    """[A, B]: slices A to B - 1 of each volume, negative numbers from its end, B null to its end; null: all."""
    mask: MaskRequest | None = None
    """Retrospective undersampling of full data; null: data as they are."""
    plan: Plan = field(default_factory=Plan)
    """Method, preset, settings, samples, seed."""
    prior: str | None = None
    """Shipped prior or bundle folder; null: the method's shipped prior. Only the driver reads it."""
    pool: PoolConfig = field(default_factory=PoolConfig)
    """The actors."""


def reconstruct_batch(
    config: BatchConfig, *, address: str | None = None, echo: Callable[[str], None] = print
) -> BatchReport:
    """Reconstruct the volumes of a store; every slice as `kdrift.reconstruct` would, whichever actor does it.

    A slice that is done is written under `out/.partial`, a volume by `save_result`: a batch that was killed and is
    started again goes on after the last slice. `seconds` of a volume is the time of all actors together.

    Raises
    ------
    ValueError
        For mistakes in the configuration, another one than `out` began with, or another driver in `out`.
    """
    out = Path(config.out).resolve()
    plan, priors = pin(config.plan), load_priors([config.plan.method], config.prior)
    runner = resolve(plan, priors.get(plan.method))
    chosen = slice(*config.slices) if config.slices else slice(None)
    tasks = volume_tasks(config.store, config.volumes, chosen, config.mask, plan, runner, out)
    settings = {**to_dict(config), "store": normalise_location(config.store), "resolved": runner.config}
    settings.pop("out")
    with run_folder(out, settings, (*FREE, "resolved.prior.name", "resolved.preset_source")):
        return run_tasks(tasks, priors, config.pool, address=address, echo=echo)
