"""Box plots, curves and Bland-Altman plots as SVG text: it scales, prints, and takes the page's colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from kdrift.evaluation.paired import bland_altman

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6fc1", "#8c564b")
"""Okabe and Ito's, which people with any colour vision tell apart, and two more."""
WIDTH = 480
"""Width of a plot in its own units; about pixels."""


@dataclass(frozen=True)
class Group:
    """Values of one method."""

    name: str
    values: Sequence[float]
    colour: str
    published: float | None = None
    """Mean that a paper states."""


@dataclass(frozen=True)
class Curve:
    """Means of one method over the values of a sweep."""

    name: str
    points: Sequence[tuple[float, float, float]]
    """x, mean, standard deviation (0 where there is none)."""
    colour: str
    published: Sequence[tuple[float, float]] = ()
    """x and mean that a paper states."""


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers from within [low, high]: multiples of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(step * n, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def box_plot(groups: Sequence[Group], heading: str) -> str:
    """Draw a box a method: median, quartiles, whiskers to the last value within 1.5 box lengths (Tukey), all values as
    dots where they are 40 or fewer; a diamond where a paper states a mean."""
    groups = [group for group in groups if len(_finite(group.values)) or group.published is not None]
    every = [v for group in groups for v in (*_finite(group.values), *_given(group.published))]
    if not every:
        return ""
    left, row, top = _room([group.name for group in groups]), 26, 8
    height = top + row * len(groups) + 40
    to_x, low, high = _scale(every, left, WIDTH - 12)
    parts = [_x_axis(to_x, low, high, top, height - 40, heading)]
    for number, group in enumerate(groups):
        y, values = top + row * (number + 0.5), np.sort(_finite(group.values))
        parts.append(_text(left - 8, y + 4, _short(group.name), "end", group.name))
        if len(values):
            parts.append(_box(values, to_x, y, group))
        if group.published is not None:
            parts.append(_diamond(to_x(group.published), y, f"{group.name}, published: {group.published:g}"))
    return _svg(height, parts, f"Box plot of {heading}: {', '.join(group.name for group in groups)}")


def _box(values: np.ndarray, to_x: Callable[[float], float], y: float, group: Group) -> str:
    first, middle, third = np.quantile(values, [0.25, 0.5, 0.75])
    reach = 1.5 * (third - first)
    start, stop = values[values >= first - reach][0], values[values <= third + reach][-1]
    said = f"{group.name}: median {middle:.4g}, quartiles {first:.4g} to {third:.4g}, {len(values)} values"
    box = [
        f'<line class="whisker" x1="{to_x(start):.1f}" x2="{to_x(stop):.1f}" y1="{y}" y2="{y}"/>',
        f'<rect x="{to_x(first):.1f}" width="{max(1.0, to_x(third) - to_x(first)):.1f}" y="{y - 8}" height="16"'
        f' fill="{group.colour}" fill-opacity=".25" stroke="{group.colour}"/>',
        f'<line x1="{to_x(middle):.1f}" x2="{to_x(middle):.1f}" y1="{y - 8}" y2="{y + 8}" stroke="{group.colour}"'
        ' stroke-width="2.5"/>',
    ]
    shown = values if len(values) <= 40 else values[(values < start) | (values > stop)]
    box += [f'<circle cx="{to_x(v):.1f}" cy="{y}" r="2.2" fill="{group.colour}"/>' for v in shown]
    return f"<g><title>{escape(said)}</title>{''.join(box)}</g>"


def curve_plot(curves: Sequence[Curve], x_heading: str, y_heading: str) -> str:
    """Draw a line a method with a band of one standard deviation; diamonds and dashes where a paper states means.

    The horizontal axis is logarithmic where its values span more than a factor of 20.
    """
    curves = [curve for curve in curves if curve.points or curve.published]
    xs = sorted({x for curve in curves for x, *_ in (*curve.points, *curve.published)})
    ys = [v for curve in curves for _, mean, std in curve.points for v in (mean - std, mean + std)]
    ys = _finite([*ys, *(mean for curve in curves for _, mean in curve.published)])
    if not xs or not ys:
        return ""
    logarithmic = xs[0] > 0 and xs[-1] / xs[0] > 20
    bend = math.log10 if logarithmic else float
    left, right, top, bottom = 52, WIDTH - 14, 10, 230
    height = bottom + 46 + 18 * len(curves)
    to_x, *_ = _scale([bend(x) for x in xs], left, right)
    to_y, low, high = _scale(ys, bottom, top)
    parts = [_y_axis(to_y, low, high, left, right)]
    parts += [_tick(to_x(bend(x)), bottom, f"{x:g}") for x in xs]
    parts.append(_text((left + right) / 2, bottom + 34, x_heading, "middle"))
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    for number, curve in enumerate(curves):
        points = [point for point in curve.points if math.isfinite(point[1])]
        upper = [f"{to_x(bend(x)):.1f},{to_y(mean + std):.1f}" for x, mean, std in points]
        lower = [f"{to_x(bend(x)):.1f},{to_y(mean - std):.1f}" for x, mean, std in reversed(points)]
        line = " ".join(f"{to_x(bend(x)):.1f},{to_y(mean):.1f}" for x, mean, _ in points)
        parts.append(f'<polygon points="{" ".join(upper + lower)}" fill="{curve.colour}" fill-opacity=".12"/>')
        parts.append(f'<polyline points="{line}" fill="none" stroke="{curve.colour}" stroke-width="2"/>')
        for x, mean, std in points:
            said = f"{curve.name}, {x_heading} {x:g}: {mean:.4g} ± {std:.2g}"
            parts.append(
                f'<circle cx="{to_x(bend(x)):.1f}" cy="{to_y(mean):.1f}" r="3.5" fill="{curve.colour}">'
                f"<title>{escape(said)}</title></circle>"
            )
        stated = " ".join(f"{to_x(bend(x)):.1f},{to_y(mean):.1f}" for x, mean in curve.published)
        parts.append(f'<polyline class="stated" points="{stated}" stroke="{curve.colour}"/>')
        for x, mean in curve.published:
            parts.append(_diamond(to_x(bend(x)), to_y(mean), f"{curve.name}, published, {x:g}: {mean:g}", curve.colour))
        y = bottom + 50 + 18 * number
        parts.append(f'<rect x="{left}" y="{y - 6}" width="14" height="6" fill="{curve.colour}"/>')
        parts.append(_text(left + 20, y + 1, curve.name, "start"))
    parts.append(_text(left, top - 1, y_heading, "start"))
    return _svg(height, parts, f"{y_heading} over {x_heading}: {', '.join(curve.name for curve in curves)}")


def agreement_plot(first: Sequence[float], second: Sequence[float], names: tuple[str, str], heading: str) -> str:
    """Draw difference over mean of pairs (Bland and Altman 1986), with bias and limits of agreement."""
    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    limits = bland_altman(one, two)
    means, differences = (one + two) / 2, one - two
    left, right, top, bottom = 52, WIDTH - 14, 26, 190
    lines = {"bias": limits.bias, "lower limit": limits.low, "upper limit": limits.high}
    lines = {name: value for name, value in lines.items() if math.isfinite(value)}
    to_x, low, high = _scale(list(means), left, right)
    to_y, y_low, y_high = _scale([*differences, *lines.values(), 0.0], bottom, top)
    parts = [_y_axis(to_y, y_low, y_high, left, right)]
    parts += [_tick(to_x(x), bottom, f"{x:g}") for x in nice_ticks(low, high)]
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    for name, value in lines.items():
        kind = "bias" if name == "bias" else "limit"
        parts.append(
            f'<line class="{kind}" x1="{left}" x2="{right}" y1="{to_y(value):.1f}" y2="{to_y(value):.1f}">'
            f"<title>{name}: {value:+.4g}</title></line>"
        )
    parts += [
        f'<circle cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="3" fill="{COLOURS[0]}" fill-opacity=".7"/>'
        for x, y in zip(means, differences, strict=True)
    ]
    parts.append(_text(left, top - 12, f"{names[0]} minus {names[1]}", "start"))
    parts.append(_text((left + right) / 2, bottom + 34, f"mean of both, {heading}", "middle"))
    return _svg(bottom + 44, parts, f"Bland-Altman plot of {heading}: {names[0]} and {names[1]}")


def _scale(values: Sequence[float], start: float, stop: float) -> tuple[Callable[[float], float], float, float]:
    """Return a map from values with a margin to places from `start` to `stop`, and the range that it has."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - margin, high + margin
    return lambda value: start + (value - low) / (high - low) * (stop - start), low, high


def _x_axis(to_x: Callable[[float], float], low: float, high: float, top: float, bottom: float, heading: str) -> str:
    lines = [
        f'<line class="grid" x1="{to_x(x):.1f}" x2="{to_x(x):.1f}" y1="{top}" y2="{bottom}"/>'
        + _tick(to_x(x), bottom, f"{x:g}")
        for x in nice_ticks(low, high)
    ]
    return "".join(lines) + _text((to_x(low) + to_x(high)) / 2, bottom + 33, heading, "middle")


def _y_axis(to_y: Callable[[float], float], low: float, high: float, left: float, right: float) -> str:
    return "".join(
        f'<line class="grid" x1="{left}" x2="{right}" y1="{to_y(y):.1f}" y2="{to_y(y):.1f}"/>'
        + _text(left - 6, to_y(y) + 4, f"{y:g}", "end")
        for y in nice_ticks(low, high)
    )


def _tick(x: float, bottom: float, text: str) -> str:
    return f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>' + _text(
        x, bottom + 17, text, "middle"
    )


def _text(x: float, y: float, text: str, anchor: str, whole: str = "") -> str:
    title = f"<title>{escape(whole)}</title>" if whole and whole != text else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{title}{escape(text)}</text>'


def _diamond(x: float, y: float, said: str, colour: str = "currentColor") -> str:
    path = f"M{x:.1f} {y - 6:.1f}l5 6l-5 6l-5-6z"
    return f'<path class="stated" d="{path}" stroke="{colour}"><title>{escape(said)}</title></path>'


def _svg(height: float, parts: Sequence[str], label: str) -> str:
    body = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}">{body}</svg>'


def _room(names: Sequence[str]) -> float:
    """Return how much room names need at the left."""
    return 16 + 7.2 * min(24, max(len(name) for name in names))


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"


def _finite(values: Sequence[float]) -> list[float]:
    return [float(value) for value in values if math.isfinite(value)]


def _given(value: float | None) -> tuple[float, ...]:
    return () if value is None else (value,)
