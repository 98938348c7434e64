"""Statistics between methods on the same slices or volumes: paired tests, their correction, intervals, agreement.

Wilcoxon 1945 (signed ranks), Holm 1979 (correction for several tests), Efron 1979 (bootstrap), Bland and Altman 1986
(limits of agreement).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdrift.evaluation.table import FIGURES
from kdrift.runs.seeds import numpy_rng

Values = Sequence[float] | npt.NDArray[np.float64]
RESAMPLES = 10_000
"""Draws of a bootstrap."""
LEVEL = 0.95
"""Level of intervals and of limits of agreement."""


def wilcoxon_p(first: Values, second: Values) -> float:
    """Return the two-sided p of the signed-rank test of pairs; 1 where no pair differs.

    Exact up to 50 pairs without ties or equal pairs, else by the normal approximation; equal pairs are left out.
    Raises ValueError for unequal lengths, no pairs or values that are not finite.
    """
    from scipy.stats import wilcoxon

    differences = _differences(first, second)
    if not differences.any():
        return 1.0
    kept = differences[differences != 0]
    tied = len(np.unique(np.abs(kept))) < len(kept)
    method = "approx" if tied or len(kept) > 50 else "exact"
    return float(wilcoxon(kept, zero_method="wilcox", method=method).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number by Holm's step-down rule, in the order given.

    The k-th smallest of m is multiplied by m - k + 1, is at least its predecessor, and at most 1.
    Raises ValueError for a p outside of [0, 1].
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"p values lie between 0 and 1, got {list(p_values)}")
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[number]))
        corrected[number] = largest
    return corrected


def bootstrap_interval(values: Values, *, seed: int = 0, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of the mean of `values` under resampling with replacement, drawn by `seed`.

    Raises ValueError for no values or ones that are not finite.
    """
    array = _finite(values)
    rng = numpy_rng("bootstrap", seed)
    means = np.array([array[rng.integers(len(array), size=len(array))].mean() for _ in range(RESAMPLES)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Agreement:
    """How far two methods agree."""

    bias: float
    """Mean of first minus second."""
    low: float
    """Lower limit of agreement."""
    high: float
    """Upper limit of agreement."""


def bland_altman(first: Values, second: Values, *, level: float = LEVEL) -> Agreement:
    """Return bias and limits of agreement, bias ± z SD of the differences (ddof 1; z = 1.96 at 95 %).

    Limits of a single pair are NaN. Raises ValueError for unequal lengths, no pairs or values that are not finite.
    """
    from scipy.stats import norm

    differences = _differences(first, second)
    bias = float(differences.mean())
    half = float(norm.ppf((1 + level) / 2) * differences.std(ddof=1)) if len(differences) > 1 else math.nan
    return Agreement(bias, bias - half, bias + half)


@dataclass(frozen=True)
class Comparison:
    """One method against another by one figure, on what both have reconstructed."""

    store: str
    mask: str
    value: Any
    data: str
    figure: str
    method: str
    against: str
    pairs: int
    """Slices or volumes that both have."""
    volumes: int
    """Volumes that they are of: a test and an interval have one pair of means of each, as slices of one are alike."""
    difference: float
    """Mean over volumes of `against` minus `method`."""
    low: float | None
    """Lower end of its bootstrap interval; None of one volume, of which there is nothing to draw again."""
    high: float | None
    """Upper end of its bootstrap interval."""
    limit_low: float
    """Lower limit of agreement, of slices or volumes."""
    limit_high: float
    """Upper limit of agreement."""
    p: float
    """p of the signed-rank test."""
    p_holm: float
    """Corrected over all tests of this figure in the table."""


def compare_methods(observed: Sequence[Mapping[str, Any]], against: str) -> list[Comparison]:
    """Return every other method's comparisons with `against`, under the same mask on the same slices or volumes.

    `observed` are the rows of `kdrift.evaluation.table.observations`. Slices of one volume are alike: tests, mean
    differences and their intervals are of the means of volumes, limits of agreement of what was observed. Where
    `against` has values of a sweep, methods are compared at the same value; one without values is compared at each.
    """
    series = _series(observed)
    found = []
    for figure in FIGURES:
        rows = []
        for place, own in series.items():
            store, mask, value, data, method = place
            if method != against:
                continue
            for (*others, other), theirs in series.items():
                same = (others[0], others[1], others[3]) == (store, mask, data) and others[2] in (value, None)
                if other == against or not same:
                    continue
                pairs: dict[str, list[tuple[float, float]]] = {}
                for volume, number in sorted(own.keys() & theirs.keys(), key=str):
                    pair = own[volume, number][figure], theirs[volume, number][figure]
                    if all(map(_usable, pair)):
                        pairs.setdefault(volume, []).append(pair)
                if pairs:
                    rows.append(_compared((store, mask, value, data, figure, other, against), pairs))
        corrected = holm([row.p for row in rows])
        found += [Comparison(**{**vars(row), "p_holm": p}) for row, p in zip(rows, corrected, strict=True)]
    return found


def _compared(place: tuple[Any, ...], pairs: Mapping[str, Sequence[tuple[float, float]]]) -> Comparison:
    """Return the comparison of pairs by volume."""
    first, second = np.array([pair for of_volume in pairs.values() for pair in of_volume]).T
    limits = bland_altman(first, second)
    own, theirs = np.array(sorted(np.mean(of_volume, axis=0).tolist() for of_volume in pairs.values())).T
    low, high = bootstrap_interval(own - theirs) if len(pairs) > 1 else (None, None)
    p = wilcoxon_p(own, theirs)
    store, mask, value, data, figure, other, against = place
    return Comparison(
        store=store, mask=mask, value=value, data=data, figure=figure, method=other, against=against, pairs=len(first),
        volumes=len(pairs), difference=float((own - theirs).mean()),
        low=low, high=high, limit_low=limits.low, limit_high=limits.high, p=p, p_holm=p,
    )  # fmt: skip


def _series(observed: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], dict[tuple[Any, Any], Mapping[str, Any]]]:
    """Return observations by store, mask, value, data and method, then by volume and slice."""
    series: dict[tuple[Any, ...], dict[tuple[Any, Any], Mapping[str, Any]]] = {}
    for row in observed:
        place = (row["store"], row["mask"], row["value"], row["data"], row["method"])
        series.setdefault(place, {})[row["volume"], row["slice"]] = row
    return series


def _usable(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _finite(values: Values) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"expected one or more finite values in one dimension, got {array.tolist()}")
    return array


def _differences(first: Values, second: Values) -> npt.NDArray[np.float64]:
    if len(first) != len(second):
        raise ValueError(f"pairs need as many values of both, got {len(first)} and {len(second)}")
    return _finite(first) - _finite(second)
