"""NMSE, PSNR and SSIM on magnitude images as fastMRI defines them (Zbontar et al. 2018, section 5)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

Per = Literal["volume", "slice"]

WINDOW = 7


@dataclass(frozen=True)
class Metric:
    """One row of `METRICS`."""

    function: Callable[..., float]
    """Called as `function(reference, image, *, data_range, per)`; returns a float."""
    unit: str
    higher_is_better: bool
    definition: str
    """Definition, as written into metrics.json."""


def nmse(
    reference: torch.Tensor, image: torch.Tensor, *, data_range: float | None = None, per: Per = "volume"
) -> float:
    """|reference - image|^2 / |reference|^2 over the volume, or its mean over slices.

    Axes (slice, row, col) or (row, col); complex images are taken by magnitude. `data_range` has no effect
    on this ratio. Raises ValueError for unequal shapes and for a reference that is zero.
    """
    return _measured(reference, image, data_range, per, _nmse)


def psnr(
    reference: torch.Tensor, image: torch.Tensor, *, data_range: float | None = None, per: Per = "volume"
) -> float:
    """10 log10(data_range^2 / mean squared error) in dB; the data range is the maximum of the reference.

    Axes (slice, row, col) or (row, col); complex images are taken by magnitude; infinite for equal images.
    per="volume" takes the maximum and the error of the volume (fastMRI), per="slice" those of each slice, and
    then the mean. Raises ValueError for unequal shapes and for a reference that is zero.
    """
    return _measured(reference, image, data_range, per, _psnr)


def ssim(
    reference: torch.Tensor, image: torch.Tensor, *, data_range: float | None = None, per: Per = "volume"
) -> float:
    """Mean structural similarity (Wang et al. 2004), uniform 7x7 window, sample covariance, K = 0.01, 0.03.

    Axes (slice, row, col) or (row, col); complex images are taken by magnitude. Computed in two dimensions in
    every slice and averaged; per="volume" takes one data range, the volume's maximum (fastMRI), per="slice"
    each slice's. Raises ValueError for unequal shapes, a reference that is zero, slices below 7 x 7.
    """
    return _measured(reference, image, data_range, per, _ssim)


def evaluate(reference: torch.Tensor, image: torch.Tensor, *, per: Per = "volume") -> dict[str, float]:
    """All of `METRICS` by name."""
    return {name: metric.function(reference, image, per=per) for name, metric in METRICS.items()}


def _measured(
    reference: torch.Tensor,
    image: torch.Tensor,
    data_range: float | None,
    per: Per,
    measure: Callable[[torch.Tensor, torch.Tensor, float], float],
) -> float:
    """Return a measure of magnitudes `(slice, row, col)` in float64, of the volume or the mean over its slices."""
    if reference.shape != image.shape:
        raise ValueError(f"reference has shape {tuple(reference.shape)}, image has {tuple(image.shape)}")
    if reference.ndim not in (2, 3):
        raise ValueError(f"images need axes (slice, row, col) or (row, col), got shape {tuple(reference.shape)}")
    pair = [x.detach().abs() if x.is_complex() else x.detach() for x in (reference, image)]
    reference, image = (x.to(dtype=torch.float64).reshape(-1, *x.shape[-2:]) for x in pair)
    image = image.to(reference.device)
    if per == "volume":
        return measure(reference, image, _range(reference, data_range))
    if per != "slice":
        raise ValueError(f'per is "volume" or "slice", not {per!r}')
    pairs = zip(reference, image, strict=True)
    return statistics.fmean(measure(r[None], i[None], _range(r, data_range)) for r, i in pairs)


def _range(reference: torch.Tensor, data_range: float | None) -> float:
    if not bool((reference != 0).any()):
        raise ValueError("the reference is zero everywhere: relative measures are not defined for it")
    value = float(reference.max()) if data_range is None else float(data_range)
    if not value > 0:
        raise ValueError(f"data_range must be above 0, got {value:g}")
    return value


def _nmse(reference: torch.Tensor, image: torch.Tensor, data_range: float) -> float:
    return float(((reference - image) ** 2).sum() / (reference**2).sum())


def _psnr(reference: torch.Tensor, image: torch.Tensor, data_range: float) -> float:
    error = float(((reference - image) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(data_range**2 / error)


def _ssim(reference: torch.Tensor, image: torch.Tensor, data_range: float) -> float:
    return float(similarity(reference, image, data_range).mean())


def similarity(reference: torch.Tensor, image: torch.Tensor, data_range: torch.Tensor | float) -> torch.Tensor:
    """Return the map of `ssim`, differentiable: magnitudes `(slice, row, col)` to `(slice, row - 6, col - 6)`.

    `data_range` broadcasts to it. Raises ValueError for slices below 7 x 7.
    """
    if min(reference.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs slices of at least {WINDOW} x {WINDOW}, got {tuple(reference.shape[-2:])}")

    def mean(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(x[:, None], WINDOW, stride=1)[:, 0]

    sample = WINDOW**2 / (WINDOW**2 - 1)
    mean_r, mean_i = mean(reference), mean(image)
    var_r = sample * (mean(reference**2) - mean_r**2)
    var_i = sample * (mean(image**2) - mean_i**2)
    cov = sample * (mean(reference * image) - mean_r * mean_i)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_r * mean_i + c1) / (mean_r**2 + mean_i**2 + c1)
    return luminance * (2 * cov + c2) / (var_r + var_i + c2)


METRICS: dict[str, Metric] = {
    "psnr": Metric(
        psnr,
        "dB",
        True,
        "10 log10(m^2 / mean((reference - image)^2)) on magnitude images over the volume, "
        "m = maximum of the reference volume (fastMRI)",
    ),
    "ssim": Metric(
        ssim,
        "1",
        True,
        "mean over slices of SSIM on magnitude images, uniform 7x7 window, sample covariance, "
        "K1 = 0.01, K2 = 0.03, data range = maximum of the reference volume (fastMRI)",
    ),
    "nmse": Metric(
        nmse,
        "1",
        False,
        "|reference - image|^2 / |reference|^2 on magnitude images over the volume (fastMRI)",
    ),
}
