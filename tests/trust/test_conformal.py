"""Factors that bring intervals to their level, predictions of figures, and which slices get them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import norm

from kdrift.measures.metrics import METRICS
from kdrift.mri.mask_family import MaskFacts, MaskFamily
from kdrift.prior.calibration import CalibratedScan, Calibration, FigureBound
from kdrift.trust.calibrated import interval
from kdrift.trust.conformal import combined, level_quantile, lower_bound, pixel_scores, region_scores
from kdrift.trust.family import refusal, with_calibration
from kdrift.trust.predicted import predicted_psnr, predicted_ssim, predictions
from kdrift.trust.uncertainty import object_mask
from kdrift.trust.verdict import Evidence, Group, judge

LEVEL = 0.9
SIDE = 128


@pytest.fixture
def made() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A smooth image, a deviation that differs over it, and an error of 1.5 times that deviation and noise besides."""
    torch.manual_seed(3)
    row, col = torch.meshgrid(*[torch.linspace(-1, 1, SIDE, dtype=torch.float64)] * 2, indexing="ij")
    image = (row**2 + col**2 < 0.8) * (1 + 0.3 * torch.sin(9 * row) * torch.cos(7 * col))
    spread = 0.01 + 0.02 * (row + 1)
    error = torch.randn(SIDE, SIDE, dtype=torch.float64) * ((1.5 * spread).square() + 0.02**2).sqrt()
    return image, spread, error


def test_with_the_factor_intervals_hold_their_level(made: tuple[torch.Tensor, ...]) -> None:
    image, spread, error = made
    inside = object_mask(image)
    assert 0.5 < float(inside.double().mean()) < 0.7
    found = level_quantile(pixel_scores(error[inside], spread[inside], 0.02, LEVEL), LEVEL)
    assert found == pytest.approx(1.5, abs=0.05)
    low, high = interval(image + error + 5, ((found * spread).square() + 0.02**2).sqrt(), LEVEL)
    held = ((low <= image + 5) & (image + 5 <= high))[inside].double().mean()
    assert float(held) == pytest.approx(LEVEL, abs=2 / int(inside.sum()))


def test_noise_alone_asks_for_the_least_factor_and_no_spread_for_an_infinite_one() -> None:
    assert level_quantile(pixel_scores(torch.full((9,), 0.1), torch.ones(9), 0.2, LEVEL), LEVEL) == 0.05
    assert math.isinf(level_quantile(pixel_scores(torch.ones(9), torch.zeros(9), 0.0, LEVEL), LEVEL))


def test_independent_errors_average_out_over_regions(made: tuple[torch.Tensor, ...]) -> None:
    image, spread, error = made
    inside = object_mask(image)
    std = ((1.5 * spread).square() + 0.02**2).sqrt()
    scores = region_scores(error, std, inside, 8, LEVEL)
    assert 100 < len(scores) < 200
    assert level_quantile(scores, LEVEL) == pytest.approx(1 / 8, rel=0.25)
    whole = region_scores(std * float(norm.ppf(0.95)), std, torch.ones_like(inside), SIDE, LEVEL)
    assert whole.tolist() == pytest.approx([float(std.mean() / std.square().mean().sqrt())])
    assert len(region_scores(error, std, torch.zeros_like(inside), 8, LEVEL)) == 0


def test_the_mean_is_over_slices_and_then_over_scans() -> None:
    assert combined([[1.0, 4.0], [8.0]]) == pytest.approx(4.0)


def test_a_lower_bound_says_how_sure_it_is() -> None:
    assert lower_bound([5.0, 1.0, 3.0], 0.9) == (1.0, 0.75)  # too few for 90 %
    bound, probability = lower_bound([float(i) for i in range(1, 20)], 0.9)
    assert (bound, probability) == (2.0, pytest.approx(0.9))
    torch.manual_seed(0)
    drawn = torch.randn(4000, 10)
    above = sum(float(row[0]) >= lower_bound(row[1:].tolist(), 0.8)[0] for row in drawn) / len(drawn)
    assert above == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / len(drawn)))


