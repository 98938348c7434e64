"""Whether an image is to be believed, from measured samples that its method did not see: no reference is needed.

A few measured samples are left out (`kdrift.mri.heldout.draw_groups`) and predicted by the sampler and by classical
methods. How well it does gives the factor of the standard deviation, and the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from kdrift.prior.calibration import FigureBound
from kdrift.trust.predicted import Prediction

Level = Literal["trusted", "not checked", "caution", "not trusted"]
"""From what is good to what is bad."""
SAMPLER = "sampler"
"""Among the errors of a group: the method that is judged."""
NAMES = {"tv": "TV", "cg_sense": "CG-SENSE", "zero_filled": "zero-filling"}

BETTER, CLEARLY = 1.12, 1.4
"""A classical method predicts better, and clearly so, where the sampler's error less noise is above so many times its
own (0.5 and 1.5 dB). At 8x, where a line that is held out leaves a gap twice as wide as any other, TV predicts some
brains better by up to 1.2 dB of which the sampler's image is 4 dB better: there `UNKNOWN` decides."""
MISSED, WORSE = 0.9, 1.05
"""A sampler that misses more of the held-out signal than this says little about what was not measured; one that errs by
more than the second part of it is worse than saying nothing."""
UNKNOWN = 1.25
"""A prior that leaves more noise on an image than so many times what it leaves on its own kind does not know it."""
SPANNED = 0.7
"""Samples that span less of the rows or columns leave out what no held-out sample can stand for."""
UNTESTED = 0.4
"""Held-out samples say little where gaps wider than theirs have more of what was not measured (`kdrift.mri.heldout`).
Gaussian lines at 4x have up to 0.3 of it, all other masks of kdrift less; 24 middle lines of 96 and every other one of
the outermost twelve at either end, whose gaps double an image, 0.58."""
OVERSTATED = 0.5
"""Held-out errors below this part of the noise show that the noise level is too high."""
RESIDUAL, EXCESS = 0.1, 1.5
"""A data residual above this part of the data, and above so many times what the noise explains, is a warning.

Real scans (4x, 8x and full, lines and points, by CG-SENSE, TV, wavelets and samplers that have converged) stay below
0.07, and below 1.1 wherever they are above 0.03. Every other line of a head that moved by 2 pixels has 0.12 and 1.7,
wrong coil maps 0.5 and 9.
"""
SHRINK = 0.5
"""Power of the factor that held-out samples show: three lines say it within a third, and calibration within a tenth."""
MOST_NOISE = 0.75
"""At most this part of a held-out error counts as noise, whose level may be an upper bound."""
BOUNDS = (0.5, 4.0)
"""Least and largest factor."""


@dataclass(frozen=True)
class Group:
    """Held-out samples of about one distance from the middle of k-space: sums over coils and samples, in one unit."""

    samples: int
    """Numbers that were held out, all coils together."""
    share: float
    """Positions without a sample that each stands for."""
    data: float
    """|y|^2."""
    noise: float
    """What noise adds to a square, by the noise level of the slice."""
    spread: float
    """Variance of the posterior samples' predictions."""
    errors: Mapping[str, float]
    """|y - A x|^2 by method, `sampler` and classical ones."""


@dataclass(frozen=True)
class Evidence:
    """What was found out of one slice without a reference."""

    groups: tuple[Group, ...] = ()
    """From low to high frequencies; none where nothing could be held out."""
    known: float | None = None
    """Noise that the prior leaves on the image, as a multiple of what it leaves on its own kind; None: not known."""
    residual: float = 0.0
    """|M (y - A x)| / |y| of what was not held out."""
    excess: float = 0.0
    """The same as a multiple of what noise explains."""
    image_noise: float = 0.0
    """Standard deviation in a pixel of noise that was measured and that all samples keep, in the unit of the slice, or
    of the data in a `ReconstructionResult`."""
    noise_stated: bool = False
    """Whether the noise level was stated; an estimate is an upper bound."""
    asked_sets: int = 0
    """Sets of coil maps that were used where the calibration lines asked for two; 0 where one is right."""
    extent: float = 1.0
    """Part of the rows or columns from the first sample to the last, the smaller of both."""
    untested: float = 0.0
    """Part of what was not measured that lies in gaps wider than held-out samples can stand for."""
    map_holes: int = 0
    """Pixels where coil maps that were given are zero though others surround them."""
    calibration: float = 1.0
    """Factor of the standard deviation that `kdrift calibrate` found for such scans; 1 where there is none."""
    calibrated_by: str = ""
    """Where that comes from; empty where there is none."""
    uncalibrated: str = ""
    """Why there is none, in words."""
    region: float | None = None
    """Deviation of a mean over a region, as a part of the root mean square of its pixels' deviation; by the same."""
    region_size: int = 0
    """Rows and columns of such a region."""
    bounds: dict[str, FigureBound] = field(default_factory=dict)
    """Lower bounds of `psnr` and `ssim`, above what the deviation predicts; by the same."""

    def part(self, name: str) -> float:
        """Return `noise`, `spread`, or a method's error, as a part of the held-out data.

        Each sample is weighted by how many positions without one it stands for.
        """
        data = sum(group.share * group.data for group in self.groups)
        found = sum(
            group.share * {"noise": group.noise, "spread": group.spread, **group.errors}[name] for group in self.groups
        )
        return found / data if data else 0.0

    @property
    def predictions(self) -> dict[str, float]:
        """Error of each method as a part of the held-out data."""
        return {name: self.part(name) for name in (self.groups[0].errors if self.groups else {})}

    def factor(self, name: str = SAMPLER) -> float:
        """Return what a deviation is multiplied by: error less noise over spread, shrunk, each as in `part`."""
        error, spread = self.part(name), self.part("spread")
        found = 1.0
        if 0 < error < math.inf and 0 < spread < math.inf:
            noise = min(self.part("noise"), MOST_NOISE * error)
            found = ((error - noise) / spread) ** (SHRINK / 2)
        return min(max(self.calibration * found, BOUNDS[0]), BOUNDS[1])


