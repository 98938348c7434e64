"""A job: one request, what is known of its data, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from kdrift.trust.verdict import Level

State = Literal["reading", "queued", "running", "done", "failed", "cancelled", "interrupted"]
"""`reading` while its data are received and read; no client sees that."""
ACTIVE = ("queued", "running")
OUTPUTS_ZIP = "outputs.zip"
"""The outputs of a job besides `reconstruction.h5`, where it asked for some."""


@dataclass(frozen=True)
class SliceVerdict:
    """Whether the image of a slice is to be believed; the numbers are in `Job.report`."""

    level: Level
    sentence: str
    """The verdict with its reasons, in plain words."""
    given: str = ""
    """The classical method whose image is given in place of the mean; empty: the mean is given."""


@dataclass(frozen=True)
class Job:
    """One request and what became of it."""

    id: str
    state: State
    name: str
    """Name of the file, for people."""
    key: str
    """Name of the API key that sent it; empty where the service asks for none."""
    service: str
    """The service that runs it; clients never see it."""
    request: dict[str, Any] = field(default_factory=dict)
    prior: dict[str, Any] = field(default_factory=dict)
    """Name, version and sha256; empty for a classical method."""
    config: dict[str, Any] = field(default_factory=dict)
    """The resolved configuration, as results hold it."""
    sampling: str = ""
    slices: list[int] = field(default_factory=list)
    created: float = 0.0
    """When it was accepted, in seconds since 1970; `started` and `finished` alike."""
    started: float | None = None
    finished: float | None = None
    changed: float = 0.0
    """When its row was last written, by the clock of the table."""
    detail: str = ""
    """Why it has no result."""
    notes: list[str] = field(default_factory=list)
    """What was guessed, left out or is doubtful of the data; `report` adds what was found later."""
    verdicts: dict[str, SliceVerdict] = field(default_factory=dict)
    """By the number of the slice, once it is done; none of a classical method."""
    report: dict[str, Any] = field(default_factory=dict)
    """What metrics.json holds, once it is done."""
    progress: dict[str, Any] = field(default_factory=dict)
    """Network evaluations and slices done and in all, and the seconds left, as its samplers last said."""
    cancel: bool = False
    """Whether its end was asked for."""
    size: int = 0
    """Bytes that it holds in storage, about."""
