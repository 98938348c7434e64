"""Starting from another reconstruction: come-closer-diffuse-faster (CCDF; Chung et al. 2022; Score-MRI Algorithm 6)."""

from __future__ import annotations

from dataclasses import dataclass

from kdrift.methods.measurement import Measurement


@dataclass(frozen=True)
class StartOptions:
    """Settings of a method that can start from another reconstruction, `Measurement.start`."""

    start_time: float = 1.0
    """t_0: of N steps the last t_0 N are done, from a start x_0 + sigma z at their first noise level (CCDF; Score-MRI
    Algorithm 6). Below 1 it needs a start."""

    def __post_init__(self) -> None:
        if not 0 < self.start_time <= 1:
            raise ValueError(f"start_time must be above 0 and at most 1, got {self.start_time}")


def steps_left(num_steps: int, options: StartOptions, measurement: Measurement) -> int:
    """N' = t_0 N, rounded, at least 1. Raises ValueError for t_0 below 1 without a start."""
    if options.start_time < 1 and measurement.start is None:
        raise ValueError(f"start_time {options.start_time} leaves out steps and needs a start, got none")
    return max(1, round(options.start_time * num_steps))
