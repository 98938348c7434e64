"""What a sampler is conditioned on, and how it reports progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Callback = Callable[[int, int, Tensor, float], None]
"""Called after each step with (steps done, steps in all, the images so far, the noise level left in them); the images
are a batch of chains, `(sample, [set | coil,] row, col)`. Raises to stop them."""


@dataclass(frozen=True)
class Measurement:
    """Undersampled k-space of one slice in the units of the prior."""

    kspace: Tensor
    """Complex `(coil, row, col)`, zero where not sampled."""
    mask: Tensor
    """Boolean `(row, col)`."""
    smaps: Tensor
    """Coil sensitivity maps `(coil, row, col)` or `(set, coil, row, col)`."""
    noise_sigma: float
    """Standard deviation of each real component of the k-space noise."""
    start: Tensor | None = None
    """Another reconstruction to start from: complex `([set,] row, col)`, coil images `(coil, row, col)` for a method
    whose chains are those. None: start from noise."""

    def __post_init__(self) -> None:
        if self.kspace.ndim != 3:
            raise ValueError(f"kspace must be (coil, row, col), got shape {tuple(self.kspace.shape)}")
        if self.mask.shape != self.kspace.shape[1:]:
            raise ValueError(f"mask is {tuple(self.mask.shape)}, kspace images are {tuple(self.kspace.shape[1:])}")
        if self.smaps.shape[-3:] != self.kspace.shape:
            raise ValueError(f"smaps are {tuple(self.smaps.shape)}, kspace is {tuple(self.kspace.shape)}")
        if self.start is not None and self.start.shape[-2:] != self.mask.shape:
            raise ValueError(f"the start is {tuple(self.start.shape)}, kspace images are {tuple(self.mask.shape)}")
        if not self.noise_sigma >= 0:
            raise ValueError(f"noise_sigma must be 0 or larger, got {self.noise_sigma}")
