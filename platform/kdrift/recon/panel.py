"""The picture beside every reconstruction: images, uncertainty, error and a zoom, with the numbers."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdrift.measures.metrics import psnr, ssim
from kdrift.notice import RESEARCH_ONLY
from kdrift.runs.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]
ImageLike = Array | Tensor

BACKGROUND = "#0d0f12"
FOREGROUND = "#e8eaed"
DIMMED = "#9aa3ad"
ACCENT = "#ffb454"
LEVEL_COLOURS = {"trusted": "#7bd88f", "caution": "#ffb454", "not trusted": "#ff6b6b", "not checked": DIMMED}
"""Green, amber, red; grey where nothing is known."""
OUTLINES = ("#4dd0e1", "#f48fb1", "#aed581", "#fff176", "#b39ddb", "#ff8a65")
"""Colours of regions, one after the other."""
ERROR_FACTORS = (1, 2, 5, 10, 20, 50)
LINE_INCHES = 0.24
"""Height of a line of the title."""
DPI = 100


@dataclass(frozen=True)
class Cell:
    """One image of the picture."""

    image: Array
    """Values to show (row, col)."""
    title: str = ""
    """Heading; empty for none."""
    caption: str = ""
    """Line below the image; empty for none."""
    cmap: str = "gray"
    top: float = 1.0
    """Value shown as the brightest colour; the darkest is 0."""
    bar: str = ""
    """Unit and scale of the colour bar; empty for no bar."""
    boxed: bool = False
    """Whether to mark the zoomed region."""
    blocky: bool = False
    """Whether single values are to be seen as squares."""
    inset: Array | None = None
    """Sampling mask to lay over the lower left corner."""


def save_panel(path: str | os.PathLike[str], **shown: Any) -> Path:
    """Write the picture that `panel_figure` makes of `shown` as PNG, and return its path."""
    path = Path(path)
    with whole_file(path) as temporary:
        panel_figure(**shown).savefig(temporary, format="png", facecolor=BACKGROUND)
    return path


def panel_figure(
    *,
    zero_filled: ImageLike,
    mean: ImageLike,
    std: ImageLike | None = None,
    reference: ImageLike | None = None,
    baselines: Mapping[str, ImageLike] | None = None,
    mask: ImageLike | None = None,
    title: str = "",
    captions: Mapping[str, str] | None = None,
    mean_title: str = "posterior mean",
    zoom: tuple[int, int, int, int] | None = None,
    verdict: tuple[str, str] | None = None,
    outlines: Mapping[str, ImageLike] | None = None,
) -> Figure:
    """Draw the picture of one slice, 1600 pixels wide from three images on.

    Side by side: zero-filled, baselines, mean, std (per cent of the grey scale's white, with a colour bar; on the scale
    of the error where there is one), error and reference; below them the zoomed region. With baselines the errors of
    all get a row of their own. One grey scale for all images: 0 to the 99.8 % quantile of the reference, or else of the
    mean.

    Parameters
    ----------
    zero_filled, mean, std, reference, baselines
        Images (row, col) of one shape; complex ones are shown by magnitude. `baselines` by heading.
    mask
        Sampling mask of k-space (row, col), of any shape.
    captions
        Lines to put below images in place of PSNR and SSIM, by heading.
    zoom
        Region (top, left, rows, cols); default: where the image has most detail, near its middle.
    verdict
        Its level, which gives the colour, and the sentence to show below the title.
    outlines
        Regions (row, col) to mark in the mean, by name.

    Raises
    ------
    ValueError
        Images that are not of one shape (row, col), or not finite; the name of the image is in the message.
    """
    images = {"zero-filled": _image("zero_filled", zero_filled)}
    for name, image in (baselines or {}).items():
        images[name] = _image(name, image)
    images[mean_title] = _image("mean", mean)
    truth = None if reference is None else _image("reference", reference)
    spread = None if std is None else _image("std", std)
    shape = images[mean_title].shape
    for name, shown in {**images, "std": spread, "reference": truth}.items():
        if shown is not None and shown.shape != shape:
            raise ValueError(f"{name} is {shown.shape}, mean is {shape}: all images of a panel have one shape")
    kept = None if mask is None else _image("mask", mask) != 0

    guide = images[mean_title] if truth is None else truth
    white = float(np.quantile(guide, 0.998)) or 1.0
    region = detailed_region(guide / white) if zoom is None else zoom
    texts = _numbers(images, truth) | dict(captions or {})
    rows = _rows(images, spread, truth, kept, white, texts, errors_below=bool(baselines))
    rows.insert(1, [_zoomed(cell, region) for cell in rows[0]])
    lines = [(line, FOREGROUND) for line in title.splitlines()]
    lines += [(verdict[1], LEVEL_COLOURS.get(verdict[0], FOREGROUND))] if verdict else []
    regions = {name: _image(name, mask) > 0 for name, mask in (outlines or {}).items()}
    colours, more = [*OUTLINES, *(DIMMED for _ in regions)][: len(regions)], len(regions) - len(OUTLINES)
    lines += [(f"outlined: {name}", colour) for name, colour in zip(regions, OUTLINES, strict=False)]
    lines += [(f"and {more} more", DIMMED)] if more > 0 else []
    figure = _draw(rows, region, lines)
    drawn = next(axes for axes in figure.axes if axes.get_title() == mean_title)
    for mask, colour in zip(regions.values(), colours, strict=True):
        _outline(drawn, mask, colour)
    return figure


def _rows(
    images: dict[str, Array],
    spread: Array | None,
    truth: Array | None,
    kept: Array | None,
    white: float,
    texts: dict[str, str],
    errors_below: bool,
) -> list[list[Cell]]:
    """The top row, and the row of errors where there is one."""
    errors = {} if truth is None else {name: np.abs(image - truth) for name, image in images.items()}
    final = next(reversed(images))
    factor = error_factor(errors[final] / white) if errors else 1
    top = []
    for index, (name, image) in enumerate(images.items()):
        inset = kept if index == 0 and not (errors and errors_below) else None
        top.append(Cell(image, name, texts.get(name, ""), top=white, boxed=True, inset=inset))
    if spread is not None:
        most = 1 / factor if errors else float(np.quantile(spread, 0.998)) / white or 1.0
        heading = f"std x {factor}" if errors else "std"
        top.append(Cell(spread / white, heading, texts.get("std", ""), "magma", most, "% of white", True))
    if errors and not errors_below:
        caption = texts.get("error", "")
        top.append(Cell(errors[final] / white, f"error x {factor}", caption, "magma", 1 / factor, "% of white", True))
    if truth is not None:
        top.append(Cell(truth, "reference", texts.get("reference", ""), top=white, boxed=True))
    if not errors or not errors_below:
        return [top]
    below = [
        Cell(error / white, f"error x {factor}", "", "magma", 1 / factor, "% of white") for error in errors.values()
    ]
    if kept is not None:
        below.append(Cell(kept, "k-space mask", blocky=True))
    return [top, below]


def _numbers(images: dict[str, Array], truth: Array | None) -> dict[str, str]:
    if truth is None:
        return {}
    reference, texts = torch.from_numpy(truth), {}
    for name, values in images.items():
        image = torch.from_numpy(values)
        texts[name] = f"{psnr(reference, image):.2f} dB   SSIM {ssim(reference, image):.3f}"
    return texts


def _image(name: str, values: ImageLike) -> Array:
    """Magnitudes (row, col) as float64."""
    array: npt.NDArray[Any]
    array = values.detach().cpu().resolve_conj().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}, expected one slice (row, col)")
    array = np.abs(array).astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite")
    return array


def error_factor(error: Array) -> int:
    """The largest round factor at which the error's 99.5 % quantile is not brighter than white."""
    typical = float(np.quantile(error, 0.995))
    return max([factor for factor in ERROR_FACTORS if factor * typical <= 1.0], default=1)


