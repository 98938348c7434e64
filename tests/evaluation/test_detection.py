"""Boxes, annotations, average precision and agreement: hand-worked cases, and what pycocotools computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from kdrift.evaluation.annotations import Boxes, read_annotations, upright
from kdrift.evaluation.detection import (
    agreement,
    average_precision,
    average_precisions,
    best_confidence,
    count,
    intersection_over_union,
    match,
)

HEADER = "file,slice,study_level,x,y,width,height,label\n"


def boxes(*corners: Sequence[float], labels: str | Sequence[str] = "a", scores: Sequence[float] = ()) -> Boxes:
    names = tuple(labels) if not isinstance(labels, str) else (labels,) * len(corners)
    found = np.array(corners, dtype=float).reshape(-1, 4)
    return Boxes(found, names, np.array(scores if len(scores) else [1.0] * len(corners)))


def test_annotations_are_read(tmp_path: Path) -> None:
    path = tmp_path / "brain.csv"
    rows = "f1,3,No,10,20,5,8,Mass\nf1,3,No,1.5,2,3,4,Lesion\nf2,0,Yes,,,,,Normal for age\nx_f1,0,No,1,1,2,2,Mass\n"
    path.write_text(HEADER + rows)
    found = read_annotations(path)
    assert found.boxes["f1"][3].corners.tolist() == [[10, 20, 15, 28], [1.5, 2, 4.5, 6]]
    assert found.labels == ["Lesion", "Mass"]
    assert found.files == {"f1", "f2", "x_f1"}
    assert found.study_level == 1
    assert [found.file_of(v) for v in ("f1", "val_f1", "a_x_f1", "f9")] == ["f1", "f1", "x_f1", None]


def test_boxes_are_in_the_image_upside_down(tmp_path: Path) -> None:
    """A spot in rows 2 to 4 of 10 of the array is in rows 5 to 7 of what radiologists saw, from 0."""
    image = np.zeros((10, 12))
    image[2:5, 7:9] = 1
    path = tmp_path / "a.csv"
    path.write_text(f"{HEADER}f,0,No,7,5,2,3,Spot\n")
    x0, y0, x1, y1 = read_annotations(path).boxes["f"][0].corners[0].astype(int)
    assert upright(image)[y0:y1, x0:x1].all()
    assert upright(image).sum() == (y1 - y0) * (x1 - x0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,slice,x\n", "lacks the columns study_level, y, width, height, label"),
        (f"{HEADER}f,0,No,1,2,,4,Mass\n", "line 2: expected a slice and numbers of a box"),
        (f"{HEADER}f,0,No,1,2,0,4,Mass\n", "width and height above 0"),
        (f"{HEADER}f,-1,No,1,2,3,4,Mass\n", "a slice from 0"),
        (f"{HEADER}f,1,No,1,nan,3,4,Mass\n", "line 2"),
    ],
)
def test_bad_annotations_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        read_annotations(path)


def test_overlap_by_hand() -> None:
    a, b = boxes((0, 0, 4, 4)), boxes((2, 2, 6, 6), (0, 0, 4, 2), (8, 8, 9, 9), (1, 1, 1, 1))
    assert intersection_over_union(a, b)[0].tolist() == pytest.approx([4 / 28, 0.5, 0, 0])


def test_each_box_is_found_once_and_by_its_label() -> None:
    truth = boxes((0, 0, 4, 4), (10, 10, 14, 14), labels=["a", "b"])
    found = boxes((0, 0, 4, 4), (0, 0, 4, 3), (10, 10, 14, 14), labels="a", scores=[0.5, 0.9, 0.8])
    assert match(found, truth).tolist() == [-1, 0, -1]


def test_average_precision_by_hand() -> None:
    """Three annotated, found right, wrong, right: precision 1 to recall 1/3, 2/3 to recall 2/3, 0 beyond."""
    truth = boxes((0, 0, 4, 4), (10, 0, 14, 4), (20, 0, 24, 4))
    found = boxes((0, 0, 4, 4), (50, 0, 54, 4), (10, 0, 14, 4), scores=[0.9, 0.8, 0.7])
    expected = (34 * 1 + 33 * 2 / 3) / 101  # recalls 0 to 0.33, 0.34 to 0.66
    assert average_precision([(found, truth)]) == pytest.approx(expected)
    assert average_precision([(found, boxes())]) is None
    assert average_precision([(boxes(), truth)]) == 0
    counts = count([(found, truth)], 0.75)
    assert (counts.right, counts.wrong, counts.missed) == (1, 1, 2)
    assert (counts.precision, counts.recall, counts.f1) == (0.5, 1 / 3, 0.4)
    assert best_confidence([(found, truth)]) == 0.7
    assert best_confidence([(boxes(), truth)]) == 0.5


def random_images(seed: int) -> list[tuple[Boxes, Boxes]]:
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(12):
        number = int(rng.integers(0, 5))
        low = rng.uniform(0, 80, (number, 2))
        truth = np.concatenate([low, low + rng.uniform(6, 20, (number, 2))], 1)
        moved = np.repeat(truth, 2, 0) + rng.normal(0, 2, (2 * number, 4))
        stray = rng.uniform(0, 80, (3, 2))
        every = np.concatenate([moved, np.concatenate([stray, stray + 10], 1)])
        every[:, 2:] = np.maximum(every[:, 2:], every[:, :2] + 1)
        names = rng.choice(["a", "b"], number)
        labels = [*np.repeat(names, 2), *rng.choice(["a", "b"], 3)]
        images.append((boxes(*every, labels=labels, scores=rng.uniform(0, 1, len(every))), boxes(*truth, labels=names)))
    return images


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_that_of_coco(seed: int) -> None:
    mask = pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    assert mask
    images, classes = random_images(seed), {"a": 1, "b": 2}

    def entries(which: int) -> list[dict[str, object]]:
        found = []
        for number, pair in enumerate(images, 1):
            for (x0, y0, x1, y1), label, score in zip(*_parts(pair[which]), strict=True):
                box = [float(x0), float(y0), float(x1 - x0), float(y1 - y0)]
                entry = {"id": len(found) + 1, "image_id": number, "category_id": classes[label], "bbox": box}
                found.append({**entry, "area": box[2] * box[3], "iscrowd": 0, "score": float(score)})
        return found

    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": number} for number in range(1, len(images) + 1)],
        "annotations": entries(1),
        "categories": [{"id": number} for number in classes.values()],
    }
    truth.createIndex()
    run = COCOeval(truth, truth.loadRes(entries(0)), "bbox")
    run.params.iouThrs = np.array([0.5])
    run.evaluate()
    run.accumulate()
    ours = average_precisions(images, ["a", "b"])
    for label, number in classes.items():
        theirs = run.eval["precision"][0, :, number - 1, 0, 2].mean()
        assert ours[label] == pytest.approx(theirs, abs=1e-12)


def _parts(found: Boxes) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    return found.corners, found.labels, found.scores


def test_agreement_by_hand() -> None:
    found = agreement({"p": (1.0, 2.0), "q": (3.0, 3.0), "r": (5.0, 3.0)})
    assert dict(found.points) == {"p": (1.5, 1), "q": (3, 0), "r": (4, -2)}
    assert found.bias == pytest.approx(-1 / 3)
    std = math.sqrt(((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2)
    assert found.std == pytest.approx(std)
    assert found.limits == pytest.approx((-1 / 3 - 1.96 * std, -1 / 3 + 1.96 * std))
    assert agreement({}).bias is None
    assert agreement({"p": (1.0, 2.0)}).limits is None


def test_boxes_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="x0 <= x1"):
        boxes((4, 0, 0, 4))
    with pytest.raises(ValueError, match="2 boxes need corners"):
        Boxes(np.zeros((2, 3)), ("a", "b"), np.zeros(2))
    with pytest.raises(ValueError, match="finite"):
        boxes((0, 0, math.nan, 4))
