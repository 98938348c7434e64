"""The table of an evaluation: mean and standard deviation over volumes, in Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrift.runs.files import write_json, write_text

FIGURES = {"psnr": ("PSNR dB", ".2f"), "ssim": ("SSIM", ".4f"), "nmse": ("NMSE", ".5f")}
"""Figures by their name in metrics.json: heading and format."""


@dataclass(frozen=True)
class Cell:
    """One method under one mask."""

    mask: str
    method: str
    reports: list[dict[str, Any]]
    """`metrics.json` of each finished volume."""


def summarise(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the rows of the table; simulated and measured data never share a row."""
    rows = []
    for cell in cells:
        for data in ("measured", "simulated"):
            reports = [r for r in cell.reports if r["simulated"] == (data == "simulated")]
            if not reports:
                continue
            row: dict[str, Any] = {"mask": cell.mask, "method": cell.method, "data": data, "volumes": len(reports)}
            for figure in FIGURES:
                values = [r["metrics"][figure] for r in reports if "metrics" in r]
                row |= _spread(figure, values)
            row |= _spread("seconds_a_slice", [r["seconds"] / len(r["slices"]) for r in reports])
            row["nfe"] = reports[0]["nfe"]
            row["diverged"] = sum(len(found) for r in reports for found in r.get("diverged", {}).values())
            row["doubtful"] = sum(bool(r.get("reference_fit", {}).get("doubts")) for r in reports)
            row["fallback"] = sum(len(r.get("fallback", [])) for r in reports)
            row["net_acceleration"] = statistics.fmean(r["net_acceleration"] for r in reports)
            rows.append(row)
    return rows


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table, `mean ± standard deviation` over volumes where there are several."""
    headings = [heading for heading, _ in FIGURES.values()]
    head = ["mask", "method", "data", "volumes", *headings, "s a slice", "NFE", "net"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        figures = [_shown(row, name, form) for name, (_, form) in FIGURES.items()]
        seconds = _shown(row, "seconds_a_slice", ".2f")
        first = [row["mask"], row["method"], row["data"], str(row["volumes"])]
        last = [seconds, str(row["nfe"] or "-"), f"{row['net_acceleration']:.2f}x"]
        lines.append("| " + " | ".join([*first, *figures, *last]) + " |")
    for row in rows:
        if row["diverged"]:
            where = f"{row['mask']}, {row['method']}, {row['data']}"
            lines += ["", f"{where}: {row['diverged']} samples diverged and are left out, {row['fallback']} slices of"
                      " which none was left are CG-SENSE."]  # fmt: skip
        if row["doubtful"]:
            where = f"{row['mask']}, {row['method']}, {row['data']}"
            lines += ["", f"{where}: the figures of {row['doubtful']} of {row['volumes']} volumes are doubtful,"
                      " as their stored reference does not fit (see notes in metrics.json)."]  # fmt: skip
    return "\n".join(lines) + "\n"


def write_tables(out: Path, cells: Sequence[Cell]) -> str:
    """Write `table.md`, `table.csv` (a row a cell) and `table.json` (with every volume); return the Markdown."""
    rows = summarise(cells)
    text = markdown(rows)
    stream = io.StringIO()
    if rows:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    volumes = [{"mask": cell.mask, "method": cell.method, **report} for cell in cells for report in cell.reports]
    write_text(out / "table.md", text)
    write_text(out / "table.csv", stream.getvalue())
    write_json(out / "table.json", {"rows": rows, "volumes": volumes})
    return text


def _spread(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """Return mean and standard deviation (ddof 1, None for a single volume)."""
    return {
        f"{name}_mean": statistics.fmean(values) if values else None,
        f"{name}_std": statistics.stdev(values) if len(values) > 1 else None,
    }


def _shown(row: dict[str, Any], name: str, form: str) -> str:
    mean, std = row[f"{name}_mean"], row[f"{name}_std"]
    return "-" if mean is None else f"{mean:{form}}" + ("" if std is None else f" ± {std:{form}}")
