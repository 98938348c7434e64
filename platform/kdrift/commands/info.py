"""`kdrift info`: describe any method, store, scan, prior, checkpoint or result."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any

from cyclopts import Parameter

LONG = 24
"""Mappings of more tensors than this are shortened on the terminal; --json has all."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Describe methods, stores, scans of any format, prior bundles, published checkpoints and results."""

    paths: Annotated[tuple[str, ...], Parameter(name="WHAT")] = field(kw_only=False)
    """File, folder or URL; STORE/volume for one volume; a shipped prior; a method."""
    json: bool = False
    """Print one JSON list, nothing shortened."""
    verify: bool = False
    """Recompute the checksums of a store (reads all of it)."""
    select: Annotated[tuple[str, ...] | None, Parameter(metavar="NAME=VALUE,...")] = None
    """Which of several there are in a scan, such as contrast=1,repetition=0."""
    axes: str | None = None
    """Axes of an array that does not say, in its order, such as row,col,coil."""
    centred: Annotated[bool | None, Parameter(negative="--not-centred")] = None
    """Whether zero frequency lies in the middle of k-space or at its corner."""


def run(options: Options) -> int:
    """Describe everything named; status 1 if something cannot be read or a checksum differs."""
    from kdrift.data.describe import describe, to_text
    from kdrift.data.volume import ReadOptions

    how = ReadOptions.of(",".join(options.select) if options.select else None, options.axes, options.centred)
    descriptions, status = [], 0
    for path in options.paths:
        try:
            description = _method(path) or describe(path, verify=options.verify, how=how)
        except (ValueError, OSError) as error:
            print(f"kdrift: error: {error}{_nearest(path)}", file=sys.stderr)
            description, status = {"what": "unreadable", "path": path, "reason": str(error)}, 1
        if description.get("faults"):
            status = 1
        descriptions.append(description)
    if options.json:
        print(json.dumps(descriptions, indent=2, default=str))
    elif readable := [to_text(_shorten(each)) for each in descriptions if each["what"] != "unreadable"]:
        print("\n\n".join(readable))
    return status


def _method(name: str) -> dict[str, Any] | None:
    """Return the description of a method; None where `name` is a path, or no name of a method could look like it."""
    if os.path.exists(name) or not name.isidentifier():
        return None
    from kdrift.commands.cards import describe_method

    return describe_method(name)


def _nearest(name: str) -> str:
    """Return what else a name that is no path may have meant."""
    if os.path.exists(name) or not name.replace("-", "_").isidentifier():
        return ""
    from kdrift.methods import METHODS
    from kdrift.prior.bundle import shipped_priors
    from kdrift.runs.hint import suggest

    return f", no method and no shipped prior of that name{suggest(name, [*METHODS, *shipped_priors()])}"


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
