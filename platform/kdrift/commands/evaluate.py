"""`kdrift evaluate`: methods and masks over a store, one table."""

from __future__ import annotations

import argparse
import sys


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `kdrift evaluate`."""
    parser.description = (
        "Reconstruct a store with each method under each mask, by a pool of Ray actors, and write one table with mean"
        " and standard deviation over volumes. Run it again to resume, or to add methods, masks and volumes."
    )
    parser.add_argument("--config", required=True, metavar="YAML", help="configuration, see configs/evaluate/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one value, dotted")
    parser.add_argument("--out", metavar="DIR", help="output folder (default: out of the configuration)")
    parser.add_argument("--address", help="Ray cluster, e.g. auto (default: RAY_ADDRESS, else a private one)")
    parser.add_argument("--tracking-uri", help="MLflow tracking URI (default: SQLite in out)")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table and where things are; status 1 if a volume failed."""
    from kdrift.evaluation.evaluate import EvaluateConfig, evaluate
    from kdrift.runs.config import load_config
    from kdrift.runs.tracking import ui_command

    given = {"out": args.out, "tracking_uri": args.tracking_uri}
    overrides = [*args.set, *(f"{key}={value}" for key, value in given.items() if value)]
    config = load_config(EvaluateConfig, args.config, overrides)
    result = evaluate(config, address=args.address, quiet=args.quiet, echo=lambda line: print(line, flush=True))
    print(f"\n{result.table}")
    print(f"written: {config.out}/table.md table.csv table.json cells/")
    print(f"runs:    {ui_command(result.tracking_uri)}")
    for folder, reason in result.batch.failed.items():
        print(f"kdrift: failed: {folder}: {reason}", file=sys.stderr)
    return 1 if result.batch.failed else 0
