"""What one sample of a method is made of: an image, one for each map set, or one for each coil. Nothing else asks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdrift.mri.coils import rss
from kdrift.mri.linop import LinearOperator, Sensitivities
from kdrift.mri.sense import coil_operator, sense_operator


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
