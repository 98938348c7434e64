"""Zero-filled reconstruction: no prior, what every other method is measured from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdrift.methods.measurement import Measurement
from kdrift.methods.method import Method, Options


@dataclass(frozen=True)
class ZeroFilledOptions(Options):
    """A direct method has nothing to set."""


def zero_filled(measurement: Measurement, *, options: ZeroFilledOptions) -> Tensor:
    """A^H y, the coil combination of the zero-filled coil images; complex `([set,] row, col)`."""
    return measurement.data


METHODS = {"zero_filled": Method(zero_filled, {"default": ZeroFilledOptions()}, "zero-filled: A^H y", noise=None)}
