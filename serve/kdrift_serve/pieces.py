"""What planner and samplers tell each other: pieces of work, how far they are, and what comes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from kdrift.recon.chunks import Chunk, ChunkResult
from kdrift.recon.gather import SliceFacts
from kdrift.recon.looks import Look
from kdrift.recon.resolved import ResolvedPlan
from kdrift.recon.slices import SliceData
from kdrift_serve.jobs import SliceVerdict


class Step(NamedTuple):
    """How far the chains of a piece are."""

    done: int
    """Steps, and `total` in all."""
    total: int
    look: Look | None
    """Now and then, a look at its images."""


Prepared = tuple[SliceData, SliceFacts]
"""A slice that is ready, and what its result tells of it."""


@dataclass(frozen=True)
class Piece:
    """Work that may share a call, and the network's batches, with others: a slice to prepare, or chains of one."""

    plan: ResolvedPlan
    prior: str
    """Served name of the prior; a classical method does not use it."""
    job_id: str
    position: int
    """Place of the slice among those that the job chose."""
    chunk: Chunk | None = None
    """Chains to run; None: prepare the slice, that is estimate its coil maps, noise and scale."""


@dataclass(frozen=True)
class Failed:
    """Why a piece of work has no result, where its data are not to blame as far as one knows."""

    error: str
    """Class of the exception; the log of the sampler has the rest."""
    memory: bool = False
    """Whether memory was short, which it may not be without the others of the call."""
    storage: str = ""
    """Why the storage could not be used, where that is what went wrong: it may be usable later."""


Found = Prepared | ChunkResult | str | Failed
"""What comes of a piece: a sentence where its data are to blame."""


@dataclass(frozen=True)
class Done:
    """What a finished job has."""

    report: dict[str, Any]
    verdicts: dict[str, SliceVerdict]
    size: int
