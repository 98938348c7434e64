"""Pictures of a study of pathology: boxes on slices, and Bland-Altman plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdrift.evaluation.annotations import Boxes
from kdrift.evaluation.detection import Agreement, count
from kdrift.evaluation.pathology import FULL, Key, Study
from kdrift.notice import RESEARCH_ONLY
from kdrift.recon.panel import ACCENT, BACKGROUND, DIMMED, DPI, FOREGROUND, OUTLINES
from kdrift.runs.files import whole_file

MOST_SLICES = 3
TITLES = {"ap50": "AP50 of a class", "count": "boxes a slice", "area": "area of a box, pixels"}
INCHES = 2.6


def save_boxes(path: Path, study: Study, confidence: float) -> None:
    """Write a PNG: annotations, and what was found on full and reconstructed images, in the slices that differ most.

    Those are the annotated slices where most boxes are wrong or missed over all methods, at most three.
    """
    shown = sorted(
        (key for key, boxes in study.truth.items() if len(boxes)), key=lambda key: -_errors(study, key, confidence)
    )
    shown = sorted(shown[:MOST_SLICES])
    columns = ["annotated", *study.found]
    colours = {label: OUTLINES[index % len(OUTLINES)] for index, label in enumerate(study.labels)}
    figure, axes = _subplots(len(shown), len(columns))
    for row, key in enumerate(shown):
        volume, number = key
        files = {method: study.files[method, volume] for method in study.found if method != FULL}
        full = next(iter(files.values())).image(number, "reference")
        for col, name in enumerate(columns):
            image = files[name].image(number) if name in files else full
            boxes = study.truth[key] if col == 0 else study.found[name][key]
            axis = axes[row][col]
            axis.imshow(image, cmap="gray", vmin=0, vmax=full.max(), interpolation="nearest")
            _draw(axis, boxes.where(boxes.scores >= confidence) if col else boxes, colours, with_scores=col > 0)
            if row == 0:
                axis.set_title(name, color=FOREGROUND, fontsize=9)
        axes[row][0].set_ylabel(f"{volume}\nslice {number}", color=DIMMED, fontsize=6)
    for index, (label, colour) in enumerate(colours.items()):
        figure.text(0.01 + 0.24 * index, 0.012, f"□ {label}", color=colour, fontsize=8)
    figure.text(0.99, 0.012, RESEARCH_ONLY, color=DIMMED, fontsize=7, ha="right")
    _save(figure, path)


def _errors(study: Study, key: Key, confidence: float) -> int:
    pairs = [(study.found[method][key], study.truth[key]) for method in study.found]
    counts = count(pairs, confidence)
    return counts.wrong + counts.missed


def _draw(axis: Any, boxes: Boxes, colours: Mapping[str, str], *, with_scores: bool) -> None:
    from matplotlib.patches import Rectangle

    for (x0, y0, x1, y1), label, score in zip(boxes.corners, boxes.labels, boxes.scores, strict=True):
        colour = colours.get(label, ACCENT)  # a class that is not annotated here
        axis.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, color=colour, linewidth=1))
        if with_scores:
            axis.text(x1, y0, f"{score:.2f}", color=colour, fontsize=6, va="bottom")


def save_agreement(path: Path, found: Mapping[str, Mapping[str, Agreement]]) -> None:
    """Write a PNG with a row a method: differences against means, bias and limits of agreement."""
    figure, axes = _subplots(len(found), len(TITLES), ticks=True)
    for col, (what, title) in enumerate(TITLES.items()):
        every = [d for each in found.values() for _, d in each[what].points.values()]
        reach = 1.15 * max([abs(value) for value in every] or [1.0]) or 1.0
        for row, (method, each) in enumerate(found.items()):
            axis, points = axes[row][col], each[what].points
            axis.scatter(*zip(*points.values(), strict=True) if points else ((), ()), s=10, color=ACCENT, alpha=0.6)
            axis.set_ylim(-reach, reach)
            axis.axhline(0, color=DIMMED, linewidth=0.5)
            lines = [each[what].bias, *(each[what].limits or ())]
            for value, style in zip([value for value in lines if value is not None], ("-", "--", "--"), strict=False):
                axis.axhline(value, color=FOREGROUND, linewidth=0.8, linestyle=style)
            if row == 0:
                axis.set_title(title, color=FOREGROUND, fontsize=9)
            if col == 0:
                axis.set_ylabel(f"{method}\nminus full", color=DIMMED, fontsize=7)
            if row == len(found) - 1:
                axis.set_xlabel("mean of both", color=DIMMED, fontsize=7)
    figure.text(0.99, 0.005, RESEARCH_ONLY, color=DIMMED, fontsize=7, ha="right")
    _save(figure, path)


def _subplots(rows: int, cols: int, *, ticks: bool = False) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(INCHES * cols + 0.4, INCHES * rows + 0.5), dpi=DPI, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, cols, squeeze=False)
    for axis in axes.flat:
        axis.set_facecolor(BACKGROUND)
        axis.tick_params(colors=DIMMED, labelsize=6)
        for spine in axis.spines.values():
            spine.set_color(DIMMED if ticks else BACKGROUND)
        if not ticks:
            axis.set_xticks([])
            axis.set_yticks([])
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout(rect=(0, 0.3 / figure.get_figheight(), 1, 1), pad=0.6)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=BACKGROUND)