@dataclass(frozen=True)
class Verdict:
    """Whether an image is to be believed, and why."""

    level: Level
    reasons: tuple[str, ...] = ()
    """In plain words, with numbers; what weighs most first."""
    factor: float = 1.0
    """What the deviation of the samples was multiplied by."""
    best: str = ""
    """The classical method that predicted held-out samples best; empty where none did better than nothing."""
    given: str = ""
    """The classical method whose image is given in place of the mean; empty: the mean is given."""
    evidence: Evidence = field(default_factory=Evidence)
    """The numbers."""
    figures: dict[str, Prediction] = field(default_factory=dict)
    """What `psnr` and `ssim` would be, had the slice a reference, where its scan was calibrated for."""

    def __str__(self) -> str:
        instead = f"; {NAMES[self.given]} is given in its place" if self.given else ""
        return f"{self.level}{': ' * bool(self.reasons)}{'; '.join(self.reasons)}{instead}"

    def giving(self, method: str) -> Verdict:
        """Return the verdict with the image of a classical method given, and the factor of its deviation."""
        return replace(self, given=method, factor=self.evidence.factor(method))


def worst(levels: Iterable[Level]) -> Level:
    """Return the worst of some levels; of none `not checked`."""
    order = get_args(Level)
    return max(levels, key=order.index, default="not checked")


def judge(evidence: Evidence) -> Verdict:
    """Return the verdict on a slice; see the constants of this module for the thresholds."""
    doubts = list[str]()
    unexplained = evidence.excess > EXCESS
    unknown = evidence.known is not None and evidence.known > UNKNOWN
    bad = unexplained and evidence.residual > RESIDUAL
    if bad:
        doubts.append(
            f"the image does not explain the data: {evidence.residual:.0%} is left, {evidence.excess:.1f} times the"
            " noise"
        )
    if unknown:
        doubts.append(
            f"the prior does not know such images: it leaves {evidence.known:.2f} times the noise that it leaves on its"
            " own kind"
        )
    if evidence.asked_sets == 1:
        doubts.append(
            "the calibration lines ask for two sets of coil maps, and one is used: what is wrong with it is in no"
            " sample's spread"
        )
    if evidence.asked_sets == 2:
        doubts.append(
            "two sets of coil maps were needed, as of an object wider than the field of view, and as of lines that do"
            " not belong together (motion, ghosts), which no left-out line shows"
        )
    if evidence.extent < SPANNED:
        doubts.append(f"samples span {evidence.extent:.0%} of k-space: nothing tests what lies beyond")
    if evidence.untested > UNTESTED:
        doubts.append(
            f"{evidence.untested:.0%} of what was not measured lies in gaps wider than any left-out sample can test"
        )
    if evidence.map_holes:
        doubts.append(
            f"the coil maps that were given are zero in {evidence.map_holes} pixels that others surround: the image and"
            " its deviation are zero there, whatever the object is"
        )
    if not evidence.groups:
        return Verdict(
            "not trusted" if bad else "caution" if doubts else "not checked",
            (*doubts, "no measured sample outside the calibration could be held out"), evidence.calibration,
            evidence=evidence,
        )  # fmt: skip
    errors = evidence.predictions
    own, noise = errors.pop(SAMPLER), evidence.part("noise")
    best = min(errors, key=lambda name: errors[name])
    if math.isinf(own):
        doubts.insert(0, "its chains diverged where samples were held out from them")
        return Verdict("not trusted", tuple(doubts), evidence.factor(), best, evidence=evidence)
    floor = min(noise, MOST_NOISE * min(own, errors[best]))
    shown = f"it predicts left-out k-space with {own:.0%} error, {NAMES[best]} with {errors[best]:.0%}"
    more = own - floor > BETTER * (errors[best] - floor) and own > errors[best] + 0.02
    if more or own > WORSE or (unknown and own > MISSED):
        doubts.insert(
            0, f"{NAMES[best]} predicts left-out k-space better: {errors[best]:.0%} error, the sampler {own:.0%}"
        )
        bad = bad or unknown or own > WORSE or own - floor > CLEARLY * (errors[best] - floor)
    elif unexplained and unknown and BETTER * (own - floor) > errors[best] - floor:
        doubts.insert(
            0,
            f"it predicts left-out k-space no better than {NAMES[best]}, and what is left of the data is"
            f" {evidence.excess:.1f} times the noise: its level is too low, or coil maps do not fit",
        )
        bad = True
    elif own - floor > MISSED * (1 - floor):
        doubts.append(f"it says next to nothing of what was not measured: {shown}")
    if evidence.noise_stated and min(own, errors[best]) < OVERSTATED * noise:
        doubts.append(
            f"the noise level that was stated is too high: it would make {noise:.0%} error of left-out k-space, which"
            f" is predicted to {min(own, errors[best]):.0%}"
        )
    level: Level = "not trusted" if bad else "caution" if doubts else "trusted"
    noisy = f" (noise {'at most ' * (noise > own)}{noise:.0%})" if not doubts else ""
    reasons = tuple(doubts) or (f"{shown}{noisy}",)
    return Verdict(level, reasons, evidence.factor(), best, evidence=evidence)
