"""`kdrift evaluate`: methods x masks over a store by the machinery of batches, to one table and one MLflow run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdrift.data.store import SAFE_NAME
from kdrift.evaluation.pool import BatchReport, StoreOptions, run_tasks
from kdrift.evaluation.table import FIGURES, LEVELS, SPREAD, Cell, count_levels, summarise, write_tables
from kdrift.evaluation.work import VolumeTask, volume_tasks
from kdrift.recon.plan import Plan, load_priors
from kdrift.recon.report import MARK
from kdrift.recon.request import MaskRequest
from kdrift.recon.resolved import ResolvedPlan
from kdrift.runs import tracking
from kdrift.runs.run_folder import TrackedRun, run_folder, tracked_run
from kdrift.trust.verdict import worst

FREE = ("pool", "store", "volumes", "prior", "tracking_uri", "name")
"""May change when an evaluation is resumed, besides the methods and masks that there are."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(StoreOptions):
    """One evaluation; its store holds fully sampled k-space."""

    methods: dict[str, Plan]
    """Plans by the name they have in the table: samplers, and classical methods with their weights."""
    masks: dict[str, MaskRequest]
    """Undersampling by the name it has in the table."""
    name: str = "evaluation"
    """Name of the MLflow run."""
    tracking_uri: str | None = None
    """MLflow tracking URI; null: SQLite in `out`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.methods or not self.masks or self.mask is not None:
            raise ValueError("an evaluation needs at least one of methods and of masks by its name, and no other mask")
        for name in (*self.methods, *self.masks):
            if not SAFE_NAME.match(name):
                raise ValueError(f"names of methods and masks are of letters, digits, '.', '_' and '-', got {name!r}")


@dataclass(frozen=True)
class EvaluateResult:
    """Where an evaluation left its things."""

    table: str
    """Markdown, as in `table.md`."""
    batch: BatchReport
    tracking_uri: str


def evaluate(
    config: EvaluateConfig, *, address: str | None = None, quiet: bool = False, echo: Callable[[str], None] = print
) -> EvaluateResult:
    """Reconstruct every volume with every method under every mask, and write `table.md`, `.csv` and `.json`.

    Each cell lies in `out/cells/MASK/METHOD/VOLUME`, as `kdrift reconstruct` writes it. What is done is not done again;
    methods, masks and volumes may be added later, and join the table and the MLflow run.

    Raises ValueError for mistakes in the configuration, a method or mask that differs from the one `out` began with, or
    another driver in `out`.
    """
    out = Path(config.out).resolve()
    priors = load_priors([plan.method for plan in config.methods.values()], config.prior)
    plans = {name: plan.resolve(priors.get(plan.method)) for name, plan in config.methods.items()}
    tasks = cell_tasks(config, plans, out)
    settings = {**config.settings, "resolved": {name: plan.config for name, plan in plans.items()}}
    what, free = "evaluation", (*FREE, *(f"resolved.{name}.preset_source" for name in plans))
    with (
        run_folder(out, settings, what=what, free=free, tables=("methods", "masks", "resolved")),
        tracked_run(out, settings, what=what, name=config.name, tracking_uri=config.tracking_uri) as run,
    ):
        for name, plan in plans.items():
            echo(f"{name}: {plan.headline(config.pool.device)}")
        every = [task for cell in tasks.values() for task in cell]
        batch = run_tasks(every, priors, config.pool, address=address, quiet=quiet, echo=echo)
        cells = [_read(*names, cell) for names, cell in tasks.items()]
        table = write_tables(out, cells)
        _log(run, out, tasks, cells)
        run.fault = f"{len(batch.failed)} volumes failed" if batch.failed else ""
    return EvaluateResult(table, batch, run.uri)


def cell_tasks(
    config: EvaluateConfig, plans: Mapping[str, ResolvedPlan], out: Path
) -> dict[tuple[str, str], list[VolumeTask]]:
    """Return the volumes to reconstruct for each mask and method, by their names."""
    return {
        (mask_name, name): volume_tasks(
            config.store, config.volumes, config.of("", mask=mask), plan, out / "cells" / mask_name / name
        )
        for mask_name, mask in config.masks.items()
        for name, plan in plans.items()
    }


def _read(mask: str, method: str, tasks: Sequence[VolumeTask]) -> Cell:
    """Read the figures of a cell's finished volumes."""
    files = [task.out / "metrics.json" for task in tasks if (task.out / MARK).is_file()]
    return Cell(mask, method, [json.loads(file.read_text()) for file in files])


def _log(run: TrackedRun, out: Path, tasks: dict[tuple[str, str], list[VolumeTask]], cells: Sequence[Cell]) -> None:
    """Log the table, of each cell its figures, verdicts and the panel of its first volume, and the worst verdict."""
    means = {figure: f"{figure}_mean" for figure in (*FIGURES, *SPREAD, "seconds_a_slice")}
    counts = {name: name for name in (*(level.replace(" ", "_") for level in LEVELS), "given")}
    values = {
        f"{figure}/{row['mask']}/{row['method']}/{row['data']}": row[name]
        for row in summarise(cells)
        for figure, name in (means | counts).items()
        if row[name] is not None
    }
    tracking.log_metrics(run.uri, run.run_id, values, 0)
    level = worst(count_levels(report for cell in cells for report in cell.reports))
    tracking.set_tag(run.uri, run.run_id, "verdict", level)
    for suffix in ("md", "csv", "json"):
        tracking.log_file(run.uri, run.run_id, out / f"table.{suffix}")
    for (mask, method), cell in tasks.items():
        panels = [task.out / "panel.png" for task in cell if (task.out / MARK).is_file()]
        if panels:
            tracking.log_file(run.uri, run.run_id, panels[0], f"panels/{mask}/{method}")
