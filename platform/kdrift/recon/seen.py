"""What was seen of k-space when it was read: all that the results of a volume say of it, slice by slice.

Who reconstructs slices of a volume apart reads each of them once, and puts together what was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kdrift.data.measured import Marks
from kdrift.data.volume import FloatArray


@dataclass(frozen=True)
class Doubts:
    """What is doubtful about slices, which is looked for in the strongest."""

    peak: float = 0.0
    """The largest magnitude of k-space."""
    sentences: tuple[str, ...] = ()
    """About the slice that holds it."""
    fault: ValueError | None = None
    """What is wrong with it."""

    @classmethod
    def found(cls, peak: float, look: Callable[[], tuple[str, ...]], judge: bool) -> Doubts:
        """Look for doubts; a fault is raised with `judge`, else kept until the slice is known for the strongest."""
        try:
            return cls(peak, look())
        except ValueError as error:
            if judge:
                raise
            return cls(peak, fault=error)

    @property
    def told(self) -> tuple[str, ...]:
        """What is said; raises the fault, where there is one."""
        if self.fault is not None:
            raise self.fault
        return self.sentences


@dataclass(frozen=True)
class Seen:
    """What was seen of the k-space of some slices."""

    marks: Marks
    doubts: Doubts
    """As it was read."""
    mask_doubts: Doubts
    """About a mask of a file beside it."""
    shown: FloatArray | None
    """Root sum of squares of all that was measured, `(slice, row, col)`; None where nothing is compared with it."""

    @staticmethod
    def join(parts: Sequence[Seen]) -> Seen:
        """Put slices together, in their order: what is doubtful is said of the strongest."""
        shown = [part.shown for part in parts if part.shown is not None]
        return Seen(
            Marks(*(np.concatenate([getattr(part.marks, name) for part in parts]) for name in ("nonzero", "residue"))),
            max((part.doubts for part in parts), key=lambda doubts: doubts.peak),
            max((part.mask_doubts for part in parts), key=lambda doubts: doubts.peak),
            np.concatenate(shown) if shown else None,
        )
