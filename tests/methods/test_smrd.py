"""SMRD: its solve, its SURE and the derivative of it, its exact law at a fixed lambda, its stop."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kdrift.methods import ChainNoise
from kdrift.methods.samplers.csgm_langevin import Level, annealing
from kdrift.methods.samplers.smrd import SMRDOptions, data_step, smrd, sure, tuned_step
from kdrift.mri.fourier import fft2c
from kdrift.mri.sense import sense_operator
from kdrift.sde import VESDE
from langevin_helpers import TAU, complex_normal, dense_normal, gaussian_score, mean_and_variance_scores, problem

SDE = VESDE(0.01, 20.0)


def test_data_step_is_the_dense_solve() -> None:
    given = problem(3, 6, 7, 0.1)
    operator = sense_operator(given.smaps, given.mask)
    data = operator.adjoint(given.kspace)
    x, lam = complex_normal(2, 6, 7), torch.tensor([0.3, 2.0], dtype=torch.float64)
    exact = data_step(operator, data, x, lam, 60)
    five = data_step(operator, data, x, lam, 5)
    normal = dense_normal(given)
    for chain in range(2):
        matrix = normal + lam[chain] * torch.eye(42, dtype=torch.complex128)
        expected = torch.linalg.solve(matrix, (data + lam[chain] * x[chain]).flatten())
        torch.testing.assert_close(exact[chain].flatten(), expected, atol=1e-4, rtol=1e-4)
        # conjugate gradients shrink the error's energy by the Chebyshev bound of the condition number
        root = float((1 + lam[chain]) / lam[chain]) ** 0.5
        bound = 2 * ((root - 1) / (root + 1)) ** 5

        def energy(error: Tensor, matrix: Tensor = matrix) -> float:
            return float((error.conj() @ matrix @ error).real) ** 0.5

        assert energy(five[chain].flatten() - expected) <= bound * energy(data.flatten() - expected)


def test_sure_estimates_the_true_error_of_denoised_gaussian_images() -> None:
    """For the best linear denoiser a u of u = x + s z the mean squared error is s^2 a a component.

    With the noise variance taken from the residual, which is s^4 / (s^2 + tau^2), SURE is that error times
    s^2 / (s^2 + tau^2): nearly unbiased where the noise is larger than the image, too small where it is not.
    """
    torch.manual_seed(1)
    for noise in (0.5, 2.0, 8.0):
        gain = TAU**2 / (TAU**2 + noise**2)
        x, probe = TAU * complex_normal(60, 32, 32), complex_normal(60, 32, 32)
        u = x + noise * complex_normal(60, 32, 32)
        found = sure(gain * u, u, probe, gain * probe)
        error = (gain * u - x).abs().square().flatten(1).mean(1)
        ratio = found.mean() / error.mean()
        # of found: the residual's and the probe's chi-squared; of error: its own
        bound = 5 * (3 / (60 * 32 * 32)) ** 0.5
        assert float(ratio) == pytest.approx(noise**2 / (noise**2 + TAU**2), rel=bound)


@pytest.mark.parametrize("coils", [1, 2])
def test_risk_and_its_derivative_are_those_of_the_dense_step(coils: int) -> None:
    given = problem(coils, 5, 6, 0.1)
    operator = sense_operator(given.smaps, given.mask)
    data = operator.adjoint(given.kspace)
    level = Level(1200, 0.5, 0.5, 0.2, 3)
    x, noise, probe = complex_normal(400, 5, 6), complex_normal(400, 5, 6), complex_normal(400, 5, 6)
    x, noise = x[:1].expand(400, 5, 6), noise[:1].expand(400, 5, 6)

    def step(lam: float) -> tuple[Tensor, Tensor]:
        lams = torch.full((400,), lam, dtype=torch.float64)
        return tuned_step(gaussian_score, operator, data, x, noise, probe, lams, level, 60)[1:]

    risk, slope = step(0.8)
    higher, lower = step(0.8 + 1e-4)[0], step(0.8 - 1e-4)[0]
    torch.testing.assert_close(slope, (higher - lower) / 2e-4, atol=1e-3, rtol=1e-3)
    keep = 1 - level.step / (TAU**2 + level.sigma**2)
    inverse = torch.linalg.inv(dense_normal(given) + 0.8 * torch.eye(30, dtype=torch.complex128))
    moved = keep * x[0] + (2 * level.step) ** 0.5 * noise[0]
    image = inverse @ (data + 0.8 * moved).flatten()
    divergence = 0.8 * keep * float(inverse.diagonal().real.mean())  # a component: the trace over its 60
    expected = float((image - data.flatten()).abs().square().mean()) * divergence
    assert float((risk.mean() - expected).abs()) < 5 * float(risk.std()) / 20


@pytest.mark.parametrize("kept", [0.0, 0.5, 1.1])
def test_at_a_fixed_lambda_samples_have_the_exact_law(kept: float) -> None:
    """Measured components: x <- (y + lambda x+) / (1 + lambda), the others x <- x+; x+ = (1 - a) x + noise."""
    given = problem(1, 16, 16, 0.1, kept)
    options = SMRDOptions(num_steps=40, lambda_learning_rate=0.0, early_stopping=False, lambda_start=0.5)
    assert options.evaluations == sum(level.num_steps for level in annealing(options, SDE))
    rng = ChainNoise(1, 0, range(40), dtype=torch.complex128)
    found = fft2c(smrd(gaussian_score, SDE, given, rng=rng, options=options))
    gains, variances = {True: 0.0, False: 0.0}, {True: 1 / 12, False: 1 / 12}
    start = 1.0
    for level in annealing(options, SDE):
        for _ in range(level.num_steps):
            keep = 1 - level.step / (TAU**2 + level.asked**2)
            start *= keep
            for measured in (True, False):
                share = 0.5 / 1.5 if measured else 1.0
                gains[measured] = share * keep * gains[measured] + (1 - share)
                variances[measured] = share**2 * (keep**2 * variances[measured] + 2 * level.step)
    assert abs(start) < 1e-3  # nothing is left of the mean of x_0
    if not bool(given.mask.all()):
        others = torch.view_as_real(found[:, ~given.mask])
        assert max(mean_and_variance_scores(others, 0.0, variances[False])) < 5
    if bool(given.mask.any()):
        measured = found[:, given.mask] - gains[True] * given.kspace[0][given.mask]
        assert max(mean_and_variance_scores(torch.view_as_real(measured), 0.0, variances[True])) < 5


def test_lambda_is_learned_and_chains_stop_by_themselves() -> None:
    given = problem(2, 8, 8, 0.1)
    options = SMRDOptions(num_steps=24, window=4)
    sizes: list[int] = []

    def score(x: Tensor, sigma: float) -> Tensor:
        sizes.append(len(x))
        return gaussian_score(x, sigma)

    def run(block: range, **changes: object) -> Tensor:
        sizes.clear()
        rng = ChainNoise(5, 2, block, dtype=torch.complex128)
        return smrd(score, SDE, given, rng=rng, options=replace(options, **changes))  # type: ignore[arg-type]

    together = run(range(4))
    assert sizes[0] == 4
    assert len(set(sizes)) > 1  # some stopped before others
    assert len(sizes) < options.evaluations
    alone = [run(range(i, i + 1)) for i in range(4)]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-8, atol=1e-8)
    unstopped = run(range(4), early_stopping=False)
    assert len(sizes) == replace(options, early_stopping=False).evaluations
    assert not torch.allclose(unstopped, together)
    fixed = run(range(4), early_stopping=False, lambda_learning_rate=0.0)
    assert not torch.allclose(unstopped, fixed)
    assert SMRDOptions().evaluations == 2 * (645 * 3 + 510 * 4)
    with pytest.raises(ValueError, match="lambda_start > 0"):
        SMRDOptions(lambda_start=0.0)


def test_two_map_sets_are_one_chain() -> None:
    given = problem(2, 6, 6, 0.1)
    both = replace(given, smaps=torch.stack([given.smaps, 0 * given.smaps]))
    rng = ChainNoise(0, 0, range(3), 2, dtype=torch.complex128)
    found = smrd(gaussian_score, SDE, both, rng=rng, options=SMRDOptions(num_steps=6))
    assert found.shape == (3, 2, 6, 6)
    assert bool(torch.isfinite(torch.view_as_real(found)).all())
