"""Paired statistics against closed forms, by-hand values, scipy and simulation."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, rankdata

from kdrift.evaluation.paired import (
    bland_altman,
    bootstrap_interval,
    compare_methods,
    holm,
    wilcoxon_p,
)
from kdrift.evaluation.table_files import comparison_cells


def exact_p(differences: np.ndarray) -> float:
    """Two-sided p of the signed-rank test by all 2^n signs."""
    ranks = rankdata(np.abs(differences))
    observed = abs(ranks[differences > 0].sum() - ranks.sum() / 2)
    signs = itertools.product((0, 1), repeat=len(ranks))
    return float(np.mean([abs(np.dot(s, ranks) - ranks.sum() / 2) >= observed - 1e-9 for s in signs]))


@pytest.mark.parametrize("size", [2, 5, 10])
def test_signed_ranks_are_those_of_all_signs(size: int) -> None:
    first = np.random.default_rng(size).normal(0.4, 1, size)
    assert wilcoxon_p(first, np.zeros(size)) == pytest.approx(exact_p(first))


def test_signed_ranks_in_the_usual_cases() -> None:
    assert wilcoxon_p([1, 2, 3], [1, 2, 3]) == 1.0
    assert wilcoxon_p([1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 0]) == pytest.approx(2 / 2**6)
    one, two = np.arange(8.0), np.arange(8.0) ** 1.3
    assert wilcoxon_p(one, two) == pytest.approx(wilcoxon_p(two, one))
    # equal pairs say nothing of the sign
    assert wilcoxon_p([1, 2, 3, 4, 7], [0, 0, 0, 0, 7]) == pytest.approx(wilcoxon_p([1, 2, 3, 4], [0, 0, 0, 0]))
    for first, second, message in (
        ([1.0], [1.0, 2.0], "as many values of both, got 1 and 2"),
        ([], [], "one or more finite values"),
        ([math.nan], [1.0], "one or more finite values"),
    ):
        with pytest.raises(ValueError, match=message):
            wilcoxon_p(first, second)


def test_signed_ranks_hold_their_level() -> None:
    """Without a difference, p is below 5 % in about 5 % of 1000 draws, within four standard errors."""
    rng = np.random.default_rng(0)
    below = np.mean([wilcoxon_p(rng.normal(size=20), rng.normal(size=20)) < 0.05 for _ in range(1000)])
    assert abs(below - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 1000)


def test_holm_by_hand() -> None:
    # Holm's rule: 4 * 0.005, 3 * 0.01, then 2 * 0.03 and 0.04, which is no smaller than its predecessor
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.5]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.2])


def test_holm_keeps_the_chance_of_any_false_finding() -> None:
    """Ten uniform p values: some corrected one is below 5 % in at most 5 % of draws, within four standard errors."""
    rng = np.random.default_rng(1)
    found = np.mean([min(holm(list(rng.uniform(size=10)))) < 0.05 for _ in range(2000)])
    assert found < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 2000)


def test_bootstrap_is_that_of_the_mean() -> None:
    """Its interval is the normal one for many values, the same by the same seed, and the value itself for one."""
    values = np.random.default_rng(2).normal(3, 2, 400)
    low, high = bootstrap_interval(values, seed=1)
    half = norm.ppf(0.975) * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.05 * half)
    assert bootstrap_interval(values, seed=1) == (low, high) != bootstrap_interval(values, seed=2)
    assert bootstrap_interval([5.0]) == (5.0, 5.0)


def test_limits_of_agreement_by_hand() -> None:
    """Differences 1, 2, 3: bias 2, deviation 1."""
    found = bland_altman([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (found.bias, found.low, found.high) == pytest.approx((2, 2 - 1.959964, 2 + 1.959964))
    single = bland_altman([2.0], [1.0])
    assert single.bias == 1
    assert math.isnan(single.low)


def observed(method: str, values: list[float], **more: Any) -> list[dict[str, Any]]:
    first = {"store": "", "mask": "m", "value": None, "data": "measured", "method": method, "volume": "v", "ssim": None}
    return [first | {"slice": n, "psnr": value, "nmse": None} | more for n, value in enumerate(values)]


def test_methods_are_compared_on_what_both_have() -> None:
    rows = [*observed("a", [30, 31, 32, 33]), *observed("b", [29, 29, math.inf, 32]), *observed("c", [30, 31.5])]
    two, three = compare_methods(rows, "a")
    assert (two.method, two.against, two.figure, two.pairs, two.volumes) == ("b", "a", "psnr", 3, 1)
    assert two.difference == pytest.approx(4 / 3)
    assert (two.low, two.high) == (None, None), "of one volume there is nothing to draw again"
    assert comparison_cells(two)[7] == "-"
    assert (three.method, three.pairs, three.difference) == ("c", 2, -0.25)
    assert [two.p_holm, three.p_holm] == holm([two.p, three.p])
    assert compare_methods(rows, "b")[0].difference == pytest.approx(-4 / 3)


def test_slices_of_a_volume_are_no_pairs_of_their_own() -> None:
    """Six volumes of 1 to 6 slices, each better by 1 in all slices: p is that of six pairs, however many slices."""
    rows = []
    for number in range(1, 7):
        rows += observed("a", [30.0 + number] * number, volume=f"v{number}")
        rows += observed("b", [29.0 + number - number / 10] * number, volume=f"v{number}")
    (found,) = compare_methods(rows, "a")
    assert (found.pairs, found.volumes) == (21, 6)
    assert found.p == pytest.approx(2 / 2**6)
    assert found.difference == pytest.approx(1.35), "the mean of volumes, not of slices"
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.difference < found.high
    assert found.limit_low + found.limit_high == pytest.approx(2 * (1 + 91 / 210)), "limits are of slices"


def test_a_sweep_is_compared_at_the_same_value() -> None:
    rows = [*observed("a", [30, 31], value=50), *observed("a", [34, 35], value=100), *observed("b", [30, 30], value=50)]
    rows += observed("tv", [20, 20])
    found = {(row.method, row.value): row.difference for row in compare_methods(rows, "a")}
    assert found == {("b", 50): 0.5, ("tv", 50): 10.5, ("tv", 100): 14.5}
