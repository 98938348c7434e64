"""Finished reconstructions beside their references: what a calibration is measured on."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import h5py
import torch
from torch import Tensor

from kdrift.evaluation.work import VolumeTask
from kdrift.measures.metrics import METRICS
from kdrift.mri.mask_family import MaskFacts, mask_facts
from kdrift.trust.conformal import pixel_scores, region_scores
from kdrift.trust.family import refusal
from kdrift.trust.predicted import PREDICTED
from kdrift.trust.uncertainty import object_mask


@dataclass(frozen=True)
class Residual:
    """One slice; images are magnitudes `(row, col)` on the scale of the data."""

    scan: str
    """Volume in its store."""
    simulated: bool
    mask: MaskFacts
    mean: Tensor
    reference: Tensor
    spread: Tensor
    """Deviation by the factor that held-out samples give, without the noise that all samples share."""
    noise: float
    """That noise."""

    def scores(self, level: float) -> Tensor:
        """Return the factor that each pixel of the object asks for, see `kdrift.trust.conformal`."""
        inside = object_mask(self.reference)
        return pixel_scores((self.reference - self.mean)[inside], self.spread[inside], self.noise, level)

    def regions(self, factor: float, size: int, level: float) -> Tensor:
        """Return what the mean over each region asks for, of the deviation that `factor` gives."""
        error, inside = self.reference - self.mean, object_mask(self.reference)
        return region_scores(error, self.deviation(factor), inside, size, level)

    def deviation(self, factor: float) -> Tensor:
        """Return the calibrated standard deviation."""
        return ((factor * self.spread).square() + self.noise**2).sqrt()

    def surplus(self, figure: str, factor: float) -> float:
        """Return what a figure has more than the deviation that `factor` gives predicts."""
        measured = METRICS[figure].function(self.reference, self.mean)
        return measured - PREDICTED[figure](self.mean, self.deviation(factor))


def read_residuals(task: VolumeTask) -> tuple[list[Residual], dict[str, str]]:
    """Return the slices of a finished volume that a calibration may be measured on, and why others are left out.

    Left out are those that one would not be used for, and those without images or a reference to be compared with.
    """
    report = json.loads((task.out / "metrics.json").read_text())
    name, found, left_out = task.out.name, list[Residual](), dict[str, str]()
    with h5py.File(task.out / "reconstruction.h5") as file:
        images = {
            key: torch.from_numpy(file[key][:]) for key in ("reconstruction", "std", "mask", "reference") if key in file
        }
    if "reference" not in images:
        return [], {name: "it has no reference"}
    if doubts := report.get("reference_fit", {}).get("doubts"):
        return [], {name: doubts[0]}
    for i, index in enumerate(report["slices"]):
        reference = images["reference"][i]
        if why := _fault(report, index, reference):
            left_out[f"{name}, slice {index}"] = why
            continue
        mask = images["mask"] if images["mask"].ndim == 2 else images["mask"][i]
        noise = report["noise_sigma"][i] * math.sqrt(float(mask.float().mean()))
        noise = noise if report["verdicts"][str(index)]["image_noise"] else 0.0
        spread = (images["std"][i].double().square() - noise**2).clamp(min=0).sqrt()
        found.append(
            Residual(name, report["simulated"], mask_facts(mask), images["reconstruction"][i], reference, spread, noise)
        )
    return found, left_out


def _fault(report: dict[str, Any], index: int, reference: Tensor) -> str:
    """Return why a slice says nothing about a calibration; empty where it does."""
    if str(index) in report["failed"]:
        return str(report["failed"][str(index)])
    if index in report["fallback"]:
        return "all samples diverged"
    verdict = report["verdicts"].get(str(index), {"level": "not checked"})
    if why := refusal(verdict["level"], verdict.get("known"), held_out=bool(verdict.get("predictions"))):
        reasons = verdict.get("reasons")
        return f"{verdict['level']}: {'; '.join(reasons)}" if reasons else why
    return "" if bool(reference.any()) else "the reference is zero"
