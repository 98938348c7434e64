"""What reconstructions keep of pathology: a detector's boxes on them, on full images and by radiologists.

Chung & Ye 2022 (Score-MRI), sections 4.6 and 5.4, figures 6, 7 and 12.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kdrift.evaluation.annotations import NO_BOXES, Annotations, Array, Boxes, read_annotations, upright
from kdrift.evaluation.detection import (
    OVERLAP,
    Agreement,
    Pair,
    agreement,
    average_precisions,
    best_confidence,
    count,
    match,
)
from kdrift.evaluation.detector import Detector, load_detector
from kdrift.evaluation.pathology_report import markdown
from kdrift.notice import RESEARCH_ONLY
from kdrift.runs.files import check_folder, file_sha256, write_json, write_text
from kdrift.runs.home import at_home
from kdrift.runs.remote import copied

FULL = "full"
"""Name of the images of full data among the methods."""
RECONSTRUCTION = "reconstruction.h5"
WRITTEN = ("boxes.png", "agreement.png", "pathology.md", "pathology.json")
"""What is written, in this order."""
Key = tuple[str, int]
"""A volume and the number of a slice."""


@dataclass(frozen=True)
class Reconstruction:
    """A file that `kdrift reconstruct` wrote, with the images of full data beside the reconstructed ones."""

    path: Path
    method: str
    volume: str
    slices: tuple[int, ...]
    failed: frozenset[int]

    def image(self, number: int, name: str = "reconstruction") -> Array:
        """Return a slice `(row, col)`, upright; `reference` is that of full data."""
        with h5py.File(self.path) as file:
            return np.asarray(upright(file[name][self.slices.index(number)]))


@dataclass(frozen=True)
class Study:
    """What was found on every slice."""

    found: Mapping[str, Mapping[Key, Boxes]]
    """Detections by method, `full` first, and slice; all methods have the same slices."""
    truth: Mapping[Key, Boxes]
    """Annotations of the same slices."""
    labels: tuple[str, ...]
    """Labels that are annotated there."""
    files: Mapping[tuple[str, str], Reconstruction]
    """By method and volume."""
    notes: tuple[str, ...]

    def pairs(self, method: str) -> list[Pair]:
        """Return detections and annotations of every slice."""
        return [(boxes, self.truth[key]) for key, boxes in self.found[method].items()]


def pathology(
    annotations: str | os.PathLike[str],
    detector: str | os.PathLike[str],
    reconstructions: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    confidence: float | None = None,
    echo: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Detect pathology on reconstructions and full images; write `pathology.json`, `.md` and two pictures to `out`.

    Whatever is read or written may be at an fsspec URL.

    Parameters
    ----------
    annotations
        Boxes in the form of fastMRI+ (`read_annotations`).
    detector
        Exported graph, see `kdrift.evaluation.detector`; `classes` are the names of its labels.
    reconstructions
        Folders with files that `kdrift reconstruct` or `kdrift evaluate` wrote of undersampled full data.
    confidence
        Score from which a box counts for precision, recall and agreement; None: that of the largest F1 on full images.

    Raises
    ------
    ValueError
        Where nothing is found or annotated, a file has no reference, methods have other slices than another, or nothing
        can be read or written at a URL.
    """
    if confidence is not None and not 0 <= confidence <= 1:
        raise ValueError(f"confidence is {confidence}, expected a score from 0 to 1")
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(at_home(out, what="study of pathology", echo=echo, wanted=lambda remote: WRITTEN))
        check_folder(home.folder, WRITTEN)
        marks, graph = stack.enter_context(copied(annotations)), stack.enter_context(copied(detector))
        folders = [stack.enter_context(copied(path, _is_reconstruction)) for path in reconstructions]
        return _pathology(marks, graph, folders, home.folder, classes, confidence, echo)


