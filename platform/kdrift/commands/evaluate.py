"""`kdrift evaluate`: methods and masks over a store, one table; or a published table again, by its recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from kdrift.commands.common import ConfigName, Overrides, echo, name_failures
from kdrift.commands.options import Misuse


@dataclass(frozen=True, kw_only=True)
class Options:
    """Reconstruct stores with each method under each mask, by a pool of Ray actors: one table, one report.

    It has mean and standard deviation over volumes or slices, and paired tests where a method is to be compared. Run it
    again to resume, or to add methods, masks and volumes. A recipe is the configuration of a published table or figure,
    whose figures stand beside what is measured: kdrift list configs names them.
    """

    config: ConfigName | None = None
    """Configuration: a file, or the name of one that comes with kdrift (kdrift config list)."""
    recipe: Annotated[str | None, Parameter(metavar="NAME|FILE")] = None
    """Recipe of a published table or figure, in place of --config."""
    size: Literal["full", "small"] = "full"
    """small: few slices and fewer steps, as the recipe has them, and says in its report."""
    set: Overrides = ()
    """Override one value of the configuration; KEY is dotted, such as pool.actors or store."""
    out: Annotated[str | None, Parameter(metavar="DIR|URL")] = None
    """Output folder or URL, in place of the configuration's."""
    address: str | None = None
    """Ray cluster, e.g. auto; by default RAY_ADDRESS, else a private one."""
    tracking_uri: Annotated[str | None, Parameter(metavar="URI")] = None
    """MLflow tracking URI; by default SQLite in the output folder."""
    quiet: bool = False
    """Show no progress."""


def run(options: Options) -> int:
    """Evaluate, print the table and where things are; status 1 if a volume failed."""
    from kdrift.evaluation.evaluate import evaluate
    from kdrift.evaluation.evaluate_config import load_evaluation
    from kdrift.runs.config_names import RECIPES, find_config
    from kdrift.runs.tracking import ui_command

    if (options.config is None) == (options.recipe is None):
        raise Misuse("give one of --config and --recipe: a configuration, or a published table or figure")
    path = find_config(RECIPES, options.recipe) if options.recipe else find_config("evaluate", str(options.config))
    given = {"out": options.out, "tracking_uri": options.tracking_uri}
    overrides = [*options.set, *(f"{key}={value}" for key, value in given.items() if value)]
    overrides += ["size=small"] if options.size == "small" else []
    config = load_evaluation(path, overrides)
    result = evaluate(config, address=options.address, quiet=options.quiet, echo=echo)
    print(f"\n{result.table}")
    print(f"written: {config.out}/report.html table.md table.csv table.json table.parquet table.tex cells/")
    print(f"runs:    {ui_command(result.tracking_uri)}")
    return name_failures(result.batch.failed)
