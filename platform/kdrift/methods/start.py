"""Starting from another reconstruction: come-closer-diffuse-faster (CCDF; Chung et al. 2022; Score-MRI Algorithm 6)."""

from __future__ import annotations

from dataclasses import dataclass

from kdrift.methods.measurement import Measurement
from kdrift.methods.method import Options


@dataclass(frozen=True)
class StartOptions(Options):
    """Settings of a method that can start from another reconstruction, `Measurement.start`."""

    num_steps: int = 100
    """N, steps of the whole schedule."""
    start_time: float = 1.0
    """t_0: the last t_0 N of the N steps are done, from x_0 + sigma z, x_0 the start and sigma the first level of those
    steps (CCDF; Score-MRI Algorithm 6). Below 1 a start is needed."""

    def __post_init__(self) -> None:
        if self.num_steps < 2:
            raise ValueError(f"expected num_steps >= 2, got {self.num_steps}")
        if not 0 < self.start_time <= 1:
            raise ValueError(f"expected 0 < start_time <= 1, got {self.start_time}")

    @property
    def steps_done(self) -> int:
        """N' = t_0 N, rounded, at least 1."""
        return max(1, round(self.start_time * self.num_steps))

    @property
    def evaluations(self) -> int:
        """Network evaluations of one chain: one a step."""
        return self.steps_done


def steps_left(options: StartOptions, measurement: Measurement) -> int:
    """Return how many steps are to do. Raises ValueError for t_0 below 1 without a start."""
    if options.start_time < 1 and measurement.start is None:
        raise ValueError(f"start_time {options.start_time} leaves out steps and needs a start, got none")
    return options.steps_done
