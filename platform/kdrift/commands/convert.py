"""`kdrift convert`: scans of any known format into a store, on Ray."""

from __future__ import annotations

import argparse
import sys


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        "Convert scans (files, folders, globs, URLs) to a zarr store. Run it again to resume or update."
    )
    parser.add_argument("--config", metavar="YAML", help="all of it in a file, see configs/convert/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one value of it")
    parser.add_argument("sources", nargs="*", metavar="SRC", help="file, folder, glob or URL (s3://...)")
    parser.add_argument("--store", metavar="X.zarr", help="folder or URL of the store")
    parser.add_argument("--smaps", action="store_true", help="also compute ESPIRiT coil maps")
    parser.add_argument("--target", action="store_true", help="also compute the RSS image where there is no reference")
    parser.add_argument("--workers", type=int, default=None, help="volumes at a time (default: all CPUs)")
    parser.add_argument("--overwrite", action="store_true", help="convert unchanged sources again")
    parser.add_argument("--address", default=None, help="Ray cluster (default: RAY_ADDRESS, else a private one)")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> int:
    """Convert, print a summary, name every failure; status 1 if any source failed."""
    from kdrift.commands.common import refuse_beside_config
    from kdrift.data.convert import ConvertConfig, convert
    from kdrift.runs.config import load_config

    if args.config or args.set:
        refuse_beside_config(args, configure, {"address", "quiet"})
        config = load_config(ConvertConfig, args.config, args.set)
    elif not args.sources or not args.store:
        raise ValueError("give SRC and --store X.zarr, or --config YAML")
    else:
        config = ConvertConfig(args.sources, args.store, args.smaps, args.target, args.workers, args.overwrite)
    report = convert(config, address=args.address, quiet=args.quiet, echo=lambda line: print(line, flush=True))
    print(f"{config.store}: {report.summary}")
    for source, reason in report.failed.items():
        print(f"kdrift: failed: {source}: {reason}", file=sys.stderr)
    return 1 if report.failed else 0