def detailed_region(image: Array) -> tuple[int, int, int, int]:
    """Region (top, left, rows, cols) of a third of the image's size with the most detail.

    Bright rims (scalp, fat) would win by their height alone, so brightness is compressed first, and the
    middle counts more than the margin.
    """
    rows, cols = (max(2, round(n / 3)) for n in image.shape)
    compressed = np.clip(image, 0, 1) / (np.clip(image, 0, 1) + 0.25)
    along_rows, along_cols = np.gradient(compressed)
    detail = np.minimum(np.hypot(along_rows, along_cols), 0.1)
    sums = np.pad(detail.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    score = sums[rows:, cols:] - sums[:-rows, cols:] - sums[rows:, :-cols] + sums[:-rows, :-cols]
    offsets = [(np.arange(n) - (n - 1) / 2) / (0.6 * n) for n in score.shape]
    score *= np.exp(-0.5 * (offsets[0][:, None] ** 2 + offsets[1][None, :] ** 2))
    top, left = np.unravel_index(int(np.argmax(score)), score.shape)
    return int(top), int(left), rows, cols


def _zoomed(cell: Cell, region: tuple[int, int, int, int]) -> Cell:
    top, left, rows, cols = region
    part = cell.image[top : top + rows, left : left + cols]
    return Cell(part, cmap=cell.cmap, top=cell.top, blocky=True)


def _draw(rows: list[list[Cell]], region: tuple[int, int, int, int], lines: Sequence[tuple[str, str]]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_cols = len(rows[0])
    image_rows, image_cols = rows[0][0].image.shape
    width = max(min(16.0, 5.4 * num_cols), 2.7 * num_cols)
    wrapped = [(part, colour) for line, colour in lines for part in _wrapped(line, width)]
    gap, head, foot, notice = 0.06, 0.34, 0.34, 0.24
    banner = LINE_INCHES * len(wrapped) + 0.1 if wrapped else 0.08
    cell_width = (width - gap * (num_cols + 1)) / num_cols
    # very tall images would make a picture that no screen shows: limit the height, centre in the cell
    cell_height = cell_width * min(image_rows / image_cols, 1.6)
    heads = [head if any(cell.title for cell in row) else 0.0 for row in rows]
    feet = [foot if any(cell.caption or cell.bar for cell in row) else 0.0 for row in rows]
    height = banner + sum(heads) + sum(feet) + len(rows) * (cell_height + gap) + notice
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    for number, (line, colour) in enumerate(wrapped):
        top = 1 - (0.04 + (number + 0.5) * LINE_INCHES) / height
        figure.text(gap / width, top, line, color=colour, fontsize=14, va="center")
    figure.text(
        1 - gap / width, 0.5 * notice / height, RESEARCH_ONLY, color=DIMMED, fontsize=10, ha="right", va="center"
    )
    y = height - banner
    for row, head_room, foot_room in zip(rows, heads, feet, strict=True):
        y -= head_room + cell_height
        for index, cell in enumerate(row):
            x = gap + index * (cell_width + gap)
            box = (x / width, y / height, cell_width / width, cell_height / height)
            _draw_cell(figure, box, cell, region, foot_room / height)
        y -= foot_room + gap
    return figure


def _wrapped(line: str, width: float) -> list[str]:
    """Return a line as several of at most `width` inches, which a font of 14 points has about 10 letters each for."""
    return textwrap.wrap(line, max(20, int(10 * width) - 2)) or [""]


def _outline(axes: Any, mask: Array, colour: str) -> None:
    """Draw the edge of a region along the edges of its pixels."""
    padded = np.pad(mask, 1)
    down, across = np.nonzero(padded[1:, :] != padded[:-1, :]), np.nonzero(padded[:, 1:] != padded[:, :-1])
    axes.hlines(down[0] - 0.5, down[1] - 1.5, down[1] - 0.5, colors=colour, linewidth=1.2)
    axes.vlines(across[1] - 0.5, across[0] - 1.5, across[0] - 0.5, colors=colour, linewidth=1.2)


def _draw_cell(
    figure: Any,
    box: tuple[float, float, float, float],
    cell: Cell,
    region: tuple[int, int, int, int],
    foot: float,
) -> None:
    from matplotlib.patches import Rectangle

    axes = figure.add_axes(box)
    axes.set_axis_off()
    shown = axes.imshow(
        cell.image,
        cmap=cell.cmap,
        vmin=0.0,
        vmax=cell.top,
        interpolation="nearest" if cell.blocky else "antialiased",
    )
    if cell.title:
        axes.set_title(cell.title, color=FOREGROUND, fontsize=13, pad=5)
    x, y, width, _ = box
    if cell.bar:
        bar = figure.add_axes((x + 0.04 * width, y - 0.38 * foot, 0.42 * width, 0.22 * foot))
        colours = figure.colorbar(shown, cax=bar, orientation="horizontal", ticks=[])
        colours.outline.set_visible(False)
        text = f"0 to {100 * cell.top:.2g} {cell.bar}"
        figure.text(x + 0.5 * width, y - 0.3 * foot, text, color=DIMMED, fontsize=10, va="center")
    if cell.caption:
        depth, size = (0.75, 10) if cell.bar else (0.42, 12)
        place = (x + 0.5 * width, y - depth * foot)
        figure.text(*place, cell.caption, color=FOREGROUND, fontsize=size, ha="center", va="center")
    if cell.boxed:
        top, left, rows, cols = region
        axes.add_patch(Rectangle((left - 0.5, top - 0.5), cols, rows, fill=False, edgecolor=ACCENT, linewidth=1.0))
    if cell.inset is not None:
        small = axes.inset_axes((0.02, 0.02, 0.28, 0.28))
        small.imshow(cell.inset, cmap="gray", vmin=0, vmax=1, interpolation="antialiased", aspect="equal")
        small.set(xticks=[], yticks=[])
        for spine in small.spines.values():
            spine.set_color(ACCENT)
