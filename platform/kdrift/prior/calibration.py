"""What a prior's bundle says of calibrations: how far deviations and figures of one method were off, by masks.

`kdrift calibrate` measures them on scans with references that the prior was not trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdrift.mri.mask_family import MaskFamily

CALIBRATION = "calibration.yaml"
"""File of a bundle; a prior that was never calibrated has none."""


@dataclass(frozen=True)
class CalibratedScan:
    """A scan that a calibration was measured on."""

    name: str
    """Volume in its store."""
    checksum: str
    """SHA-256 of the checksums that its store keeps of the k-space."""
    slices: int
    """Slices that were used."""
    simulated: bool
    factor: float
    """What this scan alone asks for, for pixels."""
    coverage: float | None = None
    """Share of its object within the intervals with the factor of all other scans; None: there is no other."""


@dataclass(frozen=True)
class FigureBound:
    """How much a figure lies above what the calibrated deviation alone predicts, at least."""

    offset: float
    """Added to the prediction it gives the lower bound; dB of PSNR, 1 of SSIM."""
    probability: float
    """Share of slices, of such scans, whose figure is above the bound (a conformal quantile over slices)."""
    scans: int
    slices: int
    median: float
    """Added to the prediction it gives what half of these slices are above."""


@dataclass(frozen=True)
class Calibration:
    """What one method, with one set of settings, showed under one family of masks."""

    name: str
    """Name of the family."""
    family: MaskFamily
    anatomy: str
    """What the scans show, in a word of whoever calibrated."""
    settings: Mapping[str, Any]
    """Method, options of mean and spread, coil maps, start: what it holds for."""
    num_samples: int
    """Samples of each slice; it holds for as many and more."""
    level: float
    """Nominal share of the object within the intervals that the factors give."""
    pixel: float
    """Factor of the deviation of pixels, beside the one that held-out samples give."""
    region: float | None
    """Deviation of the mean over a region, as a part of the root mean square of its pixels' calibrated deviation."""
    region_size: int
    """Rows and columns of a region."""
    scans: tuple[CalibratedScan, ...]
    """What it was measured on."""
    left_out: int = 0
    """Slices that were left out, as they are where it is used: not trusted, or unknown to the prior."""
    regions: int = 0
    """Regions that `region` comes from."""
    figures: dict[str, FigureBound] = field(default_factory=dict)
    """Lower bounds of `psnr` and `ssim`."""
    masks: tuple[Mapping[str, Any], ...] = ()
    """Masks that were drawn."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The configuration, without the folders of the machine."""
    prior_sha256: str = ""
    """SHA-256 of the weights."""
    kdrift_version: str = ""
    date: str = ""
    """Day, ISO 8601."""
    command: str = ""

    @property
    def slices(self) -> int:
        """Slices that it comes from."""
        return sum(scan.slices for scan in self.scans)

    def __str__(self) -> str:
        return f"{self.anatomy}, {self.family}"


def joined_calibrations(old: Sequence[Calibration], new: Sequence[Calibration]) -> tuple[Calibration, ...]:
    """Return both, a new one in place of an old one of the same settings, samples, anatomy and name of family."""

    def key(each: Calibration) -> tuple[Any, ...]:
        return each.name, each.anatomy, each.num_samples, each.level, each.settings

    taken = [key(each) for each in new]
    return (*(each for each in old if key(each) not in taken), *new)
