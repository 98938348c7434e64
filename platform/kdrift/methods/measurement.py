"""What one sample of a method is made of, what it is conditioned on, and how a method reports progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kdrift.mri.coils import rss
from kdrift.mri.linop import LinearOperator, Sensitivities
from kdrift.mri.sense import coil_operator, sense_operator

LEAST_NOISE = 1e-3
"""Data are never trusted beyond this fraction of the image scale; coil maps and the model are not that good."""
Callback = Callable[[int, int, Tensor, float], None]
"""Called after each step with (steps done, steps in all, the images so far, the noise level left in them); the images
are a batch of chains, `(sample, *parts, row, col)`. Raises to stop them."""


@dataclass(frozen=True)
class Chains:
    """The chains of a sample: one image (or one a map set) that all coils see, or one image a coil."""

    coil_images: bool
    """Each chain is a coil image, `A = M F` of its own coil; else `A = M F S` of all coils."""
    splits: bool = False
    """The coils of a sample do not meet before the end, so that they may run in different processes."""

    def operator(self, smaps: Tensor, mask: Tensor) -> LinearOperator:
        """Return A, from the parts of a sample `(*parts, row, col)` to k-space `(coil, row, col)`.

        `*parts` is empty for one image, else the map sets or the coils; the operator's input shape says which.
        """
        return coil_operator(mask, tuple(smaps.shape[-3:])) if self.coil_images else sense_operator(smaps, mask)

    def start(self, image: Tensor, smaps: Tensor) -> Tensor:
        """Return the parts that an image `([set,] row, col)` starts from."""
        return Sensitivities(smaps).forward(image) if self.coil_images else image

    def energy(self, smaps: Tensor) -> Tensor:
        """Return what A makes of a unit pixel, sum_c |S_c|^2, real `([set,] row, col)`; 1 for coil images."""
        return smaps.new_ones(1, 1).real if self.coil_images else smaps.abs().square().sum(-3)

    def norm(self, x: Tensor) -> Tensor:
        """Norm of one sample's images `(*parts, row, col)` or k-space `(coil, row, col)`: of each coil where a chain
        has a coil of its own, else of all together."""
        norm: Tensor = torch.linalg.vector_norm(x, dim=(-2, -1) if self.coil_images else None)
        return norm


IMAGES = Chains(coil_images=False)
"""A sample is one image, or one for each map set, of all coils."""
COILS = Chains(coil_images=True, splits=True)
"""A sample is one image for each coil; they run on their own and are combined by root sum of squares at the end."""
COUPLED_COILS = Chains(coil_images=True)
"""A sample is one image for each coil, which steps of the method couple; combined likewise."""


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

    @cached_property
    def sampled(self) -> Tensor:
        """Positions of the samples in flattened k-space `(row * col,)`; noise of data is drawn for these alone."""
        return self.mask.flatten().nonzero()[:, 0]

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


def magnitude(x: Tensor) -> Tensor:
    """Combine samples `(sample, *parts, row, col)` to magnitudes `(sample, row, col)`: RSS over parts."""
    return rss(x) if x.ndim > 3 else x.abs()


def chain_norm(x: Tensor, num_axes: int = 2) -> Tensor:
    """Norm of each image over its last `num_axes` axes, kept with size 1, so that no batch split changes a step."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=tuple(range(-num_axes, 0)), keepdim=True)
    return norm


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b of two norms, 0 where b is 0: a score that is zero moves nothing, and makes no NaN."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)
