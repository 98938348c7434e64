"""The unit of data: scanners and simulations use any, and what is computed must not depend on it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LARGEST, SMALLEST = 2.0**110, 2.0**-100
"""Largest component of k-space, 1.3e33 to 7.9e-31, for which neither its images overflow in float32 nor its noise
loses digits."""


def unit_of(kspace: Tensor) -> float:
    """Power of two that k-space is divided by, without any rounding, so that its largest component lies in [1, 2).

    Squares of very large or small numbers leave the range of float32; those of the divided ones do not. 1 where
    k-space is zero.
    """
    largest = float(torch.view_as_real(kspace).abs().amax()) if kspace.numel() else 0.0
    return 2.0 ** (math.frexp(largest)[1] - 1) if 0 < largest < math.inf else 1.0


def out_of_range(largest: float) -> str:
    """Say why data with this largest component cannot be held in float32, and what to do; empty where they can."""
    if 0 < largest < SMALLEST or LARGEST < largest < math.inf:
        side, verb = ("small", "multiply") if largest < 1 else ("large", "divide")
        return (
            f"values are too {side} for single precision: the largest is {largest:.1e}, expected {SMALLEST:.0e} to"
            f" {LARGEST:.0e}; {verb} the data by a power of ten"
        )
    return ""
