"""Zero-filled reconstruction: what the data alone give, with zeros where nothing was measured."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kdrift.methods import Measurement, Method, Options


@dataclass(frozen=True)
class ZeroFilledOptions(Options):
    """Settings of the zero-filled reconstruction: there are none."""


def zero_filled(measurement: Measurement, *, options: ZeroFilledOptions) -> Tensor:
    """A^H y, the coil combination of the zero-filled coil images; complex `([set,] row, col)`."""
    return measurement.data


METHODS = {"zero_filled": Method(zero_filled, {"default": ZeroFilledOptions()}, "zero-filled: A^H y", noise=None)}
