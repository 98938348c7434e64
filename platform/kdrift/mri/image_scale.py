"""The scale of images: what a slice is divided by before a network sees it, taken from its own magnitudes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

ScaleRule = Literal["quantile", "std", "max"]


@dataclass(frozen=True)
class ImageScale:
    """How the images of a prior were scaled, so that a slice to reconstruct is scaled alike.

    `of` gives the divisor of an image, and the divided image times `value` is what the network was trained on.
    """

    rule: ScaleRule = "quantile"
    """What is taken from the magnitudes: a quantile, their standard deviation, or their maximum."""
    number: float = 0.99
    """Which quantile, in (0, 1]; the other rules have no number and do not read it."""
    value: float = 1.0
    """What the rule gives of the network's own images: 1 for every prior that kdrift trained."""

    def __post_init__(self) -> None:
        if self.rule not in ("quantile", "std", "max"):
            raise ValueError(f"the rule of an image scale is quantile, std or max, got {self.rule!r}")
        if not 0 < self.number <= 1:
            raise ValueError(f"quantile is {self.number}, expected a number in (0, 1]")
        if not 0 < self.value < float("inf"):
            raise ValueError(f"the value of an image scale must be > 0, got {self.value}")

    def of(self, magnitude: Tensor | np.ndarray) -> float:
        """Return the divisor of `magnitude` `(*batch, row, col)`, one number for all of it.

        Where the rule gives 0 it is the maximum, which is 0 for an image of zeros alone.
        """
        if isinstance(magnitude, Tensor):
            values = magnitude.flatten()
            largest = float(values.max())
            if self.rule == "quantile":
                found = float(torch.quantile(values, self.number))
            else:
                found = float(values.std(correction=0)) if self.rule == "std" else largest
        else:  # of whole volumes, which torch.quantile is too small for
            largest = float(magnitude.max(initial=0.0))
            if self.rule == "quantile":
                found = float(np.quantile(magnitude, self.number))
            else:
                found = float(magnitude.std(dtype=np.float64)) if self.rule == "std" else largest
        return found if found > 0 else largest

    def describe(self) -> str:
        """Return the rule in words, e.g. `the 0.99 quantile`."""
        names = {"quantile": f"the {self.number:g} quantile", "std": "the standard deviation", "max": "the maximum"}
        return names[self.rule]
