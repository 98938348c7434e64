"""RED-diff: its gradient against autograd of the printed loss, its levels, and the closed-form MAP it reaches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kdrift.methods import METHODS, ChainNoise
from kdrift.methods.samplers.csgm_langevin import ncsnv2_sigma
from kdrift.methods.samplers.red_diff import REDDiffOptions, ddpm_levels, red_diff
from kdrift.mri.sense import sense_operator
from kdrift.sde import VESDE
from langevin_helpers import TAU, complex_normal, dense_normal, gaussian_score, problem

SDE = VESDE(0.01, 20.0)


@pytest.mark.parametrize("coils", [1, 3])
def test_reaches_the_map_of_a_gaussian_prior(coils: int) -> None:
    """Where all levels are far above tau, E[D] = mu tau^2 / (tau^2 + r^2) -> 0: the stationary point solves
    (A^H A + lambda / 2) mu = A^H y, which is the MAP of images N(0, tau^2) for data of noise s, lambda = 2 s^2 / tau^2.
    """
    noise = 0.6
    given = problem(coils, 6, 7, noise)
    options = REDDiffOptions(num_steps=1500, weight=2 * noise**2 / TAU**2, learning_rate=0.003)
    rng = ChainNoise(0, 0, range(6), dtype=torch.complex128)
    found = red_diff(gaussian_score, VESDE(30.0, 200.0), given, rng=rng, options=options)
    normal = dense_normal(given)
    data = sense_operator(given.smaps, given.mask).adjoint(given.kspace).flatten()
    precision = normal / noise**2 + torch.eye(42, dtype=torch.complex128) / TAU**2
    expected = torch.linalg.solve(precision, data / noise**2)
    assert float((found.reshape(6, -1) - expected).abs().max()) < 0.02
    assert float((data - expected).abs().max()) > 0.2  # where it started


def test_at_one_level_the_regularisation_is_weaker_by_what_the_prior_explains() -> None:
    """At a level r the stationary point solves (A^H A + lambda w / 2) mu = A^H y, w = r^2 / (tau^2 + r^2)."""
    given = problem(1, 6, 7, 0.3, kept=1.1)
    level = TAU  # w is one half
    sde = VESDE(level, level * 1.02)
    options = REDDiffOptions(num_steps=1500, weight=2.0, learning_rate=0.002)
    rng = ChainNoise(0, 0, range(50), dtype=torch.complex128)
    found = red_diff(gaussian_score, sde, given, rng=rng, options=options).mean(0)
    data = sense_operator(given.smaps, given.mask).adjoint(given.kspace)
    ratio = float((found * data.conj()).real.sum() / data.abs().square().sum())
    assert ratio == pytest.approx(1 / (1 + 1.0 * 0.5), abs=0.01)


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_first_step_is_adam_on_the_printed_loss(preset: str) -> None:
    given = problem(2, 6, 6, 0.1)
    operator = sense_operator(given.smaps, given.mask)
    options = replace(METHODS["red_diff"].presets[preset], num_steps=2)
    asked: list[float] = []

    def score(x: Tensor, sigma: float) -> Tensor:
        asked.append(sigma)
        return -x / (TAU**2 + sigma**2) + 0.1 * x.real.sin()  # no symmetry

    first: list[Tensor] = []
    rng = ChainNoise(0, 0, range(2), dtype=torch.complex128)
    red_diff(score, SDE, given, rng=rng, options=options, callback=lambda d, n, x, s: first.append(x))
    level = ddpm_levels(options, SDE)[0]
    noise = ChainNoise(0, 0, range(2), dtype=torch.complex128)(6, 6)
    mu = operator.adjoint(given.kspace).expand(2, 6, 6).clone().requires_grad_()
    noisy = (level.alpha * mu + level.sigma * noise).detach()
    if preset == "paper":  # the prior's own level, rescaled: e_theta = -sigma_t score of x_t
        predicted = -level.sigma * score(noisy / level.alpha, level.ratio) / level.alpha
        scales = (1.0, 1.0)
    else:
        predicted = -level.sigma * score(noisy, ncsnv2_sigma(2312 - 1000))
        scales = (1 / float(given.kspace.abs().square().sum()), 1 / 72)
    misfit = (operator.forward(mu) - given.kspace).abs().square().sum()
    inner = ((predicted - noise).conj() * mu).real.sum()
    (scales[0] * misfit + scales[1] * options.weight * level.ratio * inner).backward()
    assert mu.grad is not None
    step = torch.view_as_real(mu.grad)
    expected = torch.view_as_real(mu.detach()) - options.learning_rate * step / (step.abs() + 1e-8)
    torch.testing.assert_close(torch.view_as_real(first[0]), expected)
    assert asked[0] == pytest.approx(asked[-1])


def test_levels_are_those_of_the_schedule_within_the_priors_range() -> None:
    options = REDDiffOptions()
    everything = ddpm_levels(options, VESDE(1e-3, 1e3))
    assert len(everything) == 1000
    assert everything[-1].sigma == pytest.approx(1e-4**0.5)
    assert everything[0].alpha == pytest.approx(float((1 - torch.linspace(1e-4, 0.02, 1000).double()).prod()) ** 0.5)
    assert all(level.alpha**2 + level.sigma**2 == pytest.approx(1) for level in everything)
    some = ddpm_levels(replace(options, num_steps=50), VESDE(0.05, 5.0))
    asked = [level.asked for level in some]
    assert asked == sorted(asked, reverse=True)
    assert 4.9 < asked[0] <= 5
    assert 0.05 <= asked[-1] < 0.052
    released = ddpm_levels(METHODS["red_diff"].presets["released"], VESDE(0.01, 5.0))
    assert len(released) == 999
    assert released[0].asked == pytest.approx(ncsnv2_sigma(1312))
    assert released[-1].asked == 0.01
    with pytest.raises(ValueError, match="expected levels in the prior's range"):
        ddpm_levels(options, VESDE(1e3, 1e4))
    with pytest.raises(ValueError, match="'sums' or 'means'"):
        REDDiffOptions(losses="both")  # type: ignore[arg-type]


def test_two_map_sets_are_two_images() -> None:
    given = problem(2, 6, 6, 0.1)
    both = replace(given, smaps=torch.stack([given.smaps, 0 * given.smaps]))
    options = REDDiffOptions(num_steps=20)
    rng = ChainNoise(0, 0, range(2), 2, dtype=torch.complex128)
    found = red_diff(gaussian_score, SDE, both, rng=rng, options=options)
    one = red_diff(gaussian_score, SDE, given, rng=ChainNoise(0, 0, range(2), dtype=torch.complex128), options=options)
    assert found.shape == (2, 2, 6, 6)
    torch.testing.assert_close(found[:, 0], one)
    assert complex_normal(1).dtype == found.dtype
