"""What residuals of several scans ask of the deviation, and what their figures have beyond its prediction."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from kdrift.evaluation.residuals import Residual
from kdrift.prior.calibration import FigureBound
from kdrift.trust.conformal import combined, level_quantile, lower_bound
from kdrift.trust.predicted import PREDICTED

FEW = 8
"""Fewer regions than this give no factor for them."""


@dataclass(frozen=True)
class Factors:
    """What was found for one family of masks."""

    pixel: float
    """Factor of the deviation: median over scans of the geometric means over slices."""
    of_scans: dict[str, float]
    """What each scan alone asks for."""
    coverage: dict[str, float]
    """Share of each scan's object within intervals with the factor of the others; empty for one scan."""
    region: float | None
    """The same for means over regions, the calibrated deviation being 1; None where there are too few."""
    regions: int
    figures: dict[str, FigureBound]


def find_factors(
    scans: Mapping[str, Sequence[Residual]], *, level: float, probability: float, region_size: int
) -> Factors:
    """Return the factors and bounds that one or more scans, each of one or more slices, ask for.

    Figures are measured against the prediction with the factor of the other scans, where there are others, as they are
    where a calibration is used. See `kdrift.trust.conformal` for what is quantile and what is mean.
    """
    scores = {name: [each.scores(level) for each in slices] for name, slices in scans.items()}
    asked = {name: [level_quantile(each, level) for each in slices] for name, slices in scores.items()}
    pixel = combined(list(asked.values()))
    others = {
        name: combined([each for other, each in asked.items() if other != name]) if len(asked) > 1 else pixel
        for name in asked
    }
    coverage = {name: float((torch.cat(scores[name]) <= others[name]).double().mean()) for name in asked}
    regions = {
        name: torch.cat([each.regions(pixel, region_size, level) for each in slices]) for name, slices in scans.items()
    }
    counted = {name: found for name, found in regions.items() if len(found) >= FEW}
    figures = {}
    for figure in PREDICTED:
        surplus = [each.surplus(figure, others[name]) for name, slices in scans.items() for each in slices]
        surplus = [value for value in surplus if math.isfinite(value)]
        if surplus:
            figures[figure] = FigureBound(
                *lower_bound(surplus, probability), len(scans), len(surplus), statistics.median(surplus)
            )
    return Factors(
        pixel=pixel,
        of_scans={name: combined([each]) for name, each in asked.items()},
        coverage=coverage if len(asked) > 1 else {},
        region=combined([[level_quantile(found, level)] for found in counted.values()]) if counted else None,
        regions=sum(len(found) for found in counted.values()),
        figures=figures,
    )
