"""`kdrift train`: train a prior on Ray Train, logged to MLflow."""

from __future__ import annotations

import argparse

from kdrift.commands.common import add_run_options, load_run


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `kdrift train`."""
    parser.description = "Train a score prior on Ray Train; log to MLflow; register the finished prior."
    add_run_options(parser, "train", "run")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="data-parallel workers (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Train and print where things are."""
    from kdrift.runs.progress import format_seconds
    from kdrift.runs.tracking import ui_command
    from kdrift.training.train_config import TrainConfig
    from kdrift.training.trainer import train

    config, out = load_run(args, "train", TrainConfig)
    try:
        result = train(
            config,
            out,
            workers=args.workers,
            resume=args.resume,
            address=args.address,
            tracking_uri=args.tracking_uri,
            quiet=args.quiet,
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