def _pathology(
    annotations: Path, detector: Path, reconstructions: Sequence[Path], out: Path, classes: Sequence[str] | None,
    confidence: float | None, echo: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    from kdrift.evaluation.pathology_figures import save_agreement, save_boxes

    marked = read_annotations(annotations)
    study = detect_all(marked, load_detector(detector, classes), find_reconstructions(reconstructions), echo)
    report: dict[str, Any] = {
        "annotations": {"file": annotations.name, "study_level_rows_not_used": marked.study_level},
        "detector": {"file": detector.name, "sha256": file_sha256(detector)},
        "overlap": OVERLAP,
        "notice": RESEARCH_ONLY,
        **measure(study, confidence),
        "notes": list(study.notes),
    }
    save_boxes(out / "boxes.png", study, report["confidence"])
    save_agreement(out / "agreement.png", agreements(study, report["confidence"]))
    write_text(out / "pathology.md", markdown(report))
    write_json(out / "pathology.json", report)
    return report


def find_reconstructions(folders: Sequence[str | os.PathLike[str]]) -> list[Reconstruction]:
    """Return the reconstructions below folders, called by the folders between: `MASK/METHOD` of an evaluation.

    Raises ValueError where there is none, where two are of one method and volume, and for files without a reference.
    """
    found: dict[tuple[str, str], Reconstruction] = {}
    for folder in map(Path, folders):
        paths = sorted(folder.rglob(RECONSTRUCTION))
        if not paths:
            raise ValueError(f"{folder} holds no reconstruction.h5: name a folder that kdrift wrote")
        for path in paths:
            inside = path.parent.relative_to(folder).parts[:-1]
            made = _open(path, "/".join(inside) or folder.resolve().name)
            key = made.method, made.volume
            if key in found:
                raise ValueError(f"{path} and {found[key].path} are both of {made.volume} by {made.method}")
            if made.method == FULL:
                raise ValueError(f"{folder}: {FULL!r} names the images of full data, call the folder otherwise")
            found[key] = made
    return list(found.values())


def _is_reconstruction(name: str) -> bool:
    return name.rpartition("/")[2] == RECONSTRUCTION


def _open(path: Path, method: str) -> Reconstruction:
    try:
        with h5py.File(path) as file:
            report = json.loads(file.attrs["kdrift"])
            if "reference" not in file:
                raise ValueError(
                    f"{path} has no images of full data: undersample full data with --mask, and reconstruct"
                )
            failed = frozenset(int(number) for number in file.attrs.get("failed_slices", ()))
            return Reconstruction(path, method, report["volume"], tuple(report["slices"]), failed)
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} is no reconstruction of kdrift: {error}") from None


def detect_all(
    marked: Annotations, detector: Detector, files: Sequence[Reconstruction], echo: Callable[[str], None] = print
) -> Study:
    """Run a detector on every slice of every method, and once on the images of full data."""
    methods = list(dict.fromkeys(file.method for file in files))
    lost = {(file.volume, number) for file in files for number in file.failed}
    keys = {m: {(f.volume, n) for f in files if f.method == m for n in f.slices} - lost for m in methods}
    for method in methods[1:]:
        if apart := keys[method] ^ keys[methods[0]]:
            volume, number = min(apart)
            raise ValueError(f"{methods[0]} and {method} have other slices, such as slice {number} of {volume}")
    volumes = sorted({volume for volume, _ in keys[methods[0]]})
    file_of = {volume: marked.file_of(volume) for volume in volumes}
    truth = {key: marked.boxes.get(file_of[key[0]] or "", {}).get(key[1], NO_BOXES) for key in sorted(keys[methods[0]])}
    labels = sorted({label for boxes in truth.values() for label in boxes.labels})
    if not labels:
        raise ValueError(f"none of {len(truth)} slices of {', '.join(volumes[:3])} has a box in the annotations")
    found: dict[str, dict[Key, Boxes]] = {method: {} for method in (FULL, *methods)}
    for file in sorted(files, key=lambda f: (methods.index(f.method), f.volume)):
        for number in file.slices:
            key = file.volume, number
            if key in truth:
                if key not in found[FULL]:
                    image = file.image(number, "reference")
                    _check_inside(truth[key], image, key)
                    found[FULL][key] = detector(image)
                found[file.method][key] = detector(file.image(number))
        echo(f"{file.method}: {file.volume}, {len(file.slices)} slices")
    by_name = {(file.method, file.volume): file for file in files}
    return Study(found, truth, tuple(labels), by_name, tuple(_notes(file_of, lost, truth)))


