"""Annotations of pathology in the form of fastMRI+ (Zhao et al. 2022), and boxes on slices.

fastMRI+ was drawn on `reconstruction_rss` turned upside down (its README and notebook): row 0 of a box is the last row
of the array. Boxes stay in that frame here, and images are turned to it (`upright`), so that detectors trained on
fastMRI+ and pictures see what the radiologists saw.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

COLUMNS = ("file", "slice", "study_level", "x", "y", "width", "height", "label")
STUDY_LEVEL = {"yes", "true", "1"}
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Boxes:
    """Boxes on one slice, in pixels of the upright image."""

    corners: Array
    """`(box, 4)`: x and y of the upper left corner, then of the lower right one; x counts columns, y rows."""
    labels: tuple[str, ...]
    scores: Array
    """`(box,)`: the confidence of a detector, 1 for annotations."""

    def __post_init__(self) -> None:
        count = len(self.labels)
        if self.corners.shape != (count, 4) or self.scores.shape != (count,):
            shapes = f"corners {self.corners.shape}, scores {self.scores.shape} and {count} labels"
            raise ValueError(f"{count} boxes need corners ({count}, 4) and scores ({count},), got {shapes}")
        if not np.isfinite(self.corners).all() or not np.isfinite(self.scores).all():
            raise ValueError("corners and scores of boxes must be finite")
        if count and (self.corners[:, 2:] < self.corners[:, :2]).any():
            raise ValueError("corners of a box are x0, y0, x1, y1 with x0 <= x1 and y0 <= y1")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def areas(self) -> Array:
        """Areas `(box,)` in pixels."""
        sides = self.corners[:, 2:] - self.corners[:, :2]
        return np.asarray(sides[:, 0] * sides[:, 1])

    def where(self, wanted: Array) -> Boxes:
        """Return those of a boolean `(box,)`."""
        labels = tuple(label for label, take in zip(self.labels, wanted, strict=True) if take)
        return Boxes(self.corners[wanted], labels, self.scores[wanted])

    def of(self, label: str) -> Boxes:
        """Return those of one label."""
        return self.where(np.array([each == label for each in self.labels], dtype=bool))


NO_BOXES = Boxes(np.zeros((0, 4)), (), np.zeros(0))


def upright(image: Array) -> Array:
    """Return an image `(*batch, row, col)` of kdrift as annotations see it, upside down; twice is the same again."""
    return image[..., ::-1, :]


@dataclass(frozen=True)
class Annotations:
    """What a file of annotations holds."""

    boxes: Mapping[str, Mapping[int, Boxes]]
    """Boxes by name of the file and slice, which counts from 0."""
    files: frozenset[str]
    """All files it names, those with labels of the whole study alone among them."""
    study_level: int
    """Rows that label a whole study: they have no box, and are not used."""

    @property
    def labels(self) -> list[str]:
        """Labels that some box has, sorted."""
        found = {label for slices in self.boxes.values() for boxes in slices.values() for label in boxes.labels}
        return sorted(found)

    def file_of(self, volume: str) -> str | None:
        """Return the file that a volume was made of: of its name, or what its name ends in after `_`; None: no such.

        Raises ValueError where two files fit.
        """
        if volume in self.files:
            return volume
        fitting = [file for file in self.files if volume.endswith(f"_{file}")]
        longest = max(fitting, key=len, default=None)
        if sum(len(file) == len(longest or "") for file in fitting) > 1:
            raise ValueError(f"volume {volume} fits several annotated files: {', '.join(sorted(fitting))}")
        return longest


def read_annotations(path: str | os.PathLike[str]) -> Annotations:
    """Read annotations, one box a row: file, slice, study_level, x, y, width, height, label.

    x and y are the upper left corner of the box in the upright image, in pixels. Rows with study_level Yes have no box.

    Raises ValueError, with the line, for missing columns and for what is no number, no slice or no box.
    """
    path = Path(path)
    boxes: dict[str, dict[int, list[tuple[Array, str]]]] = {}
    files, study_level = set[str](), 0
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if lacking:
            have = ", ".join(reader.fieldnames or ()) or "none"
            raise ValueError(f"{path} lacks the columns {', '.join(lacking)} of fastMRI+; it has {have}")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            files.add(row["file"].removesuffix(".h5"))
            if (row["study_level"] or "").strip().lower() in STUDY_LEVEL:
                study_level += 1
                continue
            number, corners, label = _box(row, where)
            boxes.setdefault(row["file"].removesuffix(".h5"), {}).setdefault(number, []).append((corners, label))
    made = {
        file: {
            number: Boxes(np.stack([c for c, _ in found]), tuple(label for _, label in found), np.ones(len(found)))
            for number, found in slices.items()
        }
        for file, slices in boxes.items()
    }
    return Annotations(made, frozenset(files), study_level)


def _box(row: Mapping[str, str], where: str) -> tuple[int, Array, str]:
    try:
        number = int(row["slice"])
        x, y, width, height = (float(row[name]) for name in ("x", "y", "width", "height"))
    except (TypeError, ValueError):
        said = ", ".join(f"{name} {row[name]!r}" for name in COLUMNS[1:7])
        raise ValueError(f"{where}: expected a slice and numbers of a box, got {said}") from None
    label = (row["label"] or "").strip()
    if number < 0 or not (width > 0 and height > 0) or not np.isfinite([x, y, width, height]).all() or not label:
        raise ValueError(
            f"{where}: expected a slice from 0, a width and height above 0 and a label, got slice {number},"
            f" {width:g} x {height:g} at ({x:g}, {y:g}), label {label!r}"
        )
    return number, np.array([x, y, x + width, y + height]), label
