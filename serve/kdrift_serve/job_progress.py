"""How far a job is, counted in network evaluations of all its slices and chunks."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from kdrift.recon.chunks import Chunk


@dataclass
class SliceProgress:
    """How far one slice is."""

    costs: dict[Chunk, int] = field(default_factory=dict)
    """Network evaluations of each chunk, all of its chains: chunks differ in length. Empty: not known yet, or done."""
    shares: dict[Chunk, float] = field(default_factory=dict)
    """What is done of each chunk, 0 to 1."""

    @property
    def total(self) -> int:
        """Evaluations in all."""
        return sum(self.costs.values())

    @property
    def done(self) -> float:
        """Evaluations done."""
        return sum(cost * self.shares.get(chunk, 0.0) for chunk, cost in self.costs.items())


@dataclass
class Progress:
    """How far a job is."""

    num_slices: int
    began_with: int = 0
    """Slices that were done before this service took the job over."""
    slices_done: int = 0
    began: float | None = None
    """When its first work began here, monotonic seconds."""
    running: dict[int, SliceProgress] = field(default_factory=dict)
    """By the number of the slice."""
    evaluations: int = 0
    """Those of a slice, as the first that was prepared says: 0 for a classical method."""
    waits_for: str = ""
    """Why nothing can be kept of it now."""

    def view(self) -> dict[str, Any]:
        """Return evaluations and slices done and in all, and the seconds left, as JSON values."""
        here = sum(each.done for each in self.running.values())
        parts = sum(each.done / each.total for each in self.running.values() if each.total)
        fraction = (self.slices_done + parts) / self.num_slices
        left, own = None, fraction - self.began_with / self.num_slices
        if self.began is not None and own > 0:
            left = round((time.monotonic() - self.began) * (1 - fraction) / own, 1)
        return {
            "evaluations_done": round(self.slices_done * self.evaluations + here),
            "evaluations_total": self.evaluations * self.num_slices or None,
            "slices_done": self.slices_done,
            "slices_total": self.num_slices,
            "fraction": round(fraction, 4),
            "seconds_left": left,
            "waits_for": self.waits_for or None,
        }
