"""`kdrift evaluate`: stores x masks x methods by the machinery of batches, to one table, one report, one MLflow run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from kdrift.data.store import open_store
from kdrift.data.store_check import array_digest
from kdrift.evaluation.cells import CellName, cell_tasks, read_cell, resolve_methods
from kdrift.evaluation.evaluate_config import EvaluateConfig
from kdrift.evaluation.html_report import write_report
from kdrift.evaluation.paired import compare_methods
from kdrift.evaluation.pool import BatchReport, run_tasks
from kdrift.evaluation.table import DEVIATION, FIGURES, LEVELS, SPREAD, Cell, count_levels, observations, summarise
from kdrift.evaluation.table_files import write_tables
from kdrift.evaluation.work import VolumeTask
from kdrift.recon.report import MARK
from kdrift.runs import tracking
from kdrift.runs.home import Home, at_home
from kdrift.runs.run_folder import TrackedRun, run_folder, tracked_run
from kdrift.trust.verdict import worst

FREE = (
    "pool", "store", "volumes", "prior", "tracking_uri", "name", "sweep", "per", "compare", "published", "title",
    "notes", "small", "size",
)  # fmt: skip
"""May change when an evaluation is resumed, besides the stores, methods and masks that there are."""


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
    """Reconstruct every volume with every method under every mask; write `report.html`, `table.md` and its other forms.

    Each cell lies in `out/cells/[STORE/]MASK/METHOD/VOLUME`, as `kdrift reconstruct` writes it. What is done is not
    done again; stores, methods, masks, values of the sweep and volumes may be added later, and join table and run.

    Raises ValueError for mistakes in the configuration, a method or mask that differs from the one `out` began with, or
    another driver in `out`; OSError where `out` is a URL and not all could be sent.
    """
    with at_home(config.out, what="evaluation", echo=echo, keep=True) as home:
        return _evaluate(config, home, address, quiet, home.telling(echo))


def _evaluate(
    config: EvaluateConfig, home: Home, address: str | None, quiet: bool, echo: Callable[[str], None]
) -> EvaluateResult:
    out = home.folder
    plans, priors = resolve_methods(config)
    tasks = cell_tasks(config, plans, out)
    settings = {**config.settings, "resolved": {str(entry): plan.config for entry, plan in plans.items()}}
    free = (
        *FREE,
        *(f"resolved.{entry}.preset_source" for entry in plans),
        *(f"stores.{name}.{key}" for name in config.stores for key in ("store", "volumes", "masks")),
        *(f"methods.{name}.{key}" for name in config.methods for key in ("prior", "masks")),
    )
    with (
        run_folder(out, settings, what="evaluation", free=free, tables=("stores", "methods", "masks", "resolved")),
        tracked_run(
            out, settings, what="evaluation", name=config.name, tracking_uri=config.tracking_uri, echo=echo
        ) as run,
    ):
        for entry, plan in plans.items():
            echo(f"{entry}: {plan.headline(config.pool.device)}")
        every = [task for cell in tasks.values() for task in cell]
        batch = run_tasks(every, priors, config.pool, home, address=address, quiet=quiet, echo=echo)
        cells = [read_cell(name, cell) for name, cell in tasks.items()]
        observed = observations(cells, config.per)
        rows = summarise(cells, config.per, config.published)
        comparisons = compare_methods(observed, config.compare) if config.compare else []
        table = write_tables(out, config, cells, rows, observed, comparisons)
        write_report(out / "report.html", config, tasks, rows, observed, comparisons)
        run.outbox.describe(f"{config.title}\n\n{table}".lstrip(), "All of it: `table.md` and `report.html`.")
        _log(run, config, out, tasks, cells, rows)
        run.fault = f"{len(batch.failed)} volumes failed" if batch.failed else ""
    return EvaluateResult(table, batch, run.uri)


def _log(
    run: TrackedRun,
    config: EvaluateConfig,
    out: Path,
    tasks: Mapping[CellName, Sequence[VolumeTask]],
    cells: Sequence[Cell],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Log the table, of each cell its figures, verdicts and the panel of its first volume, and the worst verdict.

    MLflow shows figures side by side whose names are alike up to the last slash: one figure of all cells.
    """
    means = {figure: f"{figure}_mean" for figure in (*FIGURES, *DEVIATION, *SPREAD, "seconds_a_slice")}
    counts = {name: name for name in (*(level.replace(" ", "_") for level in LEVELS), "given")}
    paths = {cell.place: cell.path for cell in cells}
    values: dict[str, float] = {}
    for row in rows:
        if row["data"] == "published":
            continue
        where = paths[row["store"], row["mask"], row["method"], row["value"]].replace("/", " ")
        told = means | (counts if any(row[name] for name in counts.values()) else {})  # those that are checked
        values |= {
            f"{figure}/{where} {row['data']}": row[name] for figure, name in told.items() if row[name] is not None
        }
    run.outbox.metrics(values, 0)
    run.outbox.tag(tracking.KIND, "evaluation")
    for dataset in _datasets(config, tasks):
        run.outbox.dataset(*dataset)
    level = worst(count_levels(report for cell in cells for report in cell.reports))
    run.outbox.tag("verdict", level)
    for file in sorted({*out.glob("table.*"), *out.glob("*.parquet"), out / "report.html"}):
        run.outbox.file(file)
    for name, cell in tasks.items():
        panels = [task.out / "panel.png" for task in cell if (task.out / MARK).is_file()]
        if panels:
            run.outbox.file(panels[0], f"panels/{name.path}")


def _datasets(config: EvaluateConfig, tasks: Mapping[CellName, Sequence[VolumeTask]]) -> Iterator[tuple[str, str, str]]:
    """Yield name and digest of the stores, of the volumes that are used, and what they are for."""
    for name, choice in config.choices.items():
        store = open_store(choice.store)
        used = sorted({task.out.name for cell, of_cell in tasks.items() if cell.store == name for task in of_cell})
        parts = [f"{volume} {array_digest(store.attributes(volume)['arrays']['kspace'])}" for volume in used]
        yield PurePath(choice.store).name, hashlib.sha256("\n".join(parts).encode()).hexdigest(), "evaluation"
