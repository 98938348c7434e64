"""What verbs share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Group, Parameter

T = TypeVar("T")
if TYPE_CHECKING:
    from kdrift.training.train_config import TrainConfig
    from kdrift.tuning.training_config import TrainingSearchConfig
    from kdrift.tuning.tune_config import TuneConfig

    Config = TypeVar("Config", bound=TrainConfig | TuneConfig | TrainingSearchConfig)

ConfigName = Annotated[str, Parameter(metavar="NAME|FILE")]
"""A configuration, of `kdrift list configs` or a file."""
Overrides = Annotated[tuple[str, ...], Parameter(name="--set", metavar="KEY=VALUE")]
"""`--set KEY=VALUE`, which may be given several times."""
Row = dict[str, Any]
"""One row of a table, by column."""
JOB = Group("As a Ray job", sort_key=9)


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Options of the verbs that can run as Ray jobs."""

    submit: Annotated[str | None, Parameter(metavar="ADDRESS", group=JOB)] = None
    """Run it on the cluster whose dashboard is at ADDRESS, e.g. http://head:8265; paths are the cluster's."""
    job_name: Annotated[str | None, Parameter(metavar="NAME", group=JOB)] = None
    """Name of the job; submitted again under it, the work goes on."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a long run with an output folder, one that can be resumed."""

    config: ConfigName
    """Configuration: a file, or the name of one that comes with kdrift (kdrift config list)."""
    set: Overrides = ()
    """Override one value of the configuration; KEY is dotted, such as data.crop."""
    out: Annotated[str | None, Parameter(metavar="DIR|URL")] = None
    """Output folder, or a URL such as s3://bucket/x; by default runs/VERB/NAME."""
    name: str | None = None
    """Name of the run and of its MLflow run, in place of the configuration's."""
    resume: bool = False
    """Continue what --out holds, if there is something."""
    address: str | None = None
    """Ray cluster, e.g. auto; by default RAY_ADDRESS, else a private one."""
    quiet: bool = False
    """Show no progress."""
    tracking_uri: Annotated[str | None, Parameter(metavar="URI")] = None
    """MLflow tracking URI; by default SQLite in the output folder."""


def load_run(options: RunOptions, verb: str, load: Callable[[Path, tuple[str, ...]], Config]) -> tuple[Config, str]:
    """Return the configuration, by `load(file, overrides)`, and the output folder or URL of a run."""
    from kdrift.runs.config_names import find_config

    config = load(find_config(verb, options.config), options.set)
    if options.name:
        config = replace(config, name=options.name)
    return config, options.out or f"runs/{verb}/{config.name}"


def run_resumable(
    function: Callable[..., T], config: Any, out: str, options: RunOptions, goes_on: str, **more: Any
) -> T | None:
    """Run with the options that every long run has; None where Ctrl-C ended it, and how it goes on is printed."""
    names = ("resume", "address", "tracking_uri", "quiet")
    given = {name: getattr(options, name) for name in names}
    try:
        return function(config, out, **given, **more, echo=echo)
    except KeyboardInterrupt:
        print(f"interrupted; the same command with --resume goes on {goes_on} in {out}")
        return None


def echo(line: str) -> None:
    """Print a line at once, also where the output is a file or a pipe."""
    print(line, flush=True)


def name_failures(failed: Mapping[Any, str]) -> int:
    """Print what failed and why on standard error; return the exit status."""
    for what, reason in failed.items():
        print(f"kdrift: failed: {what}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def decibels(text: str) -> float | None:
    """Return what `--snr` asks for; None for `none`."""
    try:
        return None if text == "none" else float(text)
    except ValueError:
        raise ValueError(f"--snr is {text!r}, expected a number or none") from None


def print_rows(rows: list[Row], *, as_json: bool) -> None:
    """Print rows of the same columns as a table that fits the terminal, or as one JSON list."""
    if as_json:
        print(json.dumps(rows, indent=2, default=str))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    names = list(rows[0]) if rows else []
    for name in names:
        table.add_column(name.replace("_", " "), no_wrap=name != names[-1], overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row.values()))
    try:
        Console().print(table)
    except SystemExit:  # what rich makes of a pipe that was closed
        raise BrokenPipeError from None
