"""`kdrift info`: describe any store, scan, prior, checkpoint or result."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

LONG = 24
"""Mappings of more tensors than this are shortened on the terminal; --json has all."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = "Describe stores, scans of any format, prior bundles, published checkpoints and results."
    parser.add_argument("paths", nargs="+", metavar="PATH", help="file, folder or URL; STORE/volume for one volume")
    parser.add_argument("--json", action="store_true", help="print one JSON list, nothing shortened")
    parser.add_argument("--verify", action="store_true", help="recompute the checksums of a store (reads all of it)")


def run(args: argparse.Namespace) -> int:
    """Describe every path; status 1 if one cannot be read or a checksum differs."""
    from kdrift.data.describe import describe, to_text

    descriptions, status = [], 0
    for path in args.paths:
        try:
            description = describe(path, verify=args.verify)
        except (ValueError, OSError) as error:
            print(f"kdrift: {error}", file=sys.stderr)
            description, status = {"what": "unreadable", "path": path, "reason": str(error)}, 1
        if description.get("faults"):
            status = 1
        descriptions.append(description)
    if args.json:
        print(json.dumps(descriptions, indent=2, default=str))
    else:
        print("\n\n".join(to_text(_shorten(d)) for d in descriptions if d["what"] != "unreadable"))
    return status


def _shorten(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    short = {}
    for key, item in value.items():
        if key == "tensors" and len(item) > LONG:
            shown = list(item.items())[: LONG // 2]
            short[key] = {**dict(shown), "...": f"{len(item) - len(shown)} more (--json shows all)"}
        else:
            short[key] = _shorten(item)
    return short
