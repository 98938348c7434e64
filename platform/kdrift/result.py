"""The result of a reconstruction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class ReconstructionResult:
    """Reconstruction of a volume; images are magnitudes `(slice, row, col)` on the scale of the data."""

    mean: Tensor
    std: Tensor
    """Standard deviation over samples (ddof 1), zero for a method without samples."""
    samples: Tensor | None
    """`(slice, sample, row, col)` where kept."""
    zero_filled: Tensor
    mask: Tensor
    """Boolean `(row, col)`."""
    smaps: Tensor
    """`(slice, [set,] coil, row, col)`."""
    nfe: int
    """Network evaluations a chain; one complex image is one evaluation."""
    network_images: int
    """Real images that went through the network, all chains together."""
    seconds: float
    stages: dict[str, float]
    """Seconds in `coil_maps`, `network`, `sampler` (outside the network), `combine`."""
    config: dict[str, Any]
    """Resolved: method, preset, options, prior and its hash, samples, seed."""
    net_acceleration: float
    data_residual: float
    """|M (y - A x)| / |y| of the samples' images x, mean over slices."""
    noise_sigma: list[float]
    """Estimated noise level of each slice, each real component, on the scale of the data."""
