"""`kdrift convert`: scans of any known format into a store, on Ray."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from cyclopts import Parameter

from kdrift.commands.common import ConfigName, Overrides, echo, name_failures
from kdrift.commands.options import Misuse, joined, refuse_beside_config


@dataclass(frozen=True, kw_only=True)
class Options:
    """Convert scans (files, folders, globs, URLs) to a zarr store. Run it again to resume or update."""

    sources: Annotated[tuple[str, ...], Parameter(name="SRC")] = field(default=(), kw_only=False)
    """Files, folders, globs or URLs (s3://...)."""
    store: Annotated[str | None, Parameter(metavar="X.zarr")] = None
    """Folder or URL of the store."""
    smaps: bool = False
    """Also compute ESPIRiT coil maps."""
    target: bool = False
    """Also compute the RSS image where there is no reference."""
    complex_images: bool = False
    """Store coil-combined complex images, with their measured phase, in place of k-space."""
    precision: Literal["float16", "float32"] = "float32"
    """What images are stored in: float16, with a power of two for each slice, takes half the bytes."""
    select: Annotated[tuple[str, ...] | None, Parameter(metavar="NAME=VALUE,...")] = None
    """Which of several there are in a file, such as contrast=1 or echo=2; by default the first of each."""
    axes: str | None = None
    """Axes of arrays that do not say, in their order, such as row,col,coil."""
    centred: Annotated[bool | None, Parameter(negative="--not-centred")] = None
    """Whether zero frequency lies in the middle of k-space or at its corner."""
    workers: int | None = None
    """Volumes at a time; by default as many as there are CPUs."""
    overwrite: bool = False
    """Convert unchanged sources again."""
    config: ConfigName | None = None
    """All of this in a file, or the name of a configuration that comes with kdrift."""
    set: Overrides = ()
    """Override one value of the configuration."""
    address: str | None = None
    """Ray cluster, e.g. auto; by default RAY_ADDRESS, else a private one."""
    quiet: bool = False
    """Show no progress."""


def run(options: Options) -> int:
    """Convert, print a summary, name every failure; status 1 if any source failed."""
    from kdrift.data.convert import ConvertConfig, convert
    from kdrift.runs.config import load_config
    from kdrift.runs.config_names import find_config

    if options.config or options.set:
        refuse_beside_config(options, {"address", "quiet"})
        path = find_config("convert", options.config) if options.config else None
        config = load_config(ConvertConfig, path, options.set)
    elif not options.sources or not options.store:
        raise Misuse("give SRC and --store X.zarr, or --config FILE")
    else:
        names = {each.name for each in fields(ConvertConfig)} - {"sources"}
        config = ConvertConfig(list(options.sources), **joined({name: getattr(options, name) for name in names}))
    report = convert(config, address=options.address, quiet=options.quiet, echo=echo)
    print(f"{config.store}: {report.summary}")
    for sentence in report.found:
        print(f"note: {sentence}", file=sys.stderr)
    for source, notes in report.notes.items():
        for note in notes:
            print(f"note: {source}: {note}", file=sys.stderr)
    return name_failures(report.failed)
