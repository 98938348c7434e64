"""`kdrift tune`: search a method's settings on Ray Tune; the best become its preset."""

from __future__ import annotations

import argparse

from kdrift.commands.common import add_run_options, load_run


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `kdrift tune`."""
    parser.description = (
        "Search a method's settings on Ray Tune; log to MLflow; write the best as the method's tuned preset, which"
        " kdrift reconstruct uses from then on where no preset is named."
    )
    add_run_options(parser, "tune", "search")


def run(args: argparse.Namespace) -> int:
    """Search and print what was found and where it is."""
    from kdrift.runs.progress import format_seconds
    from kdrift.runs.tracking import ui_command
    from kdrift.tuning.outcome import pareto_front, table
    from kdrift.tuning.search import tune
    from kdrift.tuning.tune_config import TuneConfig

    config, out = load_run(args, "tune", TuneConfig)
    try:
        result = tune(
            config,
            out,
            resume=args.resume,
            address=args.address,
            tracking_uri=args.tracking_uri,
            quiet=args.quiet,
            echo=lambda line: print(line, flush=True),
        )
    except KeyboardInterrupt:
        print(f"interrupted; the same command with --resume goes on with the search in {out}")
        return 130
    print(f"{len(result.trials)} trials in {format_seconds(result.seconds)}")
    if config.pareto:
        print(table(config, pareto_front(config, result.trials)), end="")
    first = result.trials[0]
    print(f"start:  {config.objective} {first.value:.5g}  {first.settings}")
    print(f"best:   {config.objective} {result.best.value:.5g}  {result.best.settings}")
    for path in result.written:
        print(f"written: {path}")
    print(f"runs:   {ui_command(result.tracking_uri)}")
    return 0
