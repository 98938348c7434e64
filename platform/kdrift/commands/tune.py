"""`kdrift tune`: search a method's settings on Ray Tune; the best become its preset."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `kdrift tune`."""
    parser.description = (
        "Search a method's settings on Ray Tune; log to MLflow; write the best as the method's tuned preset, which"
        " kdrift reconstruct uses from then on where no preset is named."
    )
    parser.add_argument(
        "--config", required=True, metavar="YAML", help="configuration of the search, see configs/tune/"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one value, dotted")
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder (default: runs/tune/NAME)")
    parser.add_argument("--name", help="name of the search and of its MLflow run")
    parser.add_argument("--resume", action="store_true", help="continue the search that --out holds, if there is one")
    parser.add_argument("--address", help="Ray cluster, e.g. auto (default: RAY_ADDRESS, else a local one)")
    parser.add_argument("--tracking-uri", help="MLflow tracking URI (default: SQLite in --out)")


def run(args: argparse.Namespace) -> int:
    """Search and print what was found and where it is."""
    from kdrift.config import load_config
    from kdrift.tracking import ui_command
    from kdrift.training.progress import format_seconds
    from kdrift.tuning.config import TuneConfig
    from kdrift.tuning.outcome import pareto_front, table
    from kdrift.tuning.search import tune

    config = load_config(TuneConfig, args.config, args.set)
    if args.name:
        config = replace(config, name=args.name)
    out = args.out or Path("runs/tune") / config.name
    try:
        result = tune(
            config,
            out,
            resume=args.resume,
            address=args.address,
            tracking_uri=args.tracking_uri,
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
