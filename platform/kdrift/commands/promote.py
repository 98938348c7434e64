"""`kdrift promote`: let a registered prior take the place of the champion, where evaluations of both allow it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from cyclopts import Parameter


@dataclass(frozen=True, kw_only=True)
class Options:
    """Give the alias champion to a version of a registered prior, by default to its candidate.

    Where another version is the champion, both have to be in the evaluations, on the same slices in the same way: the
    new one may not be lower in mean PSNR and SSIM. Exit status 1: not promoted.
    """

    name: Annotated[str, Parameter(name="NAME")] = field(kw_only=False)
    """Name in the registry."""
    evaluations: Annotated[list[str], Parameter(name="EVALUATION", negative=())] = field(
        default_factory=list, kw_only=False
    )
    """Outputs of kdrift evaluate, folders or URLs: of both priors, or one of each."""
    tracking_uri: Annotated[str, Parameter(metavar="URI")]
    """MLflow, e.g. sqlite:///mlflow.db."""
    version: Annotated[str | None, Parameter(metavar="N")] = None
    """Version; by default the one with the alias candidate, which is the newest."""
    without_comparison: Annotated[bool, Parameter(negative=())] = False
    """Promote it whatever evaluations say, as to go back to an older version."""


def run(options: Options) -> int:
    """Compare, promote, and say what decided."""
    from kdrift.evaluation.promotion import promote

    found = promote(
        options.tracking_uri, options.name, options.evaluations, version=options.version,
        compared=not options.without_comparison,
    )  # fmt: skip
    for line in found.told:
        print(line)
    if not found.promoted:
        print(f"not promoted: {options.name} version {found.version}")
        return 1
    print(f"promoted: {options.name} version {found.version}, models:/{options.name}@champion")
    return 0