def _check_inside(boxes: Boxes, image: Array, key: Key) -> None:
    rows, cols = image.shape
    low, high = boxes.corners[:, :2], boxes.corners[:, 2:]
    if len(boxes) and ((low >= (cols, rows)).any() or (high <= 0).any()):
        raise ValueError(
            f"slice {key[1]} of {key[0]} has {rows} x {cols} pixels and a box outside of it: annotations are of the"
            " stored reference (fastMRI+: 320 x 320), reconstruct at that size"
        )


def _notes(file_of: Mapping[str, str | None], lost: set[Key], truth: Mapping[Key, Boxes]) -> Iterator[str]:
    if other := [volume for volume, file in file_of.items() if file is None]:
        yield f"{len(other)} volumes are not annotated ({', '.join(other[:4])}): taken as without findings"
    if lost:
        yield f"{len(lost)} slices could not be reconstructed by some method, and are left out of all"


def measure(study: Study, confidence: float | None = None) -> dict[str, Any]:
    """Return, for full images and each method, mAP50, precision, recall, and how it agrees with full images."""
    chosen = best_confidence(study.pairs(FULL)) if confidence is None else confidence
    rows: dict[str, Any] = {}
    for method in study.found:
        pairs = study.pairs(method)
        precisions = average_precisions(pairs, study.labels)
        values = [value for value in precisions.values() if value is not None]
        counts = count(pairs, chosen)
        rows[method] = {
            "map50": float(np.mean(values)), "precision": counts.precision, "recall": counts.recall,
            "right": counts.right, "wrong": counts.wrong, "missed": counts.missed, "ap50": precisions,
        }  # fmt: skip
    for method, found in agreements(study, chosen).items():
        rows[method]["agreement"] = {what: _told(each) for what, each in found.items()}
    boxes = {label: sum(len(each.of(label)) for each in study.truth.values()) for label in study.labels}
    return {
        "confidence": chosen,
        "confidence_from": "given" if confidence is not None else "largest F1 on the images of full data",
        "volumes": len({volume for volume, _ in study.truth}),
        "slices": len(study.truth),
        "boxes": boxes,
        "methods": rows,
    }


def agreements(study: Study, confidence: float) -> dict[str, dict[str, Agreement]]:
    """Return Bland-Altman of each method against full images: AP50 of classes, boxes a slice, areas of the same boxes.

    Boxes are those of at least `confidence`; the same ones have one label and overlap by half (`match`).
    """
    full = {key: boxes.where(boxes.scores >= confidence) for key, boxes in study.found[FULL].items()}
    scores = average_precisions(study.pairs(FULL), study.labels)
    made = {}
    for method in study.found:
        if method == FULL:
            continue
        kept = {key: boxes.where(boxes.scores >= confidence) for key, boxes in study.found[method].items()}
        own, areas = average_precisions(study.pairs(method), study.labels), {}
        for key, boxes in kept.items():
            for index, other in enumerate(match(boxes, full[key])):
                if other >= 0:
                    areas[f"{key[0]}, slice {key[1]}, box {other}"] = (full[key].areas[other], boxes.areas[index])
        numbers = {f"{key[0]}, slice {key[1]}": (float(len(full[key])), float(len(kept[key]))) for key in full}
        classes = {label: (scores[label] or 0.0, own[label] or 0.0) for label in study.labels}
        made[method] = {"ap50": agreement(classes), "count": agreement(numbers), "area": agreement(areas)}
    return made


def _told(found: Agreement) -> dict[str, Any]:
    limits = list(found.limits) if found.limits else None
    return {"number": len(found.points), "bias": found.bias, "std": found.std, "limits": limits}
