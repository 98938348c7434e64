"""What verbs share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from kdrift.training.train_config import TrainConfig
    from kdrift.tuning.tune_config import TuneConfig

    Config = TypeVar("Config", TrainConfig, TuneConfig)


def add_run_options(parser: argparse.ArgumentParser, verb: str, what: str) -> None:
    """Add the options of a long run with an output folder, one that can be resumed."""
    parser.add_argument("--config", required=True, metavar="YAML", help=f"configuration, see configs/{verb}/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one value, dotted")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"output folder (default: runs/{verb}/NAME)")
    parser.add_argument("--name", help=f"name of the {what} and of its MLflow run")
    parser.add_argument("--resume", action="store_true", help=f"continue the {what} that --out holds, if there is one")
    parser.add_argument("--address", help="Ray cluster, e.g. auto (default: RAY_ADDRESS, else a private one)")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--tracking-uri", help="MLflow tracking URI (default: SQLite in --out)")


def load_run(args: argparse.Namespace, verb: str, kind: type[Config]) -> tuple[Config, Path]:
    """Return the configuration and the output folder that the options of `add_run_options` name."""
    from kdrift.runs.config import load_config

    config = load_config(kind, args.config, args.set)
    if args.name:
        config = replace(config, name=args.name)
    return config, args.out or Path("runs") / verb / config.name


def refuse_beside_config(
    args: argparse.Namespace, configure: Callable[[argparse.ArgumentParser], None], allowed: Set[str]
) -> None:
    """Raise ValueError for options beside `--config`, `--set` and `allowed`: one file says all of a run."""
    parser = argparse.ArgumentParser()
    configure(parser)
    known = vars(parser.parse_known_args([])[0])
    for name, value in vars(args).items():
        if name in known and name not in {"config", "set", *allowed} and value != known[name]:
            option = name.upper() if name in ("input", "sources") else f"--{name.replace('_', '-')}"
            raise ValueError(f"--config says all of it: leave {option} out, or change the value with --set KEY=VALUE")
