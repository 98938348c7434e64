"""The table of an evaluation: mean and standard deviation over volumes, in Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from kdrift.runs.files import write_json, write_text
from kdrift.trust.verdict import Level

FIGURES = {"psnr": ("PSNR dB", ".2f"), "ssim": ("SSIM", ".4f"), "nmse": ("NMSE", ".5f")}
"""Figures of quality by their name in `metrics` of metrics.json: heading and format."""
SPREAD = {
    "coverage": ("coverage", ".3f"),
    "std_error_ratio": ("std/error", ".2f"),
    "ause": ("sparsification error", ".4f"),
}
"""Figures of the standard deviation by their name in metrics.json; a method without samples has none."""
LEVELS: tuple[Level, ...] = get_args(Level)
"""Verdicts, the worst last."""


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
                row |= _spread(figure, [r["metrics"][figure] for r in reports if figure in r.get("metrics", {})])
            for figure in SPREAD:
                row |= _spread(figure, [r[figure] for r in reports if r.get(figure) is not None])
            row |= _spread("seconds_a_slice", [r["seconds"] / len(r["slices"]) for r in reports])
            row["nfe"] = reports[0]["nfe"]
            row["diverged"] = sum(len(found) for r in reports for found in r.get("diverged", {}).values())
            row["doubtful"] = sum(bool(r.get("reference_fit", {}).get("doubts")) for r in reports)
            row["fallback"] = sum(len(r.get("fallback", [])) for r in reports)
            levels = count_levels(reports)
            row |= {level.replace(" ", "_"): levels[level] for level in LEVELS}
            row["given"] = sum(map(_num_given, reports))
            row["net_acceleration"] = statistics.fmean(r["net_acceleration"] for r in reports)
            rows.append(row)
    return rows


def count_levels(reports: Iterable[Mapping[str, Any]]) -> Counter[Level]:
    """Return how many slices of samplers' volumes, by their `metrics.json`, have which verdict."""
    samplers = [report for report in reports if report["nfe"]]
    return Counter(verdict["level"] for report in samplers for verdict in report.get("verdicts", {}).values())


def named_levels(counts: Mapping[Level, int]) -> str:
    """Return `7 trusted, 1 not trusted`, the worst last; `-` where there is no verdict."""
    return ", ".join(f"{counts[level]} {level}" for level in LEVELS if counts[level]) or "-"


def _num_given(report: Mapping[str, Any]) -> int:
    """Return how many slices of a volume show a classical image in place of the method's own."""
    given = {int(index) for index, verdict in report.get("verdicts", {}).items() if verdict.get("given")}
    return len(given | set(report.get("fallback", [])))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table, `mean ± standard deviation` over volumes where there are several."""
    shown = FIGURES | SPREAD
    headings = [heading for heading, _ in shown.values()]
    head = ["mask", "method", "data", "volumes", *headings, "verdict", "given", "s a slice", "NFE", "net"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        figures = [_shown(row, name, form) for name, (_, form) in shown.items()]
        verdict = named_levels({level: row[level.replace(" ", "_")] for level in LEVELS})
        seconds = _shown(row, "seconds_a_slice", ".2f")
        first = [row["mask"], row["method"], row["data"], str(row["volumes"])]
        last = [verdict, str(row["given"] or "-"), seconds, str(row["nfe"] or "-"), f"{row['net_acceleration']:.2f}x"]
        lines.append("| " + " | ".join([*first, *figures, *last]) + " |")
    for row in rows:
        where = f"{row['mask']}, {row['method']}, {row['data']}"
        if instead := row["given"] - row["fallback"]:
            lines += ["", f"{where}: {instead} slices that are not trusted are given as a classical image: the figures"
                      " are of both."]  # fmt: skip
        if row["diverged"]:
            lines += ["", f"{where}: {row['diverged']} samples diverged and are left out, {row['fallback']} slices of"
                      " which none was left are CG-SENSE."]  # fmt: skip
        if row["doubtful"]:
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
