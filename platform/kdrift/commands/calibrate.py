"""`kdrift calibrate`: what a prior's deviations are worth, measured on scans with references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kdrift.commands.common import ConfigName, Overrides, echo, name_failures

if TYPE_CHECKING:
    from kdrift.prior.calibration import Calibration


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
    out: Annotated[str | None, Parameter(metavar="DIR|URL")] = None
    """Output folder or URL, in place of the configuration's."""
    bundle: Annotated[str | None, Parameter(metavar="DIR|URL")] = None
    """Folder or URL of the prior that gets the calibration, in place of the configuration's."""
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
        for each in result.calibrations:
            print(_line(each))
        print(f"written: {result.bundle}/calibration.yaml README.md SHA256SUMS")
    return name_failures(result.batch.failed)


def _line(each: Calibration) -> str:
    of_scans = " ".join(f"{scan.factor:.2f}" for scan in each.scans)
    held = " ".join(f"{scan.coverage:.0%}" for scan in each.scans if scan.coverage is not None)
    parts = [f"factor {each.pixel:.2f} (of each scan {of_scans})"]
    parts += [f"coverage of each scan without it {held} of {each.level:.0%}"] if held else []
    parts += [f"regions {each.region:.2f}"] if each.region is not None else []
    parts += [
        f"{name.upper()} {bound.offset:{form}} in {bound.probability:.0%}"
        for name, form in (("psnr", "+.1f"), ("ssim", "+.3f"))
        if (bound := each.figures.get(name)) is not None
    ]
    return f"{each.name}: {', '.join(parts)}; {each.slices} slices of {len(each.scans)} scans, {each.left_out} left out"
