"""Families of sampling masks: lines or points, within ranges of net acceleration and of the sampled centre."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from kdrift.mri.masks import Box, acs_region

WHOLE = 0.9
"""Part of a line that must be sampled for it to count as one."""
MaskUnit = Literal["lines", "points"]


@dataclass(frozen=True)
class MaskFacts:
    """What can be said of a mask without knowing how it was drawn."""

    unit: MaskUnit
    """Whether whole rows or columns are sampled, of the part of k-space that has samples, or points."""
    net_acceleration: float
    """Positions of the matrix divided by those sampled."""
    acs: float
    """Fully sampled centre as a part of the width; of points as a part of the side of a square."""
    extent: float
    """Part of the rows or columns from the first sample to the last, the smaller of both: of padded or partly measured
    k-space it is well below 1."""

    def __str__(self) -> str:
        return f"{self.unit} at {self.net_acceleration:.1f}x"


@dataclass(frozen=True)
class MaskFamily:
    """Masks that are alike."""

    unit: MaskUnit
    """Whole lines, or points."""
    net_acceleration: tuple[float, float]
    """Least and largest."""
    acs: tuple[float, float]
    """Least and largest fully sampled centre, as a part of the width, or of points of the side of a square."""
    extent: float = 0.7
    """Least part of the rows and of the columns from the first sample to the last: padded k-space has less."""

    def __post_init__(self) -> None:
        low, high = self.net_acceleration
        if not 1 <= low <= high or not 0 <= self.acs[0] <= self.acs[1] <= 1 or not 0 <= self.extent <= 1:
            raise ValueError(
                "a family has net_acceleration [low, high] of 1 and more, acs [low, high] within 0 to 1 and extent"
                f" within 0 to 1, got {list(self.net_acceleration)}, {list(self.acs)} and {self.extent:g}"
            )

    def __str__(self) -> str:
        (low, high), (least, most) = self.net_acceleration, self.acs
        return f"{self.unit} at {low:g} to {high:g}x, centre {100 * least:g} to {100 * most:g} %"

    def differences(self, facts: MaskFacts) -> tuple[str, ...]:
        """Return what a mask has that none of the family has, in words; nothing where it is one of them."""
        found = list[str]()
        if facts.unit != self.unit:
            found.append(f"it is of {facts.unit}")
        if not self.net_acceleration[0] <= facts.net_acceleration <= self.net_acceleration[1]:
            found.append(f"it is at {facts.net_acceleration:.2f}x")
        if not self.acs[0] <= facts.acs <= self.acs[1]:
            found.append(f"its centre is {facts.acs:.1%}")
        if facts.extent < self.extent:
            found.append(f"samples span {facts.extent:.0%} of the matrix")
        return tuple(found)


def mask_facts(mask: Tensor) -> MaskFacts:
    """Return what is to be said of a mask `(row, col)`; nothing sampled is points at infinity."""
    kept = (mask != 0).cpu()
    if not bool(kept.any()):
        return MaskFacts("points", math.inf, 0.0, 0.0)
    inside = kept[spanned(kept)]
    extent = min(inside.shape[0] / kept.shape[0], inside.shape[1] / kept.shape[1])
    row, col = ((part.stop - part.start) / size for part, size in zip(acs_region(kept), kept.shape, strict=True))
    lines = whole_lines(inside)
    unit: MaskUnit = "points" if lines is None else "lines"
    acs = math.sqrt(row * col) if lines is None else col if lines.shape[0] == 1 else row
    return MaskFacts(unit, kept.numel() / int(kept.sum()), acs, extent)


def spanned(mask: Tensor) -> Box:
    """Return the smallest box `(row slice, col slice)` with all samples of a mask `(row, col)` that has some."""
    rows, cols = (mask.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)


def whole_lines(mask: Tensor) -> Tensor | None:
    """Return which lines of a line mask `(row, col)` were sampled, `(1, col)` or `(row, 1)`; None of other masks.

    A line of which more than `WHOLE` was sampled counts: spikes may have been left out of it.
    """
    for axis in (0, 1):
        share = mask.float().mean(axis, keepdim=True)
        if bool(((share == 0) | (share > WHOLE)).all()):
            return share > WHOLE
    return None
