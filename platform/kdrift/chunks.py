"""Independent chains of one slice, split into chunks that run anywhere, and merged to a mean and a deviation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from kdrift.uncertainty import RunningMoments


@dataclass(frozen=True)
class Chunk:
    """Chains that run as one batch: samples `[start, stop)`, of all coils or of some."""

    samples: tuple[int, int]
    coils: tuple[int, int] | None = None
    """None: all of them, as every method needs whose coils are combined or coupled."""

    @property
    def num_samples(self) -> int:
        """Samples in the chunk."""
        return self.samples[1] - self.samples[0]


@dataclass(frozen=True)
class ChunkResult:
    """What a chunk gives back; images are magnitudes on the scale of the data, on the CPU."""

    chunk: Chunk
    moments: RunningMoments | None
    """Of the images; None for a chunk of some coils, whose images are no samples yet."""
    images: Tensor | None
    """`(sample, row, col)`, root sum of squares over the chunk's coils; None where samples are not asked for."""
    misfit: Tensor
    """`(sample,)`: |M (y - A x)|^2 over the chunk's coils."""
    nfe: int
    """Network evaluations of one chain."""
    network_images: int
    """Real images that went through the network."""
    stages: dict[str, float]
    """Seconds in `network`, `sampler` (outside the network) and `combine`."""
    heldout: Tensor | None = None
    """Complex `(coil, point)`: y - A x at the slice's held-out samples, mean over the chunk's samples x."""


@dataclass(frozen=True)
class SliceResult:
    """All chunks of a slice together."""

    mean: Tensor
    """Magnitude `(row, col)`."""
    std: Tensor
    samples: Tensor | None
    """`(sample, row, col)` where every chunk kept its images."""
    misfit: float
    """Mean over samples of |M (y - A x)|^2."""
    nfe: int
    network_images: int
    stages: dict[str, float]
    heldout_misfit: float | None = None
    """|y - A x|^2 at the held-out samples, x the mean of the complex samples, where the slice has held-out samples."""


def split_chains(
    num_samples: int, *, num_coils: int | None = None, num_chunks: int = 1, batch_samples: int = 8
) -> list[Chunk]:
    """Split the chains of a slice into about equal chunks, a multiple of `num_chunks` where there are enough chains.

    Samples are split first; with `num_coils`, the coils of a method whose coils are independent, those too once
    there are fewer samples than chunks. No chunk holds more than `batch_samples` samples.
    """
    if num_samples < 1 or num_chunks < 1 or batch_samples < 1:
        raise ValueError(
            f"num_samples, num_chunks and batch_samples must be at least 1, got {num_samples}, {num_chunks},"
            f" {batch_samples}"
        )
    rounds = -(-num_samples // (batch_samples * num_chunks))
    by_sample = min(num_samples, rounds * num_chunks)
    by_coil = 1 if num_coils is None else min(num_coils, -(-num_chunks // by_sample))
    coils: Sequence[tuple[int, int] | None] = [None] if by_coil == 1 else _parts(num_coils or 1, by_coil)
    return [Chunk(samples, part) for samples in _parts(num_samples, by_sample) for part in coils]


def merge_chunks(results: Sequence[ChunkResult]) -> SliceResult:
    """Merge the chunks of one slice, in the order of their samples whatever the order they come in.

    Raises ValueError unless they hold every sample from 0 on exactly once.
    """
    groups: dict[tuple[int, int], list[ChunkResult]] = {}
    for result in sorted(results, key=lambda r: (r.chunk.samples, r.chunk.coils or (0, 0))):
        groups.setdefault(result.chunk.samples, []).append(result)
    moments, images, misfits, expected = None, [], [], 0
    heldout: list[Tensor] = []
    for (start, stop), parts in groups.items():
        if start != expected:
            raise ValueError(f"chunks hold samples {start} to {stop - 1}, expected the next to start at {expected}")
        expected = stop
        found, kept = _join_coils(parts)
        moments = found if moments is None else moments.merge(found)
        images.append(kept)
        misfits.append(torch.stack([part.misfit for part in parts]).sum(0))
        unseen = [part.heldout for part in parts if part.heldout is not None]
        heldout += [torch.cat(unseen) * (stop - start)] if unseen else []
    if moments is None:
        raise ValueError("expected at least one chunk, got none")
    whole = [image for image in images if image is not None]
    return SliceResult(
        mean=moments.mean,
        std=moments.std,
        samples=torch.cat(whole) if len(whole) == len(images) else None,
        misfit=float(torch.cat(misfits).mean()),
        nfe=results[0].nfe,
        network_images=sum(r.network_images for r in results),
        stages={name: sum(r.stages[name] for r in results) for name in results[0].stages},
        heldout_misfit=float((torch.stack(heldout).sum(0) / expected).abs().square().sum()) if heldout else None,
    )


def _join_coils(parts: list[ChunkResult]) -> tuple[RunningMoments, Tensor | None]:
    first = parts[0]
    if first.moments is not None:
        return first.moments, first.images
    images = torch.stack([part.images for part in parts if part.images is not None]).square().sum(0).sqrt()
    return RunningMoments.of(images), images


def _parts(count: int, parts: int) -> list[tuple[int, int]]:
    edges = [count * i // parts for i in range(parts + 1)]
    return list(pairwise(edges))
