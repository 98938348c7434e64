"""`kdrift evaluate`: methods and masks over a store, one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from kdrift.commands.common import ConfigName, Overrides, echo, name_failures


@dataclass(frozen=True, kw_only=True)
class Options:
    """Reconstruct a store with each method under each mask, by a pool of Ray actors, and write one table.

    It has mean and standard deviation over volumes. Run it again to resume, or to add methods, masks and volumes.
    """

    config: ConfigName
    """Configuration: a file, or the name of one that comes with kdrift (kdrift config list)."""
    set: Overrides = ()
    """Override one value of the configuration; KEY is dotted, such as pool.actors."""
    out: Annotated[str | None, Parameter(metavar="DIR")] = None
    """Output folder, in place of the configuration's."""
    address: str | None = None
    """Ray cluster, e.g. auto; by default RAY_ADDRESS, else a private one."""
    tracking_uri: Annotated[str | None, Parameter(metavar="URI")] = None
    """MLflow tracking URI; by default SQLite in the output folder."""
    quiet: bool = False
    """Show no progress."""


def run(options: Options) -> int:
    """Evaluate, print the table and where things are; status 1 if a volume failed."""
    from kdrift.evaluation.evaluate import EvaluateConfig, evaluate
    from kdrift.runs.config import load_config
    from kdrift.runs.config_names import find_config
    from kdrift.runs.tracking import ui_command

    given = {"out": options.out, "tracking_uri": options.tracking_uri}
    overrides = [*options.set, *(f"{key}={value}" for key, value in given.items() if value)]
    config = load_config(EvaluateConfig, find_config("evaluate", options.config), overrides)
    result = evaluate(config, address=options.address, quiet=options.quiet, echo=echo)
    print(f"\n{result.table}")
    print(f"written: {config.out}/table.md table.csv table.json cells/")
    print(f"runs:    {ui_command(result.tracking_uri)}")
    return name_failures(result.batch.failed)
