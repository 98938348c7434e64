"""The table of an evaluation as files: Markdown, CSV, JSON, Parquet and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdrift.evaluation.evaluate_config import EvaluateConfig
from kdrift.evaluation.paired import LEVEL, Comparison
from kdrift.evaluation.table import FIGURES, Cell, markdown, shown, shown_columns
from kdrift.runs.files import whole_file, write_json, write_text

SIGNIFICANT = 0.05
LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "|": r"\textbar{}",
        "<": r"\textless{}", ">": r"\textgreater{}",
    }
)  # fmt: skip
"""What TeX reads as commands."""


def write_tables(
    out: Path,
    config: EvaluateConfig,
    cells: Sequence[Cell],
    rows: Sequence[Mapping[str, Any]],
    observed: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Comparison],
) -> str:
    """Write `table.md`, `.csv`, `.json`, `.parquet`, `.tex`, `observations.parquet`; return the Markdown.

    The JSON also holds `metrics.json` of every volume; `observations.parquet` has a row a volume or slice, and
    `comparisons.parquet` is there where methods are compared.
    """
    text = markdown(rows, config)
    if comparisons:
        text += f"\n{comparisons_markdown(comparisons, config)}"
    stream = io.StringIO()
    if rows:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    volumes = [
        {"store": cell.store, "mask": cell.mask, "method": cell.method, "value": cell.value, **report}
        for cell in cells
        for report in cell.reports
    ]
    compared = [asdict(each) for each in comparisons]
    write_text(out / "table.md", text)
    write_text(out / "table.csv", stream.getvalue())
    write_text(out / "table.tex", latex(rows, config))
    write_json(out / "table.json", {"rows": rows, "comparisons": compared, "volumes": volumes})
    for name, values in {"table": rows, "observations": observed, "comparisons": compared}.items():
        (out / f"{name}.parquet").unlink(missing_ok=True)
        if values:
            _write_parquet(out / f"{name}.parquet", values)
    return text


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same columns; those whose values are of several kinds become text."""
    import pyarrow
    import pyarrow.parquet

    columns = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        kinds = {type(value) for value in values if value is not None}
        mixed = len(kinds) > 1 and not kinds <= {int, float}
        columns[name] = [None if value is None else str(value) for value in values] if mixed else values
    with whole_file(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.table(columns), temporary)


def comparison_cells(row: Comparison) -> list[str]:
    """Return what is shown of a comparison, in the order of `COMPARISON_HEADINGS`."""
    heading, form = FIGURES[row.figure]
    sign = form.replace(".", "+.")
    value = "" if row.value is None else str(row.value)
    mask = " ".join(filter(None, (row.store, row.mask, value)))
    return [
        heading, mask, row.data, row.method, str(row.pairs), str(row.volumes), f"{row.difference:{sign}}",
        "-" if row.low is None else f"{row.low:{sign}} to {row.high:{sign}}",
        f"{row.limit_low:{sign}} to {row.limit_high:{sign}}" if row.pairs > 1 else "-",
        f"{row.p:.2g}", f"{row.p_holm:.2g}{' *' if row.p_holm < SIGNIFICANT else ''}",
    ]  # fmt: skip


def comparison_headings(against: str) -> list[str]:
    """Return the headings of the comparisons with a method."""
    interval = f"{LEVEL:.0%}"
    return ["figure", "mask", "data", "method", "pairs", "volumes", f"{against} minus method", f"{interval} interval",
            f"{interval} limits of agreement", "p", "p, Holm"]  # fmt: skip


def comparison_words(comparisons: Sequence[Comparison], config: EvaluateConfig) -> list[str]:
    """Return how the comparisons were made and what they cannot say, as sentences."""
    lines = [
        f"Pairs are {config.per}s that both methods have reconstructed. p: two-sided Wilcoxon signed-rank test; Holm:"
        f" corrected over all tests of one figure in this table; * below {SIGNIFICANT:g}. Intervals: percentile"
        " bootstrap of the mean difference. Limits of agreement: Bland and Altman."
    ]
    if config.per == "slice":
        lines.append("Slices of one volume are alike: tests, mean differences and their intervals are of the means of"
                     " volumes, limits of agreement of slices. Volumes of one patient count as several.")  # fmt: skip
    fewest = min(row.volumes for row in comparisons)
    if 2 / 2**fewest > SIGNIFICANT:
        lines.append(f"With {fewest} volumes no p can be below {2 / 2**fewest:.2g}: too few to tell methods apart.")
    return lines


def comparisons_markdown(comparisons: Sequence[Comparison], config: EvaluateConfig) -> str:
    """Return the comparisons as a Markdown table under a heading."""
    headings = comparison_headings(comparisons[0].against)
    lines = ["## Paired comparisons", "", "| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    lines += ["| " + " | ".join(comparison_cells(row)) + " |" for row in comparisons]
    for sentence in comparison_words(comparisons, config):
        lines += ["", sentence]
    return "\n".join(lines) + "\n"


def latex(rows: Sequence[Mapping[str, Any]], config: EvaluateConfig) -> str:
    """Return the figures of quality as a `tabular` in the papers' form, for booktabs; the best of a mask is bold."""
    wanted = {"store", "mask", "method", "value", "data", *FIGURES, *(f"{name}_published" for name in FIGURES)}
    columns = [column for column in shown_columns(rows, config) if column.name in wanted]
    heading = " & ".join(_tex(column.heading) for column in columns)
    lines = [
        r"% \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{''.join('r' if column.number else 'l' for column in columns)}}}",
        r"\toprule", rf"{heading} \\",
    ]  # fmt: skip
    group: tuple[Any, ...] | None = None
    best = best_cells(rows, config)
    for number, row in enumerate(rows):
        if (row["store"], row["mask"]) != group:
            group = (row["store"], row["mask"])
            lines.append(r"\midrule")
        words = []
        for column in columns:
            text = _tex(shown(row, column.name))
            words.append(rf"\textbf{{{text}}}" if (number, column.name) in best else text)
        lines.append(" & ".join(words) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def best_cells(rows: Sequence[Mapping[str, Any]], config: EvaluateConfig) -> set[tuple[int, str]]:
    """Return the best rows, by their number, of each measured figure under each mask; none where one is alone."""
    masks_vary = config.sweep is not None and config.sweep.table == "masks"
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, row in enumerate(rows):
        value = row["value"] if masks_vary else None
        groups.setdefault((row["store"], row["mask"], value, row["data"]), []).append(number)
    found = set()
    for numbers in groups.values():
        for name in FIGURES:
            values = {n: rows[n][f"{name}_mean"] for n in numbers if rows[n][f"{name}_mean"] is not None}
            if len(values) > 1:
                top = (min if name == "nmse" else max)(values.values())
                found |= {(n, name) for n, value in values.items() if value == top}
    return found


def _tex(text: str) -> str:
    return text.translate(LATEX)
