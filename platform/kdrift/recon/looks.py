"""The images of chains while they run: what each chunk has so far, and what that makes of their slice."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdrift.methods import Measurement
from kdrift.recon.chunks import Chunk, Part
from kdrift.recon.slices import SliceData
from kdrift.trust.uncertainty import RunningMoments

MOST_PIXELS = 384
"""Rows and columns of a look at most: of larger images every second pixel, or every third, and so on."""


@dataclass(frozen=True)
class Look:
    """The chains of one chunk after some step, on the CPU and in the unit of the slice."""

    chunk: Chunk
    images: Tensor
    """Magnitudes `(sample, row, col)`, root sum of squares over the chunk's coils; chains that have diverged hold what
    they hold."""
    misfit: Tensor
    """`(sample,)`: |M (y - A x)|^2 over the chunk's coils."""
    energy: float
    """|y|^2 over the chunk's coils."""


@dataclass(frozen=True)
class SoFar:
    """A slice while its chains run."""

    mean: Tensor
    """Magnitude `(row, col)`: of the chains for the mean where there are some, else of the samples."""
    std: Tensor
    """Standard deviation of the samples; zero where there are fewer than two, and not calibrated."""
    chains: int
    """Chains that are in either."""
    residual: float
    """|M (y - A x)| / |y| of the chains of the mean."""


def look_at(data: SliceData, measurement: Measurement, chunk: Chunk, x: Tensor) -> Look:
    """Return a look at the chains `x` `(sample, *parts, row, col)` of a chunk; `data` are those of its coils.

    This waits for the device, and costs one application of A.
    """
    images, every = data.scale * data.magnitude(x, measurement.chains), -(-max(x.shape[-2:]) // MOST_PIXELS)
    left = data.kspace - measurement.A.forward(data.scale * x + 0j)
    return Look(
        chunk,
        images[..., ::every, ::every].contiguous().cpu(),
        left.abs().square().flatten(1).sum(1).cpu(),
        float(data.kspace.abs().square().sum()),
    )


def so_far(looks: Sequence[Look], chunks: Collection[Chunk]) -> SoFar | None:
    """Return what looks at the chunks of a slice make of it, `chunks` being all there are.

    Samples of which some coils are missing, and those that are not finite, are left out; None where nothing is left.
    """
    draws, means = _joined(looks, chunks, "samples"), _joined(looks, chunks, "mean")
    best = means or draws
    if best is None:
        return None
    moments, residual = best
    spread = draws[0] if draws is not None else moments
    return SoFar(moments.mean, spread.std, moments.count + (spread.count if spread is not moments else 0), residual)


def _joined(looks: Sequence[Look], chunks: Collection[Chunk], part: Part) -> tuple[RunningMoments, float] | None:
    """Return the moments and the data residual of the chains of a part."""
    images, misfits, energy = list[Tensor](), list[Tensor](), 0.0
    for samples in sorted({look.chunk.samples for look in looks if look.chunk.part == part}):
        found = [look for look in looks if (look.chunk.part, look.chunk.samples) == (part, samples)]
        if len(found) == sum((chunk.part, chunk.samples) == (part, samples) for chunk in chunks):
            images.append(torch.stack([look.images for look in found]).square().sum(0).sqrt())
            misfits.append(torch.stack([look.misfit for look in found]).sum(0))
            energy = sum(look.energy for look in found)
    if not images:
        return None
    every, misfit = torch.cat(images), torch.cat(misfits)
    finite = every.flatten(1).isfinite().all(1) & misfit.isfinite()
    if not bool(finite.any()):
        return None
    residual = (float(misfit[finite].mean()) / energy) ** 0.5 if energy > 0 else 0.0
    return RunningMoments.of(every[finite]), residual
