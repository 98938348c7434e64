"""Independent chains of one slice, split into chunks that run anywhere, and merged to a mean and a deviation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from kdrift.recon.guard import Diverged, Divergence
from kdrift.trust.uncertainty import RunningMoments


@dataclass(frozen=True)
class Chunk:
    """Chains that run as one batch: samples `[start, stop)`, of all coils or of some."""

    samples: tuple[int, int]
    coils: tuple[int, int] | None = None
    """Coils `[start, stop)`; None: all of them, as every method needs whose coils are combined or coupled."""

    @property
    def num_samples(self) -> int:
        """Samples in the chunk."""
        return self.samples[1] - self.samples[0]


@dataclass(frozen=True)
class Fallback:
    """CG-SENSE of a slice, for where no sample is left."""

    image: Tensor
    """Magnitude `(row, col)`."""
    misfit: float
    """|M (y - A x)|^2."""


@dataclass(frozen=True)
class ChunkResult:
    """What a chunk gives back; images are magnitudes in the unit of the slice, on the CPU."""

    chunk: Chunk
    moments: RunningMoments | None
    """Moments of the images that have not diverged; None for a chunk of some coils, whose images are no samples yet."""
    images: Tensor | None
    """`(sample, row, col)`, root sum of squares over the chunk's coils, NaN where diverged; None where samples are not
    asked for."""
    misfit: Tensor
    """`(sample,)`: |M (y - A x)|^2 over the chunk's coils."""
    nfe: int
    """Network evaluations of one chain."""
    network_images: int
    """Real images that went through the network."""
    stages: dict[str, float]
    """Seconds in `network`, `sampler` (outside the network) and `combine`."""
    heldout: Tensor | None = None
    """Complex `(sample, coil, point)`: y - A x at the slice's held-out points."""
    diverged: tuple[Divergence, ...] = ()
    """Samples of the chunk that diverged, in any of its coils."""
    fallback: Fallback | None = None
    """CG-SENSE of the slice, where samples diverged and the plan asks for it."""


@dataclass(frozen=True)
class SliceResult:
    """All chunks of a slice together, in the unit of the slice."""

    mean: Tensor
    """Magnitude `(row, col)`."""
    std: Tensor
    samples: Tensor | None
    """`(sample, row, col)` where every chunk kept its images; NaN where diverged."""
    misfit: float
    """Mean over samples of |M (y - A x)|^2."""
    nfe: int
    network_images: int
    stages: dict[str, float]
    heldout_misfit: float | None = None
    """|y - A x|^2 at the held-out samples, x the mean of the complex samples, where the slice has held-out samples."""
    diverged: dict[int, str] = field(default_factory=dict)
    """Numbers of the samples that diverged and are left out, and when and why."""
    fallback: bool = False
    """Whether all samples diverged: then `mean` is CG-SENSE and `std` zero."""


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
    coil_parts = 1 if num_coils is None else min(num_coils, -(-num_chunks // by_sample))
    coils: Sequence[tuple[int, int] | None] = [None] if coil_parts == 1 else _parts(num_coils or 1, coil_parts)
    return [Chunk(samples, part) for samples in _parts(num_samples, by_sample) for part in coils]


def merge_chunks(results: Sequence[ChunkResult]) -> SliceResult:
    """Merge the chunks of one slice, in the order of their samples whatever the order they come in.

    A sample that diverged in any chunk is left out. Raises ValueError unless the chunks hold every sample from 0 on
    exactly once, and `Diverged` where no sample is left and no chunk has a fallback.
    """
    groups: dict[tuple[int, int], list[ChunkResult]] = {}
    for result in sorted(results, key=lambda r: (r.chunk.samples, r.chunk.coils or (0, 0))):
        groups.setdefault(result.chunk.samples, []).append(result)
    moments, images, misfits, expected = None, [], [], 0
    heldout: list[Tensor] = []
    diverged: dict[int, Divergence] = {}
    for (start, stop), parts in groups.items():
        if start != expected:
            raise ValueError(f"chunks hold samples {start} to {stop - 1}, expected the next to start at {expected}")
        expected = stop
        for seen in sorted((d for part in parts for d in part.diverged), key=lambda d: d.step):
            diverged.setdefault(seen.sample, seen)
        rows = [sample - start for sample in range(start, stop) if sample not in diverged]
        found, kept = _join_coils(parts, rows)
        moments = found if moments is None else moments if found is None else moments.merge(found)
        images.append(kept)
        misfits.append(torch.stack([part.misfit for part in parts]).sum(0)[rows])
        unseen = [part.heldout for part in parts if part.heldout is not None]
        heldout += [torch.cat(unseen, 1)[rows]] if rows and unseen else []
    if not results:
        raise ValueError("expected at least one chunk, got none")
    fallback = None
    if moments is None:
        fallback = _fallback(results, list(diverged.values()))
        moments = RunningMoments.of(fallback.image[None])
    whole = [image for image in images if image is not None]
    return SliceResult(
        mean=moments.mean,
        std=moments.std,
        samples=torch.cat(whole) if len(whole) == len(images) else None,
        misfit=fallback.misfit if fallback else float(torch.cat(misfits).mean()),
        nfe=max(r.nfe for r in results),
        network_images=sum(r.network_images for r in results),
        stages={name: sum(r.stages[name] for r in results) for name in results[0].stages},
        heldout_misfit=float(torch.cat(heldout).mean(0).abs().square().sum()) if heldout else None,
        diverged={sample: str(diverged[sample]) for sample in sorted(diverged)},
        fallback=fallback is not None,
    )


def _join_coils(parts: list[ChunkResult], rows: list[int]) -> tuple[RunningMoments | None, Tensor | None]:
    """Return the moments of the samples in `rows` of a chunk, None where there are none, and all images."""
    first = parts[0]
    if first.chunk.coils is None:
        return first.moments, first.images
    images = torch.stack([part.images for part in parts if part.images is not None]).square().sum(0).sqrt()
    return RunningMoments.of(images[rows]) if rows else None, images


def _fallback(results: Sequence[ChunkResult], diverged: list[Divergence]) -> Fallback:
    for result in results:
        if result.fallback is not None:
            return result.fallback
    first = min(diverged, key=lambda d: d.step)
    count = f"all {len(diverged)} samples" if len(diverged) > 1 else "the sample"
    raise Diverged(
        f"slice {first.slice_index}: {count} diverged, sample {first.sample} at {first}; take more or smaller steps,"
        " a prior of such images, or on-divergence fallback, which gives CG-SENSE"
    )


def _parts(count: int, parts: int) -> list[tuple[int, int]]:
    return list(pairwise(count * i // parts for i in range(parts + 1)))
