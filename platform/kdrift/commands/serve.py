"""`kdrift serve`: the reconstruction service on this machine."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `kdrift serve`."""
    parser.description = (
        "Serve reconstructions over HTTP on this machine: start Ray and the service, print its address, stop both on"
        " Ctrl-C or SIGTERM. On a cluster: serve run configs/serve/local.yaml."
    )
    parser.add_argument("--config", metavar="YAML", help="configuration, see configs/serve/ (default: its defaults)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one of its args")
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default: 8000)")
    parser.add_argument("--prior", metavar="NAME|PATH", help="shipped prior, bundle folder or models:/NAME@ALIAS")
    parser.add_argument("--tracking-uri", help="MLflow registry of a models: prior")
    parser.add_argument("--samplers", type=int, metavar="N", help="sampler processes (default: 1)")
    parser.add_argument("--storage", type=Path, metavar="DIR", help="folder of jobs and results")


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    from kdrift_serve.local import serve_here
    from kdrift_serve.serve_config import load_serve_file

    overrides = list(args.set)
    if args.samplers is not None:
        overrides.append(f"samplers.replicas={args.samplers}")
    http, config = load_serve_file(args.config, overrides)
    address = {"host": args.host, "port": args.port}
    given = {
        "priors": args.prior and {Path(args.prior.removeprefix("models:/")).name.partition("@")[0]: args.prior},
        "tracking_uri": args.tracking_uri,
        "storage": args.storage and str(args.storage),
    }
    serve_here(
        replace(http, **{key: value for key, value in address.items() if value is not None}),
        replace(config, **{key: value for key, value in given.items() if value is not None}),
        echo=lambda line: print(line, flush=True),
    )
    return 0
