"""`kdrift calibrate`: what a prior's deviations are worth, measured on scans with references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kdrift.commands.common import ConfigName, Overrides, Row, echo, name_failures, print_rows

if TYPE_CHECKING:
    from kdrift.prior.calibration import Calibration, FigureBound


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure, on scans with references, what the deviation is to be multiplied by, and write it into the prior.

    A store is reconstructed under masks of several families, by a pool of Ray actors; from then on the prior's
    reconstructions by the same method and settings, under such masks, use it. Run it again to resume, or to add to it.
    """

    config: ConfigName
    """Configuration: a file, or the name of one that comes with kdrift (kdrift config list)."""
    set: Overrides = ()
    """Override one value of the configuration; KEY is dotted, such as pool.actors."""
    out: Annotated[str | None, Parameter(metavar="DIR")] = None
    """Output folder, in place of the configuration's."""
    bundle: Annotated[str | None, Parameter(metavar="DIR")] = None
    """Folder of the prior that gets the calibration, in place of the configuration's."""
    address: str | None = None
    """Ray cluster, e.g. auto; by default RAY_ADDRESS, else a private one."""
    quiet: bool = False
    """Show no progress."""


def run(options: Options) -> int:
    """Calibrate, print what was found and where it is; status 1 if a volume failed, and then nothing is written."""
    from kdrift.evaluation.calibrate import CalibrateConfig, calibrate
    from kdrift.runs.config import load_config
    from kdrift.runs.config_names import find_config

    given = {"out": options.out, "bundle": options.bundle}
    overrides = [*options.set, *(f"{key}={value}" for key, value in given.items() if value)]
    config = load_config(CalibrateConfig, find_config("calibrate", options.config), overrides)
    result = calibrate(config, address=options.address, quiet=options.quiet, echo=echo)
    if result.bundle is not None:
        print_rows([_row(each) for each in result.calibrations], as_json=False)
        print(f"written: {result.bundle}/calibration.yaml README.md SHA256SUMS")
    return name_failures(result.batch.failed)


def _row(each: Calibration) -> Row:
    held = [scan.coverage for scan in each.scans if scan.coverage is not None]
    return {
        "family": each.name,
        "factor": f"{each.pixel:.2f}",
        "of_scans": " ".join(f"{scan.factor:.2f}" for scan in each.scans),
        "coverage": " ".join(f"{value:.0%}" for value in held) or None,
        "regions": None if each.region is None else f"{each.region:.2f}",
        "psnr": _bound(each.figures.get("psnr"), "+.1f"),
        "ssim": _bound(each.figures.get("ssim"), "+.3f"),
        "slices": each.slices,
        "left_out": each.left_out,
        "masks": str(each.family),
    }


def _bound(bound: FigureBound | None, form: str) -> str | None:
    return None if bound is None else f"{bound.offset:{form}} ({bound.probability:.0%})"
