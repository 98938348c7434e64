"""`report.html` of an evaluation: one file that opens from disk, with all that it shows inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import yaml

from kdrift.evaluation.cells import CellName
from kdrift.evaluation.evaluate_config import EvaluateConfig
from kdrift.evaluation.paired import Comparison
from kdrift.evaluation.report_plots import agreements, boxes, curves
from kdrift.evaluation.slice_pictures import slice_figure
from kdrift.evaluation.table import FIGURES, Column, remarks, shown, shown_columns
from kdrift.evaluation.table_files import best_cells, comparison_cells, comparison_headings, comparison_words
from kdrift.evaluation.work import VolumeTask
from kdrift.notice import RESEARCH_ONLY
from kdrift.recon.report import MARK
from kdrift.runs.config import to_dict
from kdrift.runs.files import write_text

PAGE = Path(__file__).parent / "page"
OPEN = 3
"""Pictures that are shown at once; the others open by a click."""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    anchor: str
    heading: str
    body: str


def write_report(
    path: Path,
    config: EvaluateConfig,
    tasks: Mapping[CellName, Sequence[VolumeTask]],
    rows: Sequence[Mapping[str, Any]],
    observed: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Comparison],
) -> None:
    """Write the page: table, pictures, box plots, curves, paired comparisons, and how everything was made."""
    sections = [
        Section("results", "Results", _results(rows, config)),
        Section("curves", "Curves", curves(rows, config) if config.sweep else ""),
        Section("pictures", "Reconstructions", _pictures(tasks)),
        Section("distributions", "Distributions", boxes(rows, observed, config)),
        Section("comparisons", "Paired comparisons", _comparisons(comparisons, observed, config)),
        Section("methods", "How it was made", _how(tasks, config)),
    ]
    sections = [section for section in sections if section.body]
    title = escape(config.title or config.name)
    links = "".join(f'<a href="#{section.anchor}">{section.heading}</a>' for section in sections)
    body = "".join(
        f'<section id="{section.anchor}"><h2>{section.heading}</h2>{section.body}</section>' for section in sections
    )
    absent = [name.path for name, cell in tasks.items() if not any((task.out / MARK).is_file() for task in cell)]
    said = _notes(rows, config)
    said += [f"Not in the table, as no volume is finished: {', '.join(absent)}."] if absent else []
    notes = "".join(f"<li>{escape(note)}</li>" for note in said)
    write_text(
        path,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        f"<style>{(PAGE / 'report.css').read_text()}</style></head><body><header><h1>{title}</h1><ul>{notes}</ul>"
        f"<nav>{links}</nav></header><main>{body}</main><footer class='dim'>{escape(RESEARCH_ONLY)}</footer>"
        f"<script>{(PAGE / 'report.js').read_text()}</script></body></html>\n",
    )


def _notes(rows: Sequence[Mapping[str, Any]], config: EvaluateConfig) -> list[str]:
    """Return the sentences that the page begins with."""
    notes = list(config.notes)
    if config.size == "small":
        values = "; ".join(f"{key} = {value}" for key, value in config.small.items())
        notes.append(f"A small run, with these in place of the paper's: {values}.")
    ranges = "its volume's maximum" if config.per == "volume" else "its own maximum"
    notes.append(
        f"Mean and standard deviation over {config.per}s; PSNR and SSIM of magnitude images, a {config.per} with"
        f" {ranges} as data range, SSIM window 7."
    )
    if any(row["data"] == "simulated" for row in rows):
        notes.append("Rows marked simulated are of k-space that was simulated from magnitude images.")
    if any(row["where"] for row in rows):
        notes.append("Published figures are of the paper's own data and networks: beside them, not against them.")
    return notes


def _results(rows: Sequence[Mapping[str, Any]], config: EvaluateConfig) -> str:
    if not rows:
        return "<p>No volume is finished yet.</p>"
    best = best_cells(rows, config)
    columns = [each for each in shown_columns(rows, config) if any(shown(row, each.name) != "-" for row in rows)]
    lines, before = [], None
    for number, row in enumerate(rows):
        group = (row["store"], row["mask"])
        kinds = [*(["first"] if before not in (None, group) else []), *(["published"] * (row["data"] == "published"))]
        cells = "".join(_entry(row, column, (number, column.name) in best) for column in columns)
        lines.append(f'<tr class="{" ".join(kinds)}">{cells}</tr>')
        before = group
    caption = "Bold: the best that was measured under a mask. Press a heading to sort."
    after = "".join(f"<p>{escape(line)}</p>" for line in remarks(rows))
    return _table([(column.heading, column.number) for column in columns], lines, caption) + after


def _entry(row: Mapping[str, Any], column: Column, best: bool) -> str:
    value = next((row[key] for key in (f"{column.name}_mean", column.name) if key in row), None)
    kinds = ["number"] * column.number + ["best"] * best + ["stated"] * column.name.endswith("_published")
    kinds += ["wide"] * (column.name in ("verdict", "where"))
    text = shown(row, column.name)
    sort = text if not column.number else "" if value is None else str(value)
    return f'<td class="{" ".join(kinds)}" data-sort="{escape(sort)}">{escape(text)}</td>'


def _table(headings: Sequence[tuple[str, bool]], lines: Sequence[str], caption: str) -> str:
    head = "".join(
        f'<th scope="col"{" class=number" if number else ""}><button type="button">{escape(text)}</button></th>'
        for text, number in headings
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="table"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _pictures(tasks: Mapping[CellName, Sequence[VolumeTask]]) -> str:
    """Return one slice under each mask of each store, as the papers show them."""
    groups: dict[tuple[str, str], dict[str, list[tuple[str, VolumeTask]]]] = {}
    for name, cell in tasks.items():
        volumes = groups.setdefault((name.store, str(name.mask)), {})
        for task in cell:
            volumes.setdefault(task.out.name, []).append((str(name.method), task))
    parts: list[str] = []
    for (store, mask), volumes in groups.items():
        figures = (slice_figure(chosen) for chosen in sorted(volumes.values(), key=len, reverse=True))
        if figure := next((figure for figure in figures if figure), ""):
            heading = escape(" ".join(filter(None, (store, mask))))
            opened = " open" if len(parts) < OPEN else ""
            parts.append(f"<details{opened}><summary>{heading}</summary>{figure}</details>")
    return "".join(parts)


def _comparisons(
    comparisons: Sequence[Comparison], observed: Sequence[Mapping[str, Any]], config: EvaluateConfig
) -> str:
    if not comparisons:
        return ""
    headings = comparison_headings(comparisons[0].against)
    numbers = [heading not in ("figure", "mask", "data", "method") for heading in headings]
    lines = []
    for row in comparisons:
        numeric = (row.pairs, row.volumes, row.difference, row.low, row.limit_low, row.p, row.p_holm)
        sorts = [None, None, None, None, *numeric]
        cells = "".join(
            f'<td class="{"number" if number else ""}" data-sort="{escape(text if sort is None else str(sort))}">'
            f"{escape(text)}</td>"
            for text, sort, number in zip(comparison_cells(row), sorts, numbers, strict=True)
        )
        lines.append(f"<tr>{cells}</tr>")
    caption = f"{comparisons[0].against} against every other method, on the same {config.per}s."
    words = "".join(f"<p>{escape(line)}</p>" for line in comparison_words(comparisons, config))
    table = _table(list(zip(headings, numbers, strict=True)), lines, caption)
    return table + words + agreements(comparisons, observed)


def _how(tasks: Mapping[CellName, Sequence[VolumeTask]], config: EvaluateConfig) -> str:
    """Return what each method was, and the configuration."""
    plans = {str(name.method): cell[0].plan for name, cell in tasks.items() if cell}
    lines = []
    for name, plan in plans.items():
        prior = f"{plan.prior.name} ({plan.prior.sha256[:12]})" if plan.prior else "-"
        samples = str(plan.num_samples) if plan.prior else "-"
        words = [name, plan.plan.method, plan.preset.name, prior, str(plan.options.evaluations or "-"), samples]
        changed = ", ".join(f"{key} {value}" for key, value in plan.plan.settings.items()) or "-"
        lines.append("<tr>" + "".join(f'<td class="wide">{escape(word)}</td>' for word in (*words, changed)) + "</tr>")
    headings = ("name", "method", "preset", "prior (SHA-256)", "NFE", "samples", "settings besides the preset")
    table = _table([(heading, False) for heading in headings], lines, "The methods as they were run.")
    shown_config = escape(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))
    figures = ", ".join(heading for heading, _ in FIGURES.values())
    return (
        f"{table}<details><summary>Configuration</summary><pre>{shown_config}</pre></details>"
        f"<p class='dim'>{figures}: fastMRI's definitions. Beside this page lie table.md, .csv, .json, .parquet and"
        " .tex, and cells/ with every reconstruction.</p>"
    )
