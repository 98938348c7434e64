"""The reference sampler and the default one on Gaussian images that are not white, against closed forms."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdrift.methods import IMAGES, METHODS, ChainNoise, Measurement
from kdrift.methods.samplers.data_step import draw
from kdrift.methods.samplers.pnp_dm import PnPDMOptions
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.sde import VESDE
from kdrift.testing import (
    TAU,
    complex_normal,
    dense_matrix,
    gaussian_posterior,
    gaussian_problem,
    gaussian_score,
    posterior_errors,
)

SIZE, NOISE, CHAINS = 8, 0.1, 400
SDE = VESDE(0.01, 20.0)
DISTANCE = torch.hypot(*torch.meshgrid(*[torch.arange(SIZE).double() - SIZE // 2] * 2, indexing="ij"))
Score = Callable[[Tensor, Any], Tensor]


def _smooth() -> tuple[Tensor, Score]:
    """Images whose spectrum falls to a sixteenth: covariance `(n, n)` and exact score; TAU root mean square."""
    deviation = 1 / (1 + DISTANCE**1.5)
    power = (deviation * TAU / deviation.square().mean().sqrt()) ** 2
    fourier = fft2c(torch.eye(SIZE**2, dtype=torch.complex128).reshape(-1, SIZE, SIZE)).reshape(SIZE**2, -1).T
    return fourier.mH @ (power.flatten()[:, None] * fourier), lambda x, sigma: -ifft2c(fft2c(x) / (power + sigma**2))


def _head() -> tuple[Tensor, Score]:
    """Images with an object in air, whose deviation is a twentieth: covariance `(n, n)` and exact score."""
    deviation = torch.where(DISTANCE < SIZE / 3, 1.0, 0.05)
    variance = (deviation * TAU / deviation.square().mean().sqrt()) ** 2
    return torch.diag(variance.flatten().to(torch.complex128)), lambda x, sigma: -x / (variance + sigma**2)


PRIORS = {"smooth": _smooth, "head": _head}


def _problem(prior: Tensor, coils: int, s: float = NOISE) -> Measurement:
    """Data of an image of this covariance, half of k-space and its centre sampled, with noise."""
    problem = gaussian_problem(IMAGES, coils=coils, size=SIZE, noise=s)
    image = (torch.linalg.cholesky(prior) @ complex_normal((SIZE**2,), seed=11)).reshape(SIZE, SIZE)
    noise = torch.where(problem.mask, s * complex_normal((coils, SIZE, SIZE), seed=12), 0)
    return replace(problem, kspace=problem.A.forward(image) + noise)


def _samples(name: str, options: Any, problem: Measurement, score: Score) -> Tensor:
    rng = ChainNoise(5, 2, range(CHAINS), dtype=torch.complex128)
    return METHODS[name].function(score, SDE, problem, rng=rng, options=options)


class _Basis:
    """In place of noise: each number that a data step draws set to 1 in a sample of its own."""

    def __init__(self, parts: int | None, trailing: list[tuple[int, ...]]) -> None:
        shapes = [(*([] if parts is None else [parts]), *shape) for shape in trailing]
        sizes = [math.prod(shape) for shape in shapes]
        self.shape = (sum(sizes),) if parts is None else (sum(sizes), parts)
        blocks = torch.eye(sum(sizes), dtype=torch.complex128).split(sizes, 1)
        self._left = {
            shape: block.reshape(-1, *full) for shape, full, block in zip(trailing, shapes, blocks, strict=True)
        }

    def __call__(self, *trailing: int) -> Tensor:
        return self._left.pop(trailing)


@pytest.mark.parametrize("sets", [1, 2])
def test_the_data_step_draws_the_covariance_that_it_states(sets: int) -> None:
    """It is linear in its noise, so that the covariance follows from unit vectors without Monte Carlo error."""
    problem = gaussian_problem(IMAGES, sets=sets)
    empty = replace(problem, kspace=0 * problem.kspace)
    matrix = dense_matrix(problem.A)
    rng: Any = _Basis(
        None if sets == 1 else sets, [(len(problem.kspace), len(problem.sampled)), tuple(problem.mask.shape)]
    )
    mean = torch.zeros(*rng.shape, *problem.mask.shape, dtype=torch.complex128)
    for spread in (1.0, 0.5):
        fresh = copy.deepcopy(rng)
        columns = draw(empty, mean, 0.2, 0.3, rng=fresh, spread=spread, max_iter=100).reshape(len(mean), -1)
        precision = matrix.mH @ matrix / 0.3**2 + torch.eye(matrix.shape[1]) / 0.2**2
        expected = spread**2 * torch.linalg.inv(precision)
        torch.testing.assert_close(columns.T @ columns.conj(), expected, rtol=1e-3, atol=1e-5)
    image = complex_normal(problem.A.ishape, seed=3)
    still = draw(problem, image, 0.2, 0.3, rng=rng, spread=0.0, max_iter=100)
    expected = torch.linalg.inv(precision) @ (problem.data / 0.3**2 + image / 0.2**2).flatten()
    torch.testing.assert_close(still.flatten(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "coils"), [("smooth", 1), ("head", 1), pytest.param("head", 3, marks=pytest.mark.slow)]
)
def test_pnp_dm_draws_the_coupled_posterior_of_any_gaussian_images(name: str, coils: int) -> None:
    """One coil and air around an object: what was not measured follows from the data, which a chain must find."""
    prior, score = PRIORS[name]()
    problem = _problem(prior, coils)
    options = PnPDMOptions(num_steps=80, num_prior_steps=24, rho_min=0.1, prior_sigma=0.2)
    samples = _samples("pnp_dm", options, problem, score)
    off = posterior_errors(samples, *gaussian_posterior(problem, prior=prior, coupling=0.1))
    assert max(off) < 5, f"mean off by {off[0]:.1f}, covariance by {off[1]:.1f} standard errors"


def test_the_bias_of_pnp_dm_goes_with_rho() -> None:
    """By the closed form: the deviation is too large by 1 % at rho = s / 4, and by up to sqrt(1 + rho^2 / s^2)."""
    prior, _ = _head()
    problem = _problem(prior, 3)
    exact = gaussian_posterior(problem, prior=prior)[1].diagonal().real.sum()
    ratios = []
    for share in (0.25, 0.5, 1.0):
        coupled = gaussian_posterior(problem, prior=prior, coupling=share * NOISE)[1].diagonal().real.sum()
        ratios.append(float((coupled / exact).sqrt()))
        assert 1 < ratios[-1] < math.sqrt(1 + share**2)
    assert ratios == pytest.approx([1.02, 1.06, 1.21], abs=0.02)


# images, coils, noise: bounds on the deviation, and on the error of the mean, over the exact deviation
LIMITS = {
    ("smooth", 3, 0.1): ((0.98, 1.02), 0.08),
    ("smooth", 1, 0.1): ((1.02, 1.07), 0.18),
    ("head", 3, 0.1): ((1.01, 1.05), 0.15),
    ("head", 1, 0.1): ((1.15, 1.25), 0.28),
    ("head", 1, 0.02): ((1.33, 1.43), 0.33),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "coils", "noise"), LIMITS)
def test_how_far_annealed_is_from_the_posterior_of_images_that_are_not_white(
    name: str, coils: int, noise: float
) -> None:
    """The preset `posterior` at the scale of these images, without measured noise; its approximation is stated."""
    prior, score = PRIORS[name]()
    problem = _problem(prior, coils, noise)
    samples = _samples("annealed", _posterior_preset(keep_measured=False), problem, score)
    ratio, off = _beside(samples, *gaussian_posterior(problem, prior=prior))
    (low, high), furthest = LIMITS[name, coils, noise]
    assert low < ratio < high
    assert off < furthest  # of which 0.05 is the error of a mean of 400


def _beside(samples: Tensor, mean: Tensor, covariance: Tensor) -> tuple[float, float]:
    """The deviation over the exact one, and the error of the mean over the exact deviation, root mean squares."""
    samples, variance = samples.reshape(CHAINS, -1), covariance.diagonal().real.sum()
    error = (samples.mean(0) - mean).abs().square().sum() / 2
    return float((samples.var(0).sum() / 2 / variance).sqrt()), float((error / variance).sqrt())


@pytest.mark.parametrize(("sweeps", "off"), [(40, 0.28), (80, 0.115), pytest.param(160, 0.07, marks=pytest.mark.slow)])
def test_a_chain_of_pnp_dm_needs_more_sweeps_the_smaller_rho_is(sweeps: int, off: float) -> None:
    """From one coil and an object in air, at half the noise; the error of the mean falls to that of 400 chains."""
    prior, score = _head()
    problem = _problem(prior, 1)
    options = PnPDMOptions(num_steps=sweeps, num_prior_steps=20, rho_min=0.05, prior_sigma=0.14)
    samples = _samples("pnp_dm", options, problem, score)
    assert _beside(samples, *gaussian_posterior(problem, prior=prior))[1] == pytest.approx(off, abs=0.03)


def test_annealed_must_begin_above_what_is_uncertain() -> None:
    """Where nothing is measured, levels that begin below the deviation of the images leave too little spread."""
    problem = gaussian_problem(IMAGES, size=SIZE)
    empty = replace(problem, kspace=0 * problem.kspace, mask=torch.zeros_like(problem.mask))
    whole = _posterior_preset(keep_measured=False)
    for options, expected in ((whole, 1.0), (replace(whole, sigma_max=0.3, sigma_min=0.01), 0.958)):
        samples = torch.view_as_real(_samples("annealed", options, empty, gaussian_score))
        assert float(samples.std() / TAU) == pytest.approx(expected, abs=5 * (2 * samples.numel()) ** -0.5)


def _posterior_preset(**changes: Any) -> Any:
    """The preset, its lengths multiplied so that its `prior_sigma` is TAU."""
    preset: Any = METHODS["annealed"].presets["posterior"]
    unit = TAU / preset.prior_sigma
    scaled = replace(preset, prior_sigma=TAU, sigma_max=unit * preset.sigma_max, sigma_min=unit * preset.sigma_min)
    return replace(scaled, **changes)


@pytest.mark.parametrize(("steps", "prior_sigma"), [(1, TAU), (4, TAU), (80, 0.1), (80, None)])
def test_prior_steps_draw_the_prior_where_nothing_is_measured(steps: int, prior_sigma: float | None) -> None:
    """With the deviation of white images at any number of steps, with any other and many."""
    problem = gaussian_problem(IMAGES, size=SIZE)
    empty = replace(problem, kspace=0 * problem.kspace, mask=torch.zeros_like(problem.mask))
    options = PnPDMOptions(num_steps=8, num_prior_steps=steps, rho_max=5.0, rho_min=1.0, prior_sigma=prior_sigma)
    samples = torch.view_as_real(_samples("pnp_dm", options, empty, gaussian_score))
    assert float(samples.var()) == pytest.approx(TAU**2, rel=0.02 + 5 * (2 / samples.numel()) ** 0.5)


def test_the_coupling_falls_and_stays_within_the_levels_of_the_prior() -> None:
    options = PnPDMOptions(num_steps=9, rho_max=1.6, rho_min=0.1, annealing=0.5)
    found = options.couplings(SDE)
    assert found[:5] == pytest.approx([1.6, 0.8, 0.4, 0.2, 0.1])
    assert found[4:] == pytest.approx([0.1] * 5)
    assert replace(options, annealing=0.0).couplings(SDE) == pytest.approx([0.1] * 9)
    assert replace(options, annealing=1.0).couplings(SDE)[-1] == pytest.approx(0.1)
    assert options.couplings(VESDE(0.3, 1.0))[::8] == pytest.approx([1.0, 0.3])
    asked, told = [], []

    def score(x: Tensor, sigma: float | Tensor) -> Tensor:
        asked.append(float(sigma))
        return gaussian_score(x, sigma)

    METHODS["pnp_dm"].function(
        score, VESDE(0.3, 1.0), gaussian_problem(IMAGES), rng=ChainNoise(0, 0, range(1), dtype=torch.complex128),
        options=options, callback=lambda done, total, images, level: told.append(level),
    )  # fmt: skip
    assert [min(asked), max(asked)] == pytest.approx([0.3, 1.0])
    assert len(asked) == options.evaluations == 90
    assert told == pytest.approx(options.couplings(VESDE(0.3, 1.0)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_steps": 1},
        {"num_prior_steps": 0},
        {"cg_iterations": 0},
        {"rho_min": 2.0},
        {"rho_min": 0.005},
        {"sigma_min": 0.0},
        {"annealing": 1.5},
        {"prior_sigma": 0.0},
        {"noise_scale": 0.0},
    ],
    ids=str,
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        PnPDMOptions(**wrong)
