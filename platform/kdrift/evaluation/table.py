"""The table of an evaluation: mean and standard deviation over volumes or slices, and what a paper states beside."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from kdrift.measures.metrics import Per
from kdrift.trust.verdict import Level

if TYPE_CHECKING:
    from kdrift.evaluation.evaluate_config import EvaluateConfig, Published, Value

FIGURES = {"psnr": ("PSNR dB", ".2f"), "ssim": ("SSIM", ".4f"), "nmse": ("NMSE", ".5f")}
"""Figures of quality by their name in `metrics` of metrics.json: heading and format."""
SPREAD = {
    "coverage": ("coverage", ".3f"),
    "std_error_ratio": ("std/error", ".2f"),
    "ause": ("sparsification error", ".4f"),
}
"""Figures of the standard deviation by their name in metrics.json; a method without samples has none."""
DEVIATION = {"deviation": ("deviation", ".4f")}
"""Root mean square of the standard deviation over the brightest value: of a slice, or the mean over a volume's."""
LEVELS: tuple[Level, ...] = get_args(Level)
"""Verdicts, the worst last."""
OLDER = "its figures by slice are missing: an older kdrift made {}; remove that folder, and it is made again"


@dataclass(frozen=True)
class Cell:
    """One method under one mask, of one store, at one value of the sweep."""

    mask: str
    method: str
    reports: list[dict[str, Any]]
    """`metrics.json` of each finished volume."""
    store: str = ""
    """'' where there is one store."""
    value: Value | None = None
    """Value of the sweep."""
    path: str = ""
    """Its folder below `cells`."""

    @property
    def place(self) -> tuple[str, str, str, Any]:
        """Store, mask, method and value, by which its rows and what a paper states of it are found."""
        return self.store, self.mask, self.method, self.value


def observations(cells: Iterable[Cell], per: Per) -> list[dict[str, Any]]:
    """Return the figures of every volume, or of every slice, as long rows: what means, tests and plots are made of.

    Raises ValueError for figures by slice of a volume that was measured without them.
    """
    return [row for cell in cells for report in cell.reports for row in _observed(cell, report, per)]


def _observed(cell: Cell, report: Mapping[str, Any], per: Per) -> list[dict[str, Any]]:
    by_slice = report.get("by_slice")
    if per == "slice" and by_slice is None and "metrics" in report:
        raise ValueError(OLDER.format(f"{cell.path or cell.method} of {report.get('volume', '')}"))
    first = {
        "store": cell.store, "mask": cell.mask, "method": cell.method, "value": cell.value,
        "data": "simulated" if report["simulated"] else "measured", "volume": report.get("volume", ""),
    }  # fmt: skip
    if per == "slice":
        return [first | {"slice": int(index)} | _all_figures(found) for index, found in (by_slice or {}).items()]
    deviations = [found["deviation"] for found in (by_slice or {}).values() if "deviation" in found]
    deviation = {"deviation": statistics.fmean(deviations)} if deviations else {}
    return [first | {"slice": None} | _all_figures({**report.get("metrics", {}), **deviation})]


def _all_figures(found: Mapping[str, float]) -> dict[str, float | None]:
    return {name: found.get(name) for name in (*FIGURES, *DEVIATION)}


def summarise(cells: Sequence[Cell], per: Per = "volume", published: Sequence[Published] = ()) -> list[dict[str, Any]]:
    """Return the rows of the table; simulated and measured data never share a row.

    What a paper states stands in the row of its place; what it states of methods that are not run here, in rows of
    their own, with the data "published".
    """
    rows = [row for cell in cells for row in _rows_of(cell, per)]
    stated = {_place(each): each for each in published if each.method}
    rows = [row | _stated(stated.get((row["store"], row["mask"], row["method"], row["value"]))) for row in rows]
    blank = dict.fromkeys(rows[0]) if rows else {}
    for other in (each for each in published if each.other):
        store, mask, _, value = _place(other)
        beside = [number for number, row in enumerate(rows) if (row["store"], row["mask"]) == (store, mask)]
        if not beside:  # nothing was measured under that mask
            continue
        last = max([number for number in beside if rows[number]["value"] == value] or beside)
        place = {"store": store, "mask": mask, "method": other.other, "value": value, "data": "published"}
        rows.insert(last + 1, blank | place | {"volumes": 0, "slices": 0} | _stated(other))
    return rows


def _place(stated: Published) -> tuple[str, str, str, Any]:
    return stated.store or "", stated.mask, stated.method or "", stated.value


def _rows_of(cell: Cell, per: Per) -> Iterable[dict[str, Any]]:
    for data in ("measured", "simulated"):
        reports = [r for r in cell.reports if r["simulated"] == (data == "simulated")]
        if not reports:
            continue
        row: dict[str, Any] = {"store": cell.store, "mask": cell.mask, "method": cell.method, "value": cell.value}
        row |= {"data": data, "volumes": len(reports), "slices": sum(len(r["slices"]) for r in reports)}
        observed = [each for report in reports for each in _observed(cell, report, per)]
        for figure in (*FIGURES, *DEVIATION):
            row |= _spread(figure, [each[figure] for each in observed if each[figure] is not None])
        for figure in SPREAD:
            row |= _spread(figure, [r[figure] for r in reports if r.get(figure) is not None])
        row |= _spread("seconds_a_slice", [r["seconds"] / len(r["slices"]) for r in reports])
        row["nfe"] = reports[0]["nfe"]
        row["diverged"] = sum(len(found) for r in reports for found in r.get("diverged", {}).values())
        row["doubtful"] = sum(bool(r.get("reference_fit", {}).get("doubts")) for r in reports)
        row["failed"] = sum(len(r.get("failed", {})) for r in reports)
        row["fallback"] = sum(len(r.get("fallback", [])) for r in reports)
        levels = count_levels(reports)
        row |= {level.replace(" ", "_"): levels[level] for level in LEVELS}
        row["given"] = sum(map(_num_given, reports))
        row["net_acceleration"] = statistics.fmean(r["net_acceleration"] for r in reports)
        yield row


