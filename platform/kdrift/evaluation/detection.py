"""How well boxes were found: overlap, matching, average precision, precision and recall, agreement of two methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdrift.evaluation.annotations import Array, Boxes

OVERLAP = 0.5
"""Intersection over union from which a box was found: the 50 of mAP50."""
MOST = 100
"""Detections of one class on one image that count, those of highest score (COCO)."""
Pair = tuple[Boxes, Boxes]
"""Detections and annotations of one image."""


def intersection_over_union(a: Boxes, b: Boxes) -> Array:
    """Return |A and B| / |A or B| of every pair, `(box of a, box of b)`."""
    low = np.maximum(a.corners[:, None, :2], b.corners[None, :, :2])
    high = np.minimum(a.corners[:, None, 2:], b.corners[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=-1)
    either = a.areas[:, None] + b.areas[None] - both
    return np.asarray(np.divide(both, either, out=np.zeros_like(both), where=either > 0))


def match(found: Boxes, truth: Boxes) -> Array:
    """Return which box of `truth` each of `found` is, -1 for none, `(box,)`: as COCO does.

    By falling score, each takes the box of its label with the largest overlap, of at least `OVERLAP`, that is left.
    """
    overlap = intersection_over_union(found, truth)
    same = np.array([[a == b for b in truth.labels] for a in found.labels], dtype=bool).reshape(overlap.shape)
    free, taken = np.ones(len(truth), dtype=bool), np.full(len(found), -1)
    for index in np.argsort(-found.scores, kind="stable"):
        allowed = np.where(same[index] & free, overlap[index], 0)
        best = int(np.argmax(allowed)) if len(truth) else -1
        if best >= 0 and allowed[best] >= OVERLAP:
            taken[index], free[best] = best, False
    return taken


def average_precision(images: Sequence[Pair]) -> float | None:
    """Return the average precision of one class over images, None where nothing is annotated.

    The mean over recalls 0, 0.01, ..., 1 of the highest precision at that recall or above, as COCO defines it.
    """
    scores, hits, total = [np.zeros(0)], [np.zeros(0, dtype=bool)], 0
    for found, truth in images:
        kept = found.where(np.argsort(np.argsort(-found.scores, kind="stable")) < MOST)
        scores.append(kept.scores)
        hits.append(match(kept, truth) >= 0)
        total += len(truth)
    if total == 0:
        return None
    order = np.argsort(-np.concatenate(scores), kind="stable")
    right = np.cumsum(np.concatenate(hits)[order])
    recall, precision = right / total, right / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.append(best, 0.0)[np.minimum(at, len(best))].mean())


def average_precisions(images: Sequence[Pair], labels: Sequence[str]) -> dict[str, float | None]:
    """Return the average precision of each label; their mean over labels that are annotated is mAP50."""
    return {label: average_precision([(f.of(label), t.of(label)) for f, t in images]) for label in labels}


@dataclass(frozen=True)
class Counts:
    """Boxes that were found rightly, found where there is none, and missed, above a confidence."""

    right: int
    wrong: int
    missed: int

    @property
    def precision(self) -> float | None:
        """Share of the boxes found that are right; None where none was found."""
        return self.right / (self.right + self.wrong) if self.right + self.wrong else None

    @property
    def recall(self) -> float | None:
        """Share of the annotated boxes that were found; None where none is annotated."""
        return self.right / (self.right + self.missed) if self.right + self.missed else None

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 2 right / (2 right + wrong + missed)."""
        total = 2 * self.right + self.wrong + self.missed
        return 2 * self.right / total if total else 0.0


def count(images: Sequence[Pair], confidence: float) -> Counts:
    """Count over images and labels what is found with a score of at least `confidence`."""
    right = wrong = missed = 0
    for found, truth in images:
        kept = found.where(found.scores >= confidence)
        hits = int((match(kept, truth) >= 0).sum())
        right, wrong, missed = right + hits, wrong + len(kept) - hits, missed + len(truth) - hits
    return Counts(right, wrong, missed)


def best_confidence(images: Sequence[Pair]) -> float:
    """Return the score at which F1 is largest, the highest of several; 0.5 where nothing is right at any."""
    scores = np.unique(np.concatenate([np.zeros(0), *(found.scores for found, _ in images)]))[::-1]
    values = [count(images, float(score)).f1 for score in scores]
    return float(scores[int(np.argmax(values))]) if values and max(values) > 0 else 0.5


@dataclass(frozen=True)
class Agreement:
    """Differences between what two methods measured of the same (Bland and Altman 1986)."""

    points: Mapping[str, tuple[float, float]]
    """Mean of both and second minus first, by what it is of."""

    @property
    def bias(self) -> float | None:
        """Mean difference; None without points."""
        return float(np.mean(self._differences)) if self.points else None

    @property
    def std(self) -> float | None:
        """Standard deviation of the differences (ddof 1); None below two points."""
        return float(np.std(self._differences, ddof=1)) if len(self.points) > 1 else None

    @property
    def limits(self) -> tuple[float, float] | None:
        """Limits of agreement, bias -+ 1.96 standard deviations."""
        if self.bias is None or self.std is None:
            return None
        return self.bias - 1.96 * self.std, self.bias + 1.96 * self.std

    @property
    def _differences(self) -> list[float]:
        return [difference for _, difference in self.points.values()]


def agreement(pairs: Mapping[str, tuple[float, float]]) -> Agreement:
    """Return the agreement of pairs (first, second), by what they are of."""
    return Agreement({name: ((a + b) / 2, b - a) for name, (a, b) in pairs.items()})
