"""`kdrift fetch-data`: public MR data with checksum, licence and citation."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kdrift.commands.common import echo

if TYPE_CHECKING:
    from kdrift.runs.remote import Remote


@dataclass(frozen=True, kw_only=True)
class Options:
    """Fetch public MR data from where they are published, check their SHA-256, and print licence and citation.

    Without NAME the data sets are listed. Files that are there and right are kept.
    """

    names: Annotated[tuple[str, ...], Parameter(name="NAME")] = field(default=(), kw_only=False)
    """Data sets to fetch."""
    out: Annotated[str, Parameter(metavar="DIR|URL")] = "data"
    """Folder for the data, or a URL such as s3://bucket/data."""
    sources: Annotated[Path | None, Parameter(metavar="YAML")] = None
    """Another list of data sets than kdrift's."""


def run(options: Options) -> int:
    """Fetch the named data sets, or list all."""
    from kdrift.data.fetch import SOURCES, fetch, read_sources
    from kdrift.runs.home import at_home

    sources = read_sources(options.sources or SOURCES)
    if not options.names:
        for name, data in sources.items():
            print(f"{name}: {data.summary}; {data.licence}")
        return 0
    for name in options.names:
        if name not in sources:
            raise ValueError(f"no data set {name!r}, expected one of {', '.join(sources)}")
    asked = [sources[name] for name in options.names]

    def wanted(remote: Remote) -> list[str]:
        return [name for name in remote.names() if any(name.startswith(f"{data.folder}/") for data in asked)]

    with at_home(options.out, what="fetching of data", echo=echo, wanted=wanted) as home:
        for name, data in zip(options.names, asked, strict=True):
            files = fetch(name, data, home.folder, home.telling(echo))
            print(f"{name}: {len(files)} files in {os.path.join(options.out, data.folder)}, checksums verified")
            print(f"licence: {data.licence}\ncite: {' '.join(data.citation.split())}")
    return 0