def _stated(published: Published | None) -> dict[str, Any]:
    """Return what a paper states as columns."""
    values: dict[str, Any] = {}
    for name in FIGURES:
        mean, std = (getattr(published, name) if published else None) or (None, None)
        values |= {f"{name}_published": mean, f"{name}_published_std": std}
    return values | {"where": published.where if published else None}


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


@dataclass(frozen=True)
class Column:
    """A column as it is shown."""

    name: str
    """Key of the row that it is of, or of what it begins with."""
    heading: str
    number: bool = True
    """Whether it is aligned and sorted as a number."""


def shown_columns(rows: Sequence[Mapping[str, Any]], config: EvaluateConfig | None = None) -> list[Column]:
    """Return the columns that a table of these rows has: those that say nothing are left out."""
    by_slice = config is not None and config.per == "slice"
    label = config.sweep.label if config is not None and config.sweep else "value"
    told = {name for name in ("store", "value") if any(row[name] not in ("", None) for row in rows)}
    columns = [Column("store", "store", number=False)] if "store" in told else []
    columns += [Column("mask", "mask", number=False), Column("method", "method", number=False)]
    columns += [Column("value", label)] if "value" in told else []
    columns += [Column("data", "data", number=False), Column("volumes", "volumes")]
    columns += [Column("slices", "slices")] if by_slice else []
    for name, (heading, _) in FIGURES.items():
        columns.append(Column(name, heading))
        if any(row.get(f"{name}_published") is not None for row in rows):
            columns.append(Column(f"{name}_published", f"{heading}, published"))
    if any(row.get("where") for row in rows):
        columns.append(Column("where", "stated in", number=False))
    swept = config is not None and config.sweep is not None
    columns += [Column("deviation", "deviation")] if swept and any(row.get("deviation_mean") for row in rows) else []
    columns += [Column(name, heading) for name, (heading, _) in SPREAD.items()]
    columns += [Column("verdict", "verdict", number=False), Column("given", "given")]
    columns += [Column("seconds_a_slice", "s a slice"), Column("nfe", "NFE")]
    return [*columns, Column("net_acceleration", "net")]


def shown(row: Mapping[str, Any], name: str) -> str:
    """Return a row's entry of a column as text; `-` where there is none."""
    forms = {key: form for key, (_, form) in (FIGURES | SPREAD | DEVIATION).items()} | {"seconds_a_slice": ".2f"}
    if name in forms:
        return spread_text(row[f"{name}_mean"], row[f"{name}_std"], forms[name])
    if name.endswith("_published"):
        return spread_text(row[name], row[f"{name}_std"], "g")
    if name == "verdict":
        return named_levels({level: row[level.replace(" ", "_")] or 0 for level in LEVELS})
    if name == "net_acceleration":
        return "-" if row[name] is None else f"{row[name]:.2f}x"
    blank = row[name] in (None, "") or (name in ("given", "nfe", "volumes", "slices") and not row[name])
    return "-" if blank else str(row[name])


def spread_text(mean: float | None, std: float | None, form: str) -> str:
    """Return `mean ± standard deviation`, without the deviation where there is none; `-` without either."""
    return "-" if mean is None else f"{mean:{form}}" + ("" if std is None else f" ± {std:{form}}")


def remarks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return sentences on rows whose figures are not what they seem."""
    lines = []
    for row in (row for row in rows if row["data"] != "published"):
        places = (row["store"], row["mask"], row["method"], row["value"], row["data"])
        where = ", ".join(str(place) for place in places if place not in ("", None))
        if instead := row["given"] - row["fallback"]:
            lines.append(f"{where}: {instead} slices that are not trusted are given as a classical image: the figures"
                         " are of both.")  # fmt: skip
        if row["failed"]:
            lines.append(f"{where}: {row['failed']} slices failed and are left out of the figures (failed in"
                         " metrics.json).")  # fmt: skip
        if row["diverged"]:
            lines.append(f"{where}: {row['diverged']} samples diverged and are left out, {row['fallback']} slices of"
                         " which none was left are CG-SENSE.")  # fmt: skip
        if row["doubtful"]:
            lines.append(f"{where}: the figures of {row['doubtful']} of {row['volumes']} volumes are doubtful,"
                         " as their stored reference does not fit (see notes in metrics.json).")  # fmt: skip
    return lines


def markdown(rows: Sequence[Mapping[str, Any]], config: EvaluateConfig | None = None) -> str:
    """Return the rows as a Markdown table, `mean ± standard deviation` where there are several."""
    columns = shown_columns(rows, config)
    lines = ["| " + " | ".join(column.heading for column in columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(shown(row, column.name)) for column in columns) + " |" for row in rows]
    for line in remarks(rows):
        lines += ["", line]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _spread(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """Return mean and standard deviation (ddof 1, None for a single one)."""
    return {
        f"{name}_mean": statistics.fmean(values) if values else None,
        f"{name}_std": statistics.stdev(values) if len(values) > 1 else None,
    }
