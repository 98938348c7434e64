"""The `kdrift` command: one verb a job, each in its own module of `kdrift.commands`, imported when it is called."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from kdrift import __version__

VERBS = {
    "phantom": "write a phantom volume in the fastMRI layout",
    "fetch-data": "fetch public MR data, with checksum, licence and citation",
    "simulate": "make multi-coil k-space from magnitude volumes",
    "convert": "convert k-space and image files to a zarr store, on Ray",
    "info": "describe a store, file, checkpoint or prior",
    "train": "train a score prior, on Ray Train",
    "import-checkpoint": "save a published checkpoint as a prior",
    "register": "put a prior into an MLflow registry",
    "tune": "search a method's settings, on Ray Tune",
    "reconstruct": "reconstruct k-space: posterior mean and uncertainty",
    "evaluate": "compare methods and masks over a store, on Ray",
    "serve": "serve reconstructions over HTTP on this machine, on Ray Serve",
}
JOBS = ("convert", "train", "tune", "reconstruct", "evaluate")
"""Verbs that can run as Ray jobs."""
SUBMIT_HELP = "run it on the cluster whose dashboard is at ADDRESS, e.g. http://head:8265; paths are the cluster's"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit status (0 done, 1 an error named on standard error, 2 wrong usage)."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves workers beside anything else
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="kdrift",
        description="Score priors for MR images and posterior reconstruction of k-space.",
    )
    parser.add_argument("--version", action="version", version=f"kdrift {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    module = None
    for verb, summary in VERBS.items():
        subparser = verbs.add_parser(verb, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if verb == chosen:
            module = configure(verb, subparser)
    parsed = parser.parse_args(arguments)
    assert module is not None
    try:
        if getattr(parsed, "submit", None):
            status = importlib.import_module("kdrift.runs.submit").submit(parsed, arguments)
        else:
            status = int(module.run(parsed))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError) as error:
        print(f"kdrift: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("kdrift: interrupted", file=sys.stderr)
        return 130


def configure(verb: str, parser: argparse.ArgumentParser) -> ModuleType:
    """Add the options of a verb and return its module."""
    module = importlib.import_module(f"kdrift.commands.{verb.replace('-', '_')}")
    module.configure(parser)
    if verb in JOBS:
        group = parser.add_argument_group("as a Ray job")
        group.add_argument("--submit", metavar="ADDRESS", help=SUBMIT_HELP)
        group.add_argument("--job-name", metavar="NAME", help="of the job; submitted again under it, the work goes on")
    return module


if __name__ == "__main__":
    sys.exit(main())