def test_figures_are_predicted_of_a_calibrated_deviation(made: tuple[torch.Tensor, ...]) -> None:
    image, spread, error = made
    std = ((1.5 * spread).square() + 0.02**2).sqrt()
    # a reference that lies about the mean as its deviation says, signed so that errors have no part in magnitudes
    reference = image + error
    assert METRICS["psnr"].function(reference, image) == pytest.approx(
        predicted_psnr(image, std) + 20 * math.log10(float(reference.max() / image.flatten().quantile(0.999))), abs=0.1
    )
    assert METRICS["ssim"].function(reference, image, data_range=float(image.max())) == pytest.approx(
        predicted_ssim(image, std), abs=0.02
    )
    bright = image.clone()
    bright[0, 0] = 10  # a pixel that is far too bright raises no prediction
    assert predicted_psnr(bright, std) == pytest.approx(predicted_psnr(image, std), abs=0.01)
    assert predicted_psnr(image, torch.zeros_like(image)) == math.inf
    assert predicted_ssim(torch.zeros(9, 9), torch.zeros(9, 9)) == 1.0
    found = predictions(image, std, {"psnr": FigureBound(-1.5, 0.8, 2, 4, 0.5)})
    assert found["psnr"].expected == pytest.approx(predicted_psnr(image, std) + 0.5)
    assert found["psnr"].bound == pytest.approx(predicted_psnr(image, std) - 1.5)
    assert predictions(image, 0 * std, {"psnr": FigureBound(-1.5, 0.8, 2, 4, 0.5)}) == {}


GROUP = Group(100, 10.0, 100.0, 1.0, 9.0, {"sampler": 10.0, "tv": 20.0})
GOOD = judge(Evidence((GROUP,)))
LINES = MaskFacts("lines", 4.0, 0.08, 0.97)


def entry(name: str = "lines-4x", pixel: float = 1.3, net: tuple[float, float] = (3.0, 5.5)) -> Calibration:
    return Calibration(
        name, MaskFamily("lines", net, (0.04, 0.12)), "brain", {}, 8, LEVEL, pixel, 0.4, 16,
        (CalibratedScan("a", "", 3, True, pixel), CalibratedScan("b", "", 1, False, pixel)),
        figures={"psnr": FigureBound(-2.0, 0.8, 2, 4, 0.5)},
    )  # fmt: skip


def test_a_slice_of_the_family_gets_its_factor() -> None:
    evidence = with_calibration(GOOD, [entry()], LINES, "mine")
    assert GOOD.level == "trusted"
    assert evidence.calibrated_by == "mine, brain, lines at 3 to 5.5x, centre 4 to 12 % (2 scans, 4 slices)"
    assert (evidence.calibration, evidence.uncalibrated, evidence.region, evidence.region_size) == (1.3, "", 0.4, 16)
    after = judge(evidence)
    assert after.factor == pytest.approx(1.3 * GOOD.factor)
    assert (after.level, after.reasons) == (GOOD.level, GOOD.reasons)


def test_of_several_the_largest_is_taken() -> None:
    several = [entry(), entry("wide", 1.7, (2.0, 8.0)), entry("other", 3.0, (6.0, 8.0))]
    assert with_calibration(GOOD, several, LINES, "mine").calibration == 1.7


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (replace(LINES, net_acceleration=8.0), "no calibration of mine for lines at 8.0x"),
        (replace(LINES, unit="points"), "no calibration of mine for points at 4.0x"),
        (
            replace(LINES, acs=0.02),
            "no calibration of mine for lines at 4.0x: its centre is 2.0%, in lines at 3 to 5.5x, centre 4 to 12 %",
        ),
        (replace(LINES, extent=0.5), "no calibration of mine for lines at 4.0x: samples span 50% of the matrix, in"),
    ],
)
def test_another_family_is_a_note_and_no_doubt(mask: MaskFacts, said: str) -> None:
    evidence = with_calibration(GOOD, [entry()], mask, "mine")
    assert evidence.uncalibrated.startswith(said)
    assert (evidence.calibration, evidence.calibrated_by, evidence.bounds) == (1.0, "", {})
    assert (judge(evidence).level, judge(evidence).factor) == (GOOD.level, GOOD.factor)


def test_a_prior_that_was_not_calibrated_is_named() -> None:
    said = "no calibration of mine was made with these settings and at most as many samples"
    assert with_calibration(GOOD, [], LINES, "mine").uncalibrated == said


@pytest.mark.parametrize(
    ("evidence", "why"),
    [
        (Evidence((replace(GROUP, errors={"sampler": 40.0, "tv": 20.0}),)), "the image is not trusted"),
        (Evidence((GROUP,), known=1.4), "the prior does not know such images"),
        (Evidence(), "no sample could be held out"),
    ],
)
def test_no_calibration_of_what_is_not_of_its_kind(evidence: Evidence, why: str) -> None:
    verdict = judge(evidence)
    assert refusal(verdict.level, evidence.known, held_out=bool(evidence.groups)) == why
    found = with_calibration(verdict, [entry()], LINES, "mine")
    assert (found.calibration, found.uncalibrated) == (1.0, f"no calibration of mine is used: {why}")
    assert judge(found).level == verdict.level
