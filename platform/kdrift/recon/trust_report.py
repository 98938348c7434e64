"""What `metrics.json` says of how far a result is to be believed, as plain values."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from torch import Tensor

from kdrift.recon.acquisition import AcquisitionFacts
from kdrift.recon.result import ReconstructionResult
from kdrift.trust.uncertainty import DEFINITIONS, object_mask, summary
from kdrift.trust.verdict import Verdict, worst


def trust_entries(acquisition: AcquisitionFacts, result: ReconstructionResult) -> dict[str, Any]:
    """Return the verdicts, the level of the intervals, and the regions that were asked for."""
    verdicts = {index: _plain(verdict) for index, verdict in result.verdicts.items()}
    for position, index in enumerate(acquisition.slice_indices):
        if index in verdicts:
            mean, std = (acquisition.crop(images[position]) for images in (result.mean, result.std))
            verdicts[index] |= _shares(mean, std, result.verdicts[index].evidence.image_noise)
    verdicts |= {index: {"level": "not checked", "reasons": [why]} for index, why in result.unchecked.items()}
    entries: dict[str, Any] = {
        "verdict": worst(result.levels),
        "verdicts": {str(index): verdicts[index] for index in sorted(verdicts)},
        "level": result.config["level"],
    }
    if result.regions:
        entries["regions"] = {region.name: [asdict(mean) for mean in region.means] for region in result.regions}
    return entries


def trust_figures(
    mean: Tensor, std: Tensor, reference: Tensor, level: float
) -> tuple[dict[str, float], dict[str, str], list[str]]:
    """Return how well the deviation tells the error of `(slice, row, col)`, the definitions, and notes.

    Nothing where there is no deviation.
    """
    told = std.flatten(1).any(1)
    if not bool(told.any()):
        return {}, {}, []
    found = summary(mean, std, reference, level)
    absent = [name for name in DEFINITIONS if name not in found]
    notes = [f"no {', '.join(absent)}: not defined where std is constant or the error zero"] if absent else []
    if not bool(told.all()):
        notes.append(f"{int((~told).sum())} slices have no deviation: left out of {', '.join(found)}")
    return found, DEFINITIONS, notes


def _plain(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as what JSON can hold: numbers that are not finite are null."""
    evidence = verdict.evidence
    values: dict[str, Any] = {
        "level": verdict.level,
        "reasons": list(verdict.reasons),
        "factor": verdict.factor,
        "best": verdict.best or None,
        "given": verdict.given or None,
        "predictions": {name: _finite(value) for name, value in evidence.predictions.items()},
        "noise": evidence.part("noise") if evidence.groups else None,
        "known": evidence.known,
        "untested": evidence.untested,
        "map_holes": evidence.map_holes,
        "residual": evidence.residual,
        "excess": evidence.excess,
        "calibration": evidence.calibration,
        "calibrated_by": evidence.calibrated_by or None,
        "uncalibrated": evidence.uncalibrated or None,
        "region": evidence.region,
        "region_size": evidence.region_size or None,
        "figures": {name: asdict(figure) for name, figure in verdict.figures.items()},
        "image_noise": evidence.image_noise,
    }
    return {name: _finite(value) for name, value in values.items()}


def _shares(mean: Tensor, std: Tensor, noise: float) -> dict[str, Any]:
    """Return which parts of the variance in the object are measured noise, and what the data leave open."""
    inside = object_mask(mean)
    variance = float(std[inside].double().square().mean()) if bool(inside.any()) else 0.0
    if variance <= 0:
        return {}
    share = min(1.0, noise**2 / variance)
    return {"variance": {"noise": share, "open": 1 - share}}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
