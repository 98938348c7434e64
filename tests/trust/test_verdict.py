"""Verdicts from the numbers of held-out samples, and the factor of the deviation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from kdrift.trust.verdict import BOUNDS, SAMPLER, SHRINK, Evidence, Group, judge, worst


def evidence(sampler: float, tv: float, *, noise: float = 0.1, spread: float = 0.2, **values: object) -> Evidence:
    errors = {SAMPLER: sampler, "tv": tv, "cg_sense": 1.02, "zero_filled": 1.0}
    return Evidence((Group(100, 30.0, 1.0, noise, spread, errors),), **{"known": 0.8, **values})  # type: ignore[arg-type]


def test_what_predicts_best_is_trusted_and_says_its_numbers() -> None:
    verdict = judge(evidence(0.3, 0.5))
    assert str(verdict) == "trusted: it predicts left-out k-space with 30% error, TV with 50% (noise 10%)"
    assert (verdict.best, verdict.given) == ("tv", "")


@pytest.mark.parametrize(("sampler", "tv", "known", "level"), [
    (0.50, 0.49, 1.0, "trusted"),  # less than half a dB
    (0.55, 0.49, 1.0, "caution"),  # more, of an image that the prior knows
    (0.55, 0.49, 1.4, "not trusted"),  # of one that it does not know
    (0.90, 0.49, 1.0, "not trusted"),  # clearly worse, whatever the prior knows
    (0.95, 0.97, 1.0, "caution"),  # better than others, and next to nothing
    (1.20, 1.30, 1.0, "not trusted"),  # worse than saying nothing
    (0.30, 0.50, 1.4, "caution"),  # predicts well what the prior does not know
    (math.inf, 0.5, 1.0, "not trusted"),  # its chains diverged
])  # fmt: skip
def test_levels(sampler: float, tv: float, known: float, level: str) -> None:
    assert judge(evidence(sampler, tv, known=known)).level == level


def test_data_that_are_not_explained_are_not_trusted() -> None:
    assert judge(evidence(0.3, 0.5, residual=0.2, excess=3.0)).level == "not trusted"
    assert judge(evidence(0.3, 0.5, residual=0.2, excess=1.1)).level == "trusted"  # noise
    assert judge(evidence(0.3, 0.5, residual=0.02, excess=3.0)).level == "trusted"


def test_gaps_that_nothing_tests_and_holes_of_given_maps_are_doubts() -> None:
    gaps = judge(evidence(0.3, 0.5, untested=0.58))
    assert str(gaps) == "caution: 58% of what was not measured lies in gaps wider than any left-out sample can test"
    assert judge(evidence(0.3, 0.5, untested=0.3)).level == "trusted"
    holes = judge(evidence(0.3, 0.5, map_holes=9))
    assert holes.level == "caution"
    assert "the coil maps that were given are zero in 9 pixels that others surround" in holes.reasons[0]


def test_a_noise_level_above_what_is_missed_is_said() -> None:
    verdict = judge(evidence(0.3, 0.31, noise=0.9, noise_stated=True))
    assert verdict.level == "caution"
    assert "the noise level that was stated is too high" in verdict.reasons[0]
    estimated = judge(evidence(0.3, 0.31, noise=0.9))
    assert str(estimated).endswith("(noise at most 90%)")
    assert estimated.level == "trusted"


def test_a_noise_level_that_is_too_low_shows_in_the_data_and_in_what_the_prior_knows() -> None:
    assert judge(evidence(0.5, 0.49, known=1.4, residual=0.02, excess=1.0)).level == "caution"
    assert judge(evidence(0.5, 0.49, known=0.9, residual=0.02, excess=2.5)).level == "trusted"
    assert judge(evidence(0.3, 0.49, known=1.4, residual=0.02, excess=2.5)).level == "caution"  # and yet far better
    verdict = judge(evidence(0.5, 0.49, known=1.4, residual=0.02, excess=2.5))
    assert verdict.level == "not trusted"
    assert verdict.reasons[0].startswith("it predicts left-out k-space no better than TV, and what is left of the data")


@pytest.mark.parametrize(("sets", "said"), [(1, "and one is used"), (2, "two sets of coil maps were needed")])
def test_calibration_lines_that_ask_for_two_sets_are_a_doubt(sets: int, said: str) -> None:
    verdict = judge(evidence(0.3, 0.5, asked_sets=sets))
    assert verdict.level == "caution"
    assert said in verdict.reasons[0]


def test_nothing_held_out_is_not_checked() -> None:
    verdict = judge(Evidence(known=0.9))
    assert verdict.level == "not checked"
    assert "could be held out" in str(verdict)
    assert judge(Evidence(known=1.5)).level == "caution"
    assert judge(Evidence(residual=0.5, excess=9.0)).level == "not trusted"


def test_groups_weigh_by_what_they_stand_for() -> None:
    near = Group(10, 1.0, 100.0, 0.0, 1.0, {SAMPLER: 50.0, "tv": 1.0})
    far = Group(10, 99.0, 1.0, 0.0, 1.0, {SAMPLER: 0.1, "tv": 0.9})
    found = Evidence((near, far)).predictions
    assert found[SAMPLER] == pytest.approx((50 + 9.9) / 199)
    assert found["tv"] == pytest.approx((1 + 89.1) / 199)


def test_the_factor_is_error_over_spread_shrunk() -> None:
    right = evidence(0.3, 0.5, noise=0.1, spread=0.2)
    assert right.factor() == pytest.approx(1.0)
    assert evidence(0.9, 0.5, noise=0.1, spread=0.2).factor() == pytest.approx(2.0**SHRINK)
    assert replace(right, calibration=1.3).factor() == pytest.approx(1.3)
    assert replace(right, calibration=100.0).factor() == BOUNDS[1]
    assert Evidence().factor() == 1.0


def test_a_given_image_has_a_factor_of_its_own() -> None:
    verdict = judge(evidence(0.9, 0.5)).giving("tv")
    assert verdict.factor == pytest.approx(((0.5 - 0.1) / 0.2) ** (SHRINK / 2))
    assert str(verdict).endswith("; TV is given in its place")


def test_the_worst_of_several() -> None:
    assert worst(["trusted", "caution", "not checked"]) == "caution"
    assert worst([]) == "not checked"
