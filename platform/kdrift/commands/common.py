"""What verbs share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Set


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
