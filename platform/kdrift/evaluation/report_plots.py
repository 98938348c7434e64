"""The plots of a report: box plots of each mask, curves over a sweep, agreement of pairs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from kdrift.evaluation.evaluate_config import EvaluateConfig, Value
from kdrift.evaluation.paired import Comparison
from kdrift.evaluation.svg_plots import COLOURS, Curve, Group, agreement_plot, box_plot, curve_plot
from kdrift.evaluation.table import DEVIATION, FIGURES

BOXED = ("psnr", "ssim")
"""Figures with box plots; NMSE orders methods as PSNR does."""
Rows = Sequence[Mapping[str, Any]]


def boxes(rows: Rows, observed: Rows, config: EvaluateConfig) -> str:
    """Return a box plot of each figure under each mask of each store; simulated and measured data apart."""
    colours = _colours(config)
    places = dict.fromkeys(
        (row["store"], row["mask"], _mask_value(row, config), row["data"]) for row in rows if row["data"] != "published"
    )
    parts = []
    for store, mask, value, data in places:
        chosen = [row for row in rows if (row["store"], row["mask"], _mask_value(row, config)) == (store, mask, value)]
        plots = []
        for figure in BOXED:
            groups = []
            for row in (row for row in chosen if row["data"] == data):
                values = [
                    each[figure] for each in observed
                    if all(each[key] == row[key] for key in ("store", "mask", "method", "value", "data"))
                    and each[figure] is not None
                ]  # fmt: skip
                groups.append(Group(_name(row, config), values, colours[row["method"]], row[f"{figure}_published"]))
            plots.append(box_plot(groups, FIGURES[figure][0]))
        parts.append(_plots(_heading(store, mask, value, data), plots))
    words = f"A dot is one {config.per}; box: quartiles and median; whiskers: to the last value within 1.5 box lengths;"
    words += " diamond: the mean that the paper states." if any(row["where"] for row in rows) else ""
    return f"<p class='dim'>{words.rstrip(';')}</p>" + "".join(parts) if parts else ""


def curves(rows: Rows, config: EvaluateConfig) -> str:
    """Return figures over the values of a sweep; nothing where these are no numbers.

    Methods without a value are drawn as a level line.
    """
    assert config.sweep is not None
    values = [value for value in config.sweep.values if isinstance(value, int | float)]
    if len(values) < max(2, len(config.sweep.values)):
        return ""
    colours, parts = _colours(config), []
    measured = [row for row in rows if row["data"] != "published"]
    for store, mask, data in dict.fromkeys((row["store"], row["mask"], row["data"]) for row in measured):
        chosen = [row for row in rows if (row["store"], row["mask"], row["data"]) == (store, mask, data)]
        plots = []
        for figure, (heading, _) in (FIGURES | DEVIATION).items():
            found = []
            for method in dict.fromkeys(row["method"] for row in chosen):
                own = [row for row in chosen if row["method"] == method and row.get(f"{figure}_mean") is not None]
                stated = [row for row in own if row.get(f"{figure}_published") is not None]
                points = [point for row in own for point in _points(row, figure, values)]
                published = [
                    (x, row[f"{figure}_published"]) for row in stated for x, *_ in _points(row, figure, values)
                ]
                found.append(Curve(method, sorted(points), colours[method], sorted(published)))
            plots.append(curve_plot(found, config.sweep.label, heading))
        parts.append(_plots(_heading(store, mask, None, data), plots))
    words = "Line: mean; band: one standard deviation; diamonds and dashes: what the paper states."
    return f"<p class='dim'>{words}</p>" + "".join(parts)


def _points(row: Mapping[str, Any], figure: str, values: Sequence[float]) -> Iterable[tuple[float, float, float]]:
    for x in values if row["value"] is None else [row["value"]]:
        yield float(x), row[f"{figure}_mean"], row[f"{figure}_std"] or 0.0


def agreements(comparisons: Sequence[Comparison], observed: Rows) -> str:
    """Return Bland-Altman plots of PSNR, of each pair of methods under each mask."""
    parts: dict[str, list[str]] = {}
    for row in (each for each in comparisons if each.figure == "psnr" and each.pairs > 1):
        of = {
            name: {
                (each["volume"], each["slice"]): each["psnr"] for each in observed
                if (each["store"], each["mask"], each["data"], each["method"])
                == (row.store, row.mask, row.data, name) and each["value"] in (row.value, None)
                and each["psnr"] is not None and math.isfinite(each["psnr"])
            }
            for name in (row.against, row.method)
        }  # fmt: skip
        own, theirs = of[row.against], of[row.method]
        keys = own.keys() & theirs.keys()
        first, second = [own[key] for key in keys], [theirs[key] for key in keys]
        heading = _heading(row.store, row.mask, row.value, row.data)
        plot = agreement_plot(first, second, (row.against, row.method), "PSNR dB")
        parts.setdefault(heading, []).append(plot)
    found = "".join(_plots(heading, plots) for heading, plots in parts.items())
    words = "Agreement (Bland and Altman): solid, the bias; dashed, its 95 % limits."
    return f"<h3>Agreement</h3><p class='dim'>{words}</p>{found}" if found else ""


def _plots(heading: str, plots: Iterable[str]) -> str:
    drawn = [f"<figure>{plot}</figure>" for plot in plots if plot]
    return f'<h3>{escape(heading)}</h3><div class="plots">{"".join(drawn)}</div>' if drawn else ""


def _colours(config: EvaluateConfig) -> dict[str, str]:
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(config.methods)}


def _mask_value(row: Mapping[str, Any], config: EvaluateConfig) -> Value | None:
    """The value of the sweep where it is one of the masks, which then are several."""
    return row["value"] if config.sweep and config.sweep.table == "masks" else None


def _name(row: Mapping[str, Any], config: EvaluateConfig) -> str:
    told = row["value"] is not None and config.sweep is not None and config.sweep.table == "methods"
    return f"{row['method']}, {row['value']}" if told else str(row["method"])


def _heading(store: str, mask: str, value: Value | None, data: str) -> str:
    return ", ".join(filter(None, (store, mask, "" if value is None else str(value), data)))
