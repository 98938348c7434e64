"""What the settings of classical methods with a penalty have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kdrift.methods.method import Options


@dataclass(frozen=True)
class WeightedOptions(Options):
    """Settings of a method that minimises the data misfit and a weighted penalty; each has defaults of its own."""

    weight: float = 0.01
    """Weight of the penalty."""
    max_iter: int = 50
    """Most steps of the solver."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf or self.max_iter < 1:
            raise ValueError(f"expected a finite weight >= 0 and max_iter >= 1, got {self}")
