"""CSGM-Langevin with an exact Gaussian score: its exact recursion without data, its stationary law with data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kdrift.methods import ChainNoise, Measurement
from kdrift.methods.samplers.csgm_langevin import CSGMOptions, annealing, csgm_langevin, ncsnv2_sigma, uniform_start
from kdrift.mri.fourier import fft2c
from kdrift.sde import VESDE
from langevin_helpers import TAU, complex_normal, gaussian_score, mean_and_variance_scores, problem

SDE = VESDE(0.01, 20.0)


def recursion(options: CSGMOptions, sde: VESDE) -> tuple[float, float]:
    """Mean and variance of a component that no data reach: x <- (1 - a) x + sqrt(2 step) z from U[0, 1]."""
    mean, variance = 0.5, 1 / 12
    for level in annealing(options, sde):
        for _ in range(level.num_steps):
            keep = 1 - level.step / (TAU**2 + level.asked**2)
            mean, variance = keep * mean, keep**2 * variance + 2 * level.step
    return mean, variance


@pytest.mark.slow
def test_without_data_it_is_the_known_recursion_and_with_small_steps_the_prior() -> None:
    given = problem(1, 8, 8, 0.1)
    nothing = replace(given, mask=torch.zeros(8, 8, dtype=torch.bool), kspace=0 * given.kspace)
    published = CSGMOptions(num_steps=30)
    # the variance falls with the annealing until the steps are too few for it to follow
    slow = CSGMOptions(
        num_steps=160, num_levels=160, sigma_begin=2.0, sigma_end=0.05, first_level=0, inner_steps=6,
        step_size=0.5 * 0.05**2,
    )  # fmt: skip
    mean, variance = recursion(slow, SDE)
    assert abs(mean) < 1e-3
    assert 0 < variance / TAU**2 - 1 < 0.02
    for options in (published, slow):
        rng = ChainNoise(1, 0, range(200), dtype=torch.complex128)
        x = torch.view_as_real(csgm_langevin(gaussian_score, SDE, nothing, rng=rng, options=options))
        assert max(mean_and_variance_scores(x, *recursion(options, SDE))) < 5


@pytest.mark.parametrize("kept", [1.1, 0.5])
def test_with_data_it_reaches_the_stationary_law_of_the_scaled_term(kept: float) -> None:
    """The data term is kappa (A x - y) with kappa = guidance |s| / |A x - y|, which concentrates in many pixels.

    With images N(0, tau^2), p = tau^2 + sigma^2 and K = kappa + 1 / p, a measured component of k-space y is then
    N(y kappa / K, 1 / (K (1 - step K / 2))), the others N(0, p / (1 - step / (2 p))); kappa is the fixed point of its
    definition. So with all data samples lie about tau / guidance from them, whatever the data's own noise.
    """
    rows = 24
    given = problem(1, rows, rows, 0.0, kept)
    sigma, step = 0.1, 0.002
    options = CSGMOptions(
        num_steps=8, num_levels=9, sigma_begin=0.4, sigma_end=sigma, first_level=1, step_size=step, late_level=7,
        inner_steps=20, late_inner_steps=500,
    )  # fmt: skip
    p, share = TAU**2 + sigma**2, float(given.mask.double().mean())
    power = float(given.kspace[0][given.mask].abs().square().mean()) / 2
    kappa = 10.0
    for _ in range(200):
        total = kappa + 1 / p
        variance = 1 / (total * (1 - step * total / 2))
        image = share * (power * (kappa / total) ** 2 + variance) + (1 - share) * p / (1 - step / (2 * p))
        misfit = share * (power / (p * total) ** 2 + variance)
        kappa = options.guidance / p * (image / misfit) ** 0.5
    rng = ChainNoise(1, 0, range(24), dtype=torch.complex128)
    found = fft2c(csgm_langevin(gaussian_score, SDE, given, rng=rng, options=options))
    data = given.kspace[0][given.mask]
    measured = found[:, given.mask]
    gain = float((measured * data.conj()).real.sum() / (24 * data.abs().square().sum()))
    assert gain == pytest.approx(kappa / total, abs=5 * (variance / (24 * float(data.abs().square().sum()))) ** 0.5)
    spread = float(torch.view_as_real(measured - kappa / total * data).square().mean())
    count = 2 * measured.numel()
    assert spread == pytest.approx(variance, rel=5 * (2 / count) ** 0.5 + 4 / rows**2)  # kappa fluctuates by 1 / n
    if kept > 1:
        assert variance**0.5 == pytest.approx(TAU / options.guidance, rel=0.1)


def test_levels_steps_and_cost_are_the_published_ones() -> None:
    options = CSGMOptions()
    assert options.visited() == list(range(1156, 2311))
    assert options.evaluations == 645 * 3 + 510 * 4
    assert replace(options, late_inner_steps=3).evaluations == 1155 * 3
    assert replace(options, num_steps=100).evaluations == pytest.approx(options.evaluations * 100 / 1155, rel=0.02)
    assert ncsnv2_sigma(0) == 232
    assert ncsnv2_sigma(2310) == pytest.approx(0.0066)
    levels = annealing(options, VESDE(0.01, 1.0))
    assert max(level.sigma for level in levels) == 1.0
    assert min(level.asked for level in levels) == 0.01
    assert levels[-1].sigma == pytest.approx(0.0066)
    assert levels[-1].step == pytest.approx(5e-5)
    assert levels[0].step == pytest.approx(5e-5 / 0.0066**2)
    calls = []

    def score(x, sigma):  # type: ignore[no-untyped-def]
        calls.append(sigma)
        return gaussian_score(x, sigma)

    short = replace(options, num_steps=12)
    rng = ChainNoise(0, 0, range(2), dtype=torch.complex128)
    csgm_langevin(score, SDE, problem(2, 6, 6, 0.1), rng=rng, options=short)
    assert len(calls) == short.evaluations
    with pytest.raises(ValueError, match="first_level"):
        CSGMOptions(first_level=2310)


def test_start_is_uniform_and_data_that_are_met_leave_no_term() -> None:
    start = torch.view_as_real(uniform_start(ChainNoise(0, 0, range(20), dtype=torch.complex128), 32, 32))
    assert float(start.min()) >= 0
    assert float(start.max()) <= 1
    assert float(start.mean()) == pytest.approx(0.5, abs=5 * (1 / 12 / start.numel()) ** 0.5)
    assert float(start.var()) == pytest.approx(1 / 12, rel=0.02)
    zero = Measurement(
        torch.zeros(1, 4, 4, dtype=torch.complex128), torch.zeros(4, 4, dtype=torch.bool),
        torch.ones(1, 4, 4, dtype=torch.complex128), 0.0,
    )  # fmt: skip
    rng = ChainNoise(0, 0, range(2), dtype=torch.complex128)
    found = csgm_langevin(gaussian_score, SDE, zero, rng=rng, options=CSGMOptions(num_steps=5))
    assert bool(torch.isfinite(torch.view_as_real(found)).all())
    assert found.shape == complex_normal(2, 4, 4).shape


def test_published_steps_diverge_where_the_score_is_that_of_noise_and_a_tenth_of_them_does_not() -> None:
    """A score of noise alone is -x / sigma^2: with all data met at 0 a step multiplies x by 1 - (1 + guidance) step /
    sigma^2, with step / sigma^2 = 5e-5 / 0.0066^2 = 1.15 that is -5.9. Below |1 - ...| = 1 it stays near the data.
    """
    given = problem(1, 8, 8, 0.0, 1.1)
    empty = replace(given, kspace=0 * given.kspace)
    sizes = {}
    for step_size in (5e-5, 5e-6):
        options = CSGMOptions(num_steps=4, step_size=step_size)
        rng = ChainNoise(0, 0, range(2), dtype=torch.complex128)
        seen: list[float] = []

        def remember(done, total, x, sigma, seen=seen):  # type: ignore[no-untyped-def]
            seen.append(float(x.abs().max()) / sigma)

        csgm_langevin(lambda x, s: -x / s**2, SDE, empty, rng=rng, options=options, callback=remember)
        sizes[step_size] = seen
    growth = 6 * 5e-5 / 0.0066**2 - 1
    assert sizes[5e-5][0] > 0.5 * growth**3
    assert sizes[5e-6][0] < 5
