"""`kdrift list`: what there is to choose from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from cyclopts import Parameter

from kdrift.commands.common import print_rows
from kdrift.commands.config import config_rows


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
    if options.what == "configs":
        rows = config_rows()
    else:
        from kdrift.commands import cards

        rows = {
            "methods": cards.method_rows,
            "presets": cards.preset_rows,
            "priors": cards.prior_rows,
            "masks": cards.mask_rows,
        }[options.what]()
    print_rows(rows, as_json=options.json)
    return 0
