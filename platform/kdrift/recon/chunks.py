"""Independent chains of one slice, split into chunks that run anywhere, and what each gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor

from kdrift.recon.guard import Divergence
from kdrift.trust.uncertainty import RunningMoments
from kdrift.trust.verdict import Verdict

Part = Literal["samples", "mean", "check"]
"""What chains are for: posterior samples; the mean, where other settings give a better one; or to predict measured
samples that are held out from them."""


@dataclass(frozen=True)
class Chunk:
    """Chains that run as one batch: samples `[start, stop)`, of all coils or of some."""

    samples: tuple[int, int]
    coils: tuple[int, int] | None = None
    """Coils `[start, stop)`; None: all of them, as every method needs whose coils are combined or coupled."""
    part: Part = "samples"
    """What its chains are for; each part numbers its samples from 0."""

    @property
    def num_samples(self) -> int:
        """Samples in the chunk."""
        return self.samples[1] - self.samples[0]


@dataclass(frozen=True)
class Fallback:
    """A classical reconstruction of a slice, in place of samples."""

    method: str
    image: Tensor
    """Magnitude `(row, col)`."""
    misfit: float
    """|M (y - A x)|^2."""


@dataclass(frozen=True)
class Checked:
    """What the chunk that checks a slice found."""

    verdict: Verdict
    instead: Fallback | None = None
    """The classical method that predicted best, where the image is not trusted and the plan asks for it."""


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
    checked: Checked | None = None
    """What was found out of the slice, by the chunk of that part."""


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


def _parts(count: int, parts: int) -> list[tuple[int, int]]:
    return list(pairwise(count * i // parts for i in range(parts + 1)))
