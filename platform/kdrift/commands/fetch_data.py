"""`kdrift fetch-data`: public MR data with checksum, licence and citation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kdrift.commands.common import echo


@dataclass(frozen=True, kw_only=True)
class Options:
    """Fetch public MR data from where they are published, check their SHA-256, and print licence and citation.

    Without NAME the data sets are listed. Files that are there and right are kept.
    """

    names: Annotated[tuple[str, ...], Parameter(name="NAME")] = field(default=(), kw_only=False)
    """Data sets to fetch."""
    out: Annotated[Path, Parameter(metavar="DIR")] = Path("data")
    """Folder for the data."""
    sources: Annotated[Path | None, Parameter(metavar="YAML")] = None
    """Another list of data sets than kdrift's."""


def run(options: Options) -> int:
    """Fetch the named data sets, or list all."""
    from kdrift.data.fetch import SOURCES, fetch, read_sources

    sources = read_sources(options.sources or SOURCES)
    if not options.names:
        for name, data in sources.items():
            print(f"{name}: {data.summary}; {data.licence}")
        return 0
    for name in options.names:
        if name not in sources:
            raise ValueError(f"no data set {name!r}, expected one of {', '.join(sources)}")
    for name in options.names:
        data = sources[name]
        files = fetch(name, data, options.out, echo)
        print(f"{name}: {len(files)} files in {options.out / data.folder}, checksums verified")
        print(f"licence: {data.licence}\ncite: {' '.join(data.citation.split())}")
    return 0
