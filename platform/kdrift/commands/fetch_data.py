"""`kdrift fetch-data`: public MR data with checksum, licence and citation."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `kdrift fetch-data`."""
    parser.description = (
        "Fetch public MR data from where they are published, check their SHA-256, and print licence and citation."
        " Without NAME the data sets are listed. Files that are there and right are kept."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="data sets to fetch")
    parser.add_argument("--out", type=Path, default=Path("data"), metavar="DIR", help="folder (default: data)")
    parser.add_argument("--sources", type=Path, metavar="YAML", help="another list of data sets (default: kdrift's)")


def run(args: argparse.Namespace) -> int:
    """Fetch the named data sets, or list all."""
    from kdrift.data.fetch import SOURCES, fetch, read_sources

    sources = read_sources(args.sources or SOURCES)
    if not args.names:
        for name, data in sources.items():
            print(f"{name}: {data.summary}; {data.licence}")
        return 0
    for name in args.names:
        if name not in sources:
            raise ValueError(f"no data set {name!r}, expected one of {', '.join(sources)}")
    for name in args.names:
        data = sources[name]
        files = fetch(name, data, args.out, lambda line: print(line, flush=True))
        print(f"{name}: {len(files)} files in {args.out / data.folder}, checksums verified")
        print(f"licence: {data.licence}\ncite: {' '.join(data.citation.split())}")
    return 0
