"""`kdrift list`: what there is to choose from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from cyclopts import Parameter


@dataclass(frozen=True, kw_only=True)
class Options:
    """List methods, presets, priors, masks or configurations. kdrift info NAME says more of a method or prior."""

    what: Annotated[Literal["methods", "presets", "priors", "masks", "configs"], Parameter(name="WHAT")] = field(
        kw_only=False
    )
    """What to list."""
    json: bool = False
    """Print one JSON list, nothing shortened."""


def run(options: Options) -> int:
    """Print the table."""
    from kdrift.commands import tables

    rows = {
        "methods": tables.method_rows,
        "presets": tables.preset_rows,
        "priors": tables.prior_rows,
        "masks": tables.mask_rows,
        "configs": tables.config_rows,
    }[options.what]()
    tables.print_rows(rows, as_json=options.json)
    return 0
