"""What a method is conditioned on, and how it reports progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from kdrift.methods.chains import IMAGES, Chains
from kdrift.mri.linop import LinearOperator
from kdrift.mri.sense import sense_operator

LEAST_NOISE = 1e-3
"""Data are never trusted beyond this fraction of the image scale; coil maps and the model are not that good."""
Callback = Callable[[int, int, Tensor, float], None]
"""Called after each step with (steps done, steps in all, the images so far, the noise level left in them); the images
are a batch of chains, `(sample, *parts, row, col)`. Raises to stop them."""


@dataclass(frozen=True)
class Measurement:
    """Undersampled k-space of one slice in the units of the prior, with the operator that explains it."""

    kspace: Tensor
    """Complex `(coil, row, col)`, zero where not sampled."""
    mask: Tensor
    """Boolean `(row, col)`."""
    smaps: Tensor
    """Coil sensitivity maps `(coil, row, col)` or `(set, coil, row, col)`."""
    noise_sigma: float
    """Standard deviation of each real component of the k-space noise."""
    start: Tensor | None = None
    """Another reconstruction to start from: complex `(*parts, row, col)`. None: start from noise."""
    chains: Chains = IMAGES
    """What a sample is made of, which decides what A is."""

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

    @cached_property
    def A(self) -> LinearOperator:
        """Measurement operator, from the parts of a sample `(*parts, row, col)` to k-space `(coil, row, col)`."""
        return self.chains.operator(self.smaps, self.mask)

    @cached_property
    def data(self) -> Tensor:
        """A^H y, `(*parts, row, col)`."""
        return self.A.adjoint(self.kspace)

    @property
    def first(self) -> Tensor:
        """The image that noise is put on: the start, else A^H y; `(*parts, row, col)`."""
        return self.data if self.start is None else self.start

    @cached_property
    def sense(self) -> LinearOperator:
        """`M F S` of all coils, which couples coil images; A itself where a chain is an image."""
        return sense_operator(self.smaps, self.mask) if self.chains.coil_images else self.A

    def consistent(self, x: Tensor) -> Tensor:
        """x + A^H (y - A x), `(*batch, *parts, row, col)`: data put in with weight 1 (Score-MRI Eq. 12)."""
        return x + (self.data - self.A.normal(x))
