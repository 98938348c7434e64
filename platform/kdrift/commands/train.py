"""`kdrift train`: train a prior on Ray Train, logged to MLflow."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `kdrift train`."""
    parser.description = "Train a score prior on Ray Train; log to MLflow; register the finished prior."
    parser.add_argument("--config", required=True, metavar="YAML", help="training configuration, see configs/train/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one value, dotted")
    parser.add_argument("--out", type=Path, metavar="DIR", help="output folder (default: runs/train/NAME)")
    parser.add_argument("--name", help="name of the run and of the registered prior")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="data-parallel workers (default: 1)")
    parser.add_argument("--resume", action="store_true", help="continue the run that --out holds, if there is one")
    parser.add_argument("--address", help="Ray cluster, e.g. auto (default: RAY_ADDRESS, else a local one)")
    parser.add_argument("--tracking-uri", help="MLflow tracking URI (default: SQLite in --out)")


def run(args: argparse.Namespace) -> int:
    """Train and print where things are."""
    from kdrift.config import load_config
    from kdrift.tracking import ui_command
    from kdrift.training.config import TrainConfig
    from kdrift.training.progress import format_seconds
    from kdrift.training.trainer import train

    config = load_config(TrainConfig, args.config, args.set)
    if args.name:
        config = replace(config, name=args.name)
    out = args.out or Path("runs/train") / config.name
    try:
        result = train(
            config,
            out,
            workers=args.workers,
            resume=args.resume and (out / "run.json").is_file(),
            address=args.address,
            tracking_uri=args.tracking_uri,
            echo=lambda line: print(line, flush=True),
        )
    except KeyboardInterrupt:
        print(f"interrupted; the same command with --resume goes on from the last checkpoint in {out}")
        return 130
    print(f"trained on {result.images} images in {format_seconds(result.seconds)}")
    print(f"prior:      {result.prior}")
    print(f"registered: {result.registered} (alias champion)")
    print(f"runs:       {ui_command(result.tracking_uri)}")
    return 0
