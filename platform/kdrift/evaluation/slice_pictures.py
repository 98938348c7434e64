"""Pictures of one slice as the papers print them, as HTML with its PNGs inside: each method, zoom, error, deviation."""

from __future__ import annotations

import base64
import functools
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from kdrift.evaluation.work import VolumeTask
from kdrift.recon.panel import detailed_region, error_factor
from kdrift.recon.report import MARK
from kdrift.runs.files import read_json

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Shown:
    """One method's image of the slice."""

    name: str
    image: Array
    """Magnitudes (row, col)."""
    std: Array | None
    figures: Mapping[str, float]
    """psnr and ssim of this slice."""
    said: str = ""
    """Verdict of the slice."""


def png(values: Array, palette: bytes | None = None) -> bytes:
    """Return bytes (row, col) as PNG: grey, or by the colours of `palette` (256 times red, green, blue)."""
    rows, cols = values.shape
    lines = np.zeros((rows, cols + 1), dtype=np.uint8)  # a filter byte before each line: none
    lines[:, 1:] = values
    header = struct.pack(">IIBBBBB", cols, rows, 8, 0 if palette is None else 3, 0, 0, 0)
    chunks = [(b"IHDR", header), *([(b"PLTE", palette)] if palette else [])]
    chunks += [(b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def slice_figure(tasks: Sequence[tuple[str, VolumeTask]]) -> str:
    """Return one slice by all methods that have it, as HTML: the middle slice of a volume. '' where no method has it.

    `tasks` are the methods' names and their tasks of one volume under one mask.
    """
    done = [(name, task) for name, task in tasks if (task.out / MARK).is_file()]
    if not done:
        return ""
    reports = {name: read_json(task.out / "metrics.json") for name, task in done}
    common = [
        index for index in done[0][1].slices
        if all(index in report["slices"] and str(index) not in report.get("failed", {}) for report in reports.values())
    ]  # fmt: skip
    if not common:
        return ""
    index = common[len(common) // 2]
    found = [_read(name, task.out, reports[name], index) for name, task in done]
    with h5py.File(done[0][1].out / "reconstruction.h5") as file:
        position = reports[done[0][0]]["slices"].index(index)
        truth = np.abs(file["reference"][position]).astype(np.float64) if "reference" in file else None
        mask = file["mask"][:] if file["mask"].ndim == 2 else file["mask"][position]
    simulated = "simulated, " if reports[done[0][0]]["simulated"] else ""
    heading = f"{reports[done[0][0]]['volume']}, slice {index}: {simulated}{reports[done[0][0]]['sampling']}"
    return _figure(heading, found, truth, mask)


def _read(name: str, folder: Path, report: Mapping[str, Any], index: int) -> Shown:
    with h5py.File(folder / "reconstruction.h5") as file:
        position = report["slices"].index(index)
        image = np.abs(file["reconstruction"][position]).astype(np.float64)
        std = file["std"][position].astype(np.float64)
    said = report.get("verdicts", {}).get(str(index), {}).get("level", "") if report["nfe"] else ""
    return Shown(name, image, std if std.any() else None, report.get("by_slice", {}).get(str(index), {}), said)


def _figure(heading: str, found: Sequence[Shown], truth: Array | None, mask: Array) -> str:
    images = [each.image for each in found] + ([truth] if truth is not None else [])
    if len({image.shape for image in images}) > 1:  # methods were resumed from stores of other sizes
        return f"<p>{escape(heading)}: images are of several sizes and are not shown side by side.</p>"
    shown_by = truth if truth is not None else found[-1].image
    white = float(np.quantile(shown_by, 0.998)) or 1.0
    zoom = detailed_region(np.clip(shown_by / white, 0, 1))
    errors = [np.abs(each.image - truth) / white for each in found] if truth is not None else []
    factor = int(np.median([error_factor(error) for error in errors])) if errors else 1
    spreads = any(each.std is not None for each in found)
    columns = []
    if truth is not None:
        small = _img(255 * np.asarray(mask, dtype=np.float64), f"sampling mask: {heading}", "mask")
        cells = [_image_cell(truth / white, "reference", zoom, small), _zoom_cell(truth / white, "reference", zoom)]
        columns.append(_column("reference", cells))
    for number, each in enumerate(found):
        numbers = [f"{each.figures['psnr']:.2f} dB", f"{each.figures['ssim']:.3f}"] if each.figures else []
        label = f'<span class="onit">{" / ".join(numbers)}</span>' if numbers else ""
        cells = [
            _image_cell(each.image / white, each.name, zoom, label),
            _zoom_cell(each.image / white, each.name, zoom),
        ]
        if errors:
            label = f'<span class="onit">error × {factor}</span>'
            cells.append(_cell(_img(255 * factor * errors[number], f"error of {each.name}", "", magma()) + label))
        if spreads and each.std is not None:
            label = f'<span class="onit">std × {factor}</span>'
            cells.append(_cell(_img(255 * factor * each.std / white, f"std of {each.name}", "", magma()) + label))
        columns.append(_column(each.name, cells, each.said))
    return (
        f'<figure class="slice"><figcaption>{escape(heading)}</figcaption><div class="columns">{"".join(columns)}</div>'
        "</figure>"
    )


def _column(name: str, cells: Sequence[str], said: str = "") -> str:
    level = f' <span class="level {said.replace(" ", "-")}">{escape(said)}</span>' if said else ""
    return f'<div class="column"><h4>{escape(name)}{level}</h4>{"".join(cells)}</div>'


def _image_cell(image: Array, name: str, zoom: tuple[int, int, int, int], over: str) -> str:
    """An image with the zoomed region marked."""
    (top, left, height, width), (rows, cols) = zoom, image.shape
    box = f"left:{left / cols:.1%};top:{top / rows:.1%};width:{width / cols:.1%};height:{height / rows:.1%}"
    return _cell(_img(255 * image, name) + f'<span class="box" style="{box}"></span>{over}')


def _zoom_cell(image: Array, name: str, zoom: tuple[int, int, int, int]) -> str:
    top, left, height, width = zoom
    return _cell(_img(255 * image[top : top + height, left : left + width], f"zoom into {name}", "zoom"))


def _cell(inner: str) -> str:
    return f'<div class="picture">{inner}</div>'


def _img(values: Array, alt: str, kind: str = "", palette: bytes | None = None) -> str:
    data = base64.b64encode(png(np.clip(np.rint(values), 0, 255).astype(np.uint8), palette)).decode()
    rows, cols = values.shape
    return f'<img class="{kind}" width="{cols}" height="{rows}" alt="{escape(alt)}" src="data:image/png;base64,{data}">'


@functools.cache
def magma() -> bytes:
    """The 256 colours of matplotlib's magma."""
    from matplotlib import colormaps

    return bytes((255 * colormaps["magma"](np.arange(256))[:, :3]).round().astype(np.uint8).tobytes())
