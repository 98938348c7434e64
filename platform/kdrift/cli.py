"""The `kdrift` command: one verb a job, each in its own module of `kdrift.commands`, imported when it is called."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from kdrift import __version__

VERBS = {
    "phantom": "write a phantom volume in the fastMRI layout",
    "simulate": "make multi-coil k-space from magnitude volumes",
    "convert": "convert k-space and image files to a zarr store, on Ray",
    "info": "describe a store, file, checkpoint or prior",
    "train": "train a score prior, on Ray Train",
    "reconstruct": "reconstruct k-space: posterior mean and uncertainty",
    "serve": "serve reconstructions over HTTP on this machine, on Ray Serve",
}


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
            module = importlib.import_module(f"kdrift.commands.{verb}")
            module.configure(subparser)
    parsed = parser.parse_args(arguments)
    assert module is not None
    try:
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


if __name__ == "__main__":
    sys.exit(main())
