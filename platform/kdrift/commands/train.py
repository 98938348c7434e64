"""`kdrift train`: train a prior on Ray Train, logged to MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from cyclopts import Parameter

from kdrift.commands.common import RunOptions, load_run, run_resumable


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """Train a score prior on Ray Train; log to MLflow; register the finished prior."""

    workers: Annotated[str, Parameter(metavar="N")] = "1"
    """Data-parallel workers; 2:4 for an elastic run of 2 to 4, as the cluster has room."""


def run(options: Options) -> int:
    """Train and print where things are."""
    from kdrift.runs.config import load_config
    from kdrift.runs.home import home_of
    from kdrift.runs.progress import format_seconds
    from kdrift.runs.tracking import ui_command
    from kdrift.training.train_config import TrainConfig
    from kdrift.training.trainer import train
    from kdrift.training.workers import parse_workers

    workers = parse_workers(options.workers)
    config, out = load_run(options, "train", partial(load_config, TrainConfig))
    result = run_resumable(train, config, out, options, "from the last checkpoint", workers=workers)
    if result is None:
        return 130
    print(f"trained on {result.images} images in {format_seconds(result.seconds)}")
    print(f"prior:      {home_of(out).shown(result.prior)}")
    if result.registered:
        print(f"registered: {result.registered} (alias candidate)")
    else:
        print(f"registered: not yet, MLflow does not answer: kdrift track {out} does it")
    print(f"runs:       {ui_command(result.tracking_uri)}")
    return 0
