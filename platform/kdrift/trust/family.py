"""Which calibration of a prior holds for a slice, and what is said where none does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdrift.mri.mask_family import MaskFacts
from kdrift.prior.calibration import Calibration
from kdrift.trust.verdict import UNKNOWN, Evidence, Level, Verdict


def with_calibration(verdict: Verdict, calibrations: Sequence[Calibration], mask: MaskFacts, prior: str) -> Evidence:
    """Return the evidence of a verdict with what `kdrift calibrate` found for such slices, or why there is nothing.

    `calibrations` are those of the prior for the method and its settings. Of several that hold, the one that asks for
    the largest deviation is taken.
    """
    evidence = verdict.evidence
    if why := refusal(verdict.level, evidence.known, held_out=bool(evidence.groups)):
        return replace(evidence, uncalibrated=f"no calibration of {prior} is used: {why}")
    if not calibrations:
        return replace(
            evidence,
            uncalibrated=f"no calibration of {prior} was made with these settings and at most as many samples",
        )
    fitting = [each for each in calibrations if not each.family.differences(mask)]
    if not fitting:
        return replace(evidence, uncalibrated=f"no calibration of {prior} for {mask}{_nearest(calibrations, mask)}")
    chosen = max(fitting, key=lambda each: each.pixel)
    return replace(
        evidence,
        calibration=chosen.pixel,
        calibrated_by=f"{prior}, {chosen} ({len(chosen.scans)} scans, {chosen.slices} slices)",
        region=chosen.region,
        region_size=chosen.region_size,
        bounds=chosen.figures,
    )


def refusal(level: Level, known: float | None, *, held_out: bool) -> str:
    """Return why no calibration is used for a slice, and none is measured on it, whatever its mask; empty: none.

    `level` and `known` are those of verdict and evidence, `held_out` says whether a sample was held out.
    """
    if level == "not trusted":
        return "the image is not trusted"
    if known is not None and known > UNKNOWN:
        return "the prior does not know such images"
    return "" if held_out else "no sample could be held out"


def _nearest(calibrations: Sequence[Calibration], mask: MaskFacts) -> str:
    """Return what a mask differs by from the family that it is most like, where that is less than acceleration."""
    nearest = min(calibrations, key=lambda each: len(each.family.differences(mask)))
    said = [each for each in nearest.family.differences(mask) if not each.startswith("it is")]
    return f": {' and '.join(said)}, in {nearest.family}" if said else ""
