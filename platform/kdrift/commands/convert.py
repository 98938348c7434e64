"""`kdrift convert`: scans of any known format into a store, on Ray."""

from __future__ import annotations

import argparse
import sys


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        "Convert scans (files, folders, globs, URLs) to a zarr store. Run it again to resume or update."
    )
    parser.add_argument("sources", nargs="+", metavar="SRC", help="file, folder, glob or URL (s3://...)")
    parser.add_argument("--store", required=True, metavar="X.zarr", help="folder or URL of the store")
    parser.add_argument("--smaps", action="store_true", help="also compute ESPIRiT coil maps")
    parser.add_argument("--target", action="store_true", help="also compute the RSS image where there is no reference")
    parser.add_argument("--workers", type=int, default=None, help="volumes at a time (default: all CPUs)")
    parser.add_argument("--overwrite", action="store_true", help="convert unchanged sources again")
    parser.add_argument("--address", default=None, help="Ray cluster to use (default: a private one)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Convert, print a summary, name every failure; status 1 if any source failed."""
    from kdrift.data.convert import convert

    report = convert(
        args.sources,
        args.store,
        smaps=args.smaps,
        target=args.target,
        workers=args.workers,
        overwrite=args.overwrite,
        progress=not args.quiet,
        address=args.address,
    )
    print(f"{args.store}: {report.summary}")
    for source, reason in report.failed.items():
        print(f"kdrift: failed: {source}: {reason}", file=sys.stderr)
    return 1 if report.failed else 0
