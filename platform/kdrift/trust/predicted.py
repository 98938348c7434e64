"""PSNR and SSIM that a reconstruction is expected to have, from its own deviation, without a reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kdrift.measures.metrics import WINDOW
from kdrift.prior.calibration import FigureBound

LARGEST = 0.999
"""This quantile of a reconstruction stands for the maximum of the reference: at 8x a few pixels can be twice as bright
as any should be, which would raise the prediction by 6 dB."""


@dataclass(frozen=True)
class Prediction:
    """What one figure of a slice would be, had it a reference."""

    expected: float
    """What half of the slices of such scans are above; PSNR in dB."""
    bound: float
    """Lower bound."""
    probability: float
    """Share of slices of such scans that are above the bound."""


def predicted_psnr(mean: Tensor, std: Tensor) -> float:
    """Return 10 log10(m^2 / mean(std^2)) in dB of a slice `(row, col)`, m its largest magnitude by `LARGEST`."""
    error, largest = float(std.double().square().mean()), _largest(mean)
    return 10 * math.log10(largest**2 / error) if error > 0 and largest > 0 else math.inf


def predicted_ssim(mean: Tensor, std: Tensor) -> float:
    """Return the SSIM of a slice `(row, col)` whose errors have no correlation with its image, as those of a mean have.

    Then means and covariances in a window are those of the image, and the reference has the variance of the errors
    besides: (2 v + c2) / (2 v + s^2 + c2) in each window, constants and windows those of `kdrift.measures.metrics`.
    """
    if min(mean.shape) < WINDOW:
        return 1.0

    def over_windows(x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x[None, None], WINDOW, stride=1)[0, 0]

    image, error = mean.double(), std.double().square()
    variance = (over_windows(image.square()) - over_windows(image).square()).clamp(min=0)
    c2 = (0.03 * _largest(mean)) ** 2
    if c2 == 0:
        return 1.0
    return float(((2 * variance + c2) / (2 * variance + over_windows(error) + c2)).mean())


def _largest(mean: Tensor) -> float:
    return float(mean.double().flatten().quantile(LARGEST))


PREDICTED: dict[str, Callable[[Tensor, Tensor], float]] = {"psnr": predicted_psnr, "ssim": predicted_ssim}
"""What is predicted of mean and calibrated deviation, by the figure's name in `metrics.json`."""


def predictions(mean: Tensor, std: Tensor, bounds: Mapping[str, FigureBound]) -> dict[str, Prediction]:
    """Return what the figures of a slice would be, those of which `bounds` are known and a prediction is finite."""
    found = {}
    for name, bound in bounds.items():
        alone = PREDICTED[name](mean, std)
        if math.isfinite(alone):
            found[name] = Prediction(alone + bound.median, alone + bound.offset, bound.probability)
    return found
