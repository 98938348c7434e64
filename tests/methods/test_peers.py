"""DPS, DDS, DiffPIR and DAPS on Gaussian images against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from kdrift.methods import ChainNoise, Measurement
from kdrift.methods.samplers.daps import DAPSOptions, daps
from kdrift.methods.samplers.dds import DDSOptions, dds
from kdrift.methods.samplers.diffpir import DiffPIROptions, diffpir
from kdrift.methods.samplers.dps import DPSOptions, dps, guidance
from kdrift.methods.samplers.vp_levels import VPOptions, alpha_bars
from kdrift.mri.fourier import fft2c
from kdrift.mri.sense import sense_operator
from kdrift.sde import VESDE
from recon_helpers import tiny_prior
from test_samplers import SDE, TAU, Z_BOUND, _complex, _problem, gaussian_score

VP: dict[str, Any] = {"dps": dps, "dds": dds, "diffpir": diffpir}


def _without_data(size: int) -> Measurement:
    kspace = torch.zeros(1, size, size, dtype=torch.complex128)
    return Measurement(kspace, torch.zeros(size, size, dtype=torch.bool), torch.ones_like(kspace), 0.0)


def _with_all_data(image: Tensor, coils: int = 2) -> Measurement:
    smaps = _problem(coils, *image.shape, noise=0.0).smaps
    return Measurement(fft2c(smaps * image), torch.ones(image.shape, dtype=torch.bool), smaps, 0.0)


def _variance_without_data(options: Any, num_steps: int) -> float:
    """Variance that the steps of a method, linear for Gaussian images, end with: the recursion in closed form."""
    bars = alpha_bars(options, SDE, _without_data(4))
    variance = 1 - bars[0]
    assert len(bars) == num_steps + 1
    for bar, after in pairwise(bars):
        tweedie = math.sqrt(bar) * TAU**2 / (bar * TAU**2 + 1 - bar)  # D = tweedie x
        noise = (1 - math.sqrt(bar) * tweedie) / math.sqrt(1 - bar)  # e = noise x
        if isinstance(options, DPSOptions):
            step = bar / after
            factor = (math.sqrt(step) * (1 - after) + math.sqrt(after) * (1 - step) * tweedie) / (1 - bar)
            fresh = (1 - step) * (1 - after) / (1 - bar)
        elif isinstance(options, DDSOptions):
            fresh = options.eta**2 * (1 - after) / (1 - bar) * (1 - bar / after)
            factor = math.sqrt(after) * tweedie + math.sqrt(1 - after - fresh) * noise
        else:
            fresh = (1 - after) * options.zeta
            factor = math.sqrt(after) * tweedie + math.sqrt((1 - after) * (1 - options.zeta)) * noise
        variance = factor**2 * variance + fresh
    return variance


LIMITS = [
    ("dps", DPSOptions(num_steps=60), 0.13),
    ("dps", DPSOptions(num_steps=400), 0.03),
    ("dds", DDSOptions(eta=0.0), 0.07),
    ("dds", DDSOptions(), 0.12),
    ("dds", DDSOptions(num_steps=300), 0.03),
    ("diffpir", DiffPIROptions(zeta=0.0), 0.04),
    ("diffpir", DiffPIROptions(), 0.07),  # zeta above 0 noises a mean: the variance falls short whatever N
    ("diffpir", DiffPIROptions(num_steps=20, zeta=1.0), 0.6),
]
"""Without data: method, settings, and how far the variance is from the prior's."""


@pytest.mark.parametrize(("name", "options", "bias"), LIMITS)
def test_without_data_the_variance_is_that_of_the_recursion_and_near_the_prior(
    name: str, options: VPOptions, bias: float
) -> None:
    chains, size = 8, 16
    expected = _variance_without_data(options, options.num_steps)
    assert abs(expected / TAU**2 - 1) < bias
    rng = ChainNoise(1, 0, range(chains), dtype=torch.complex128)
    x = VP[name](gaussian_score, SDE, _without_data(size), rng=rng, options=options)
    parts = torch.view_as_real(x)
    error = (2 / parts.numel()) ** 0.5
    assert abs(float(parts.square().mean()) / expected - 1) < Z_BOUND * error
    assert float(parts.mean().abs()) < Z_BOUND * (expected / parts.numel()) ** 0.5


@pytest.mark.parametrize(
    ("name", "options", "distance"),
    [
        ("dps", DPSOptions(num_steps=300, zeta=0.5), 0.5),  # steps of length zeta' do not come closer
        ("dds", DDSOptions(), 0.5),  # gamma 1 trusts image and data alike
        ("dds", DDSOptions(gamma=None), 1e-6),
        ("diffpir", DiffPIROptions(num_steps=30), 1e-2),
        ("diffpir", DiffPIROptions(num_steps=20, zeta=1.0), 1e-2),
    ],
)
@pytest.mark.parametrize("coils", [1, 2])
def test_all_data_are_returned(name: str, options: VPOptions, distance: float, coils: int) -> None:
    torch.manual_seed(0)
    image = TAU * _complex(8, 8)
    rng = ChainNoise(0, 0, range(2), dtype=torch.complex128)
    x = VP[name](gaussian_score, SDE, _with_all_data(image, coils), rng=rng, options=options)
    assert float(torch.linalg.vector_norm(x - image, dim=(1, 2)).max()) < distance


def test_dps_gradient_is_that_of_each_chain() -> None:
    problem = _problem(2, 6, 5, noise=0.2)
    operator = sense_operator(problem.smaps, problem.mask)
    x, bar = _complex(3, 6, 5), 0.4
    denoised, gradient = guidance(gaussian_score, SDE, problem, x, bar)
    factor = bar**0.5 * TAU**2 / (bar * TAU**2 + 1 - bar)
    torch.testing.assert_close(denoised, factor * x)
    residual = problem.kspace - operator.forward(factor * x)
    norms = torch.linalg.vector_norm(residual.reshape(3, -1), dim=1)
    torch.testing.assert_close(gradient, -factor * operator.adjoint(residual) / norms[:, None, None])
    assert not gradient.requires_grad


def test_dps_differentiates_through_a_network_and_leaves_no_graph() -> None:
    prior = tiny_prior(16)
    problem = _problem(2, 16, 16, noise=0.1)
    single = Measurement(
        problem.kspace.to(torch.complex64), problem.mask, problem.smaps.to(torch.complex64), problem.noise_sigma
    )
    operator, score = sense_operator(single.smaps, single.mask), prior.score(fast=False)
    x = _complex(2, 16, 16).to(torch.complex64)
    bar, step = 0.7, 1e-2
    _, gradient = guidance(score, VESDE(0.01, 5.0), single, x, bar)
    direction = _complex(2, 16, 16).to(torch.complex64)

    def norms(x: Tensor) -> Tensor:
        denoised, _ = guidance(score, VESDE(0.01, 5.0), single, x, bar)
        return torch.linalg.vector_norm((single.kspace - operator.forward(denoised)).reshape(2, -1), dim=1)

    slope = (norms(x + step * direction) - norms(x - step * direction)) / (2 * step)
    expected = (gradient.conj() * direction).real.flatten(1).sum(1)
    torch.testing.assert_close(slope, expected, rtol=2e-2, atol=2e-2)
    rng = ChainNoise(0, 0, range(2))
    out = dps(score, VESDE(0.01, 5.0), single, rng=rng, options=DPSOptions(num_steps=3))
    assert not out.requires_grad


def test_vp_levels_are_those_of_the_prior() -> None:
    problem, asked = _problem(1, 4, 4, noise=0.1), []

    def score(x: Tensor, sigma: float | Tensor) -> Tensor:
        asked.append(float(sigma))
        return gaussian_score(x, sigma)

    rng = ChainNoise(0, 0, range(1), dtype=torch.complex128)
    dds(score, VESDE(0.02, 5.0), problem, rng=rng, options=DDSOptions(num_steps=20))
    assert len(asked) == 20
    assert asked[0] == pytest.approx(5.0)
    assert asked[-1] == pytest.approx(0.02)
    assert min(asked) >= 0.02
    assert max(asked) <= 5.0


def test_daps_meets_the_gaussian_posterior() -> None:
    # Stated limit: with one ODE step (the posterior mean), the true deviation of p(x_0 | x_sigma) and the true noise
    # level it is exact but for the Langevin steps: their number, and their size, which makes variances larger by
    # 1 / (1 - step curvature / 2). Here that is within 3 %. One coil: k-space samples are independent.
    noise, chains = 0.3, 12
    problem = _problem(1, 16, 16, noise=noise)
    options = DAPSOptions(
        num_steps=6, num_ode_steps=1, sigma_max=20.0, sigma_min=0.02, num_langevin_steps=100, step_size=4e-3,
        step_ratio=0.01, tau=noise, prior_sigma=TAU,
    )  # fmt: skip
    rng = ChainNoise(3, 0, range(chains), dtype=torch.complex128)
    samples = fft2c(daps(gaussian_score, SDE, problem, rng=rng, options=options))
    for seen in (problem.mask, ~problem.mask):
        variance = 1 / (1 / noise**2 + 1 / TAU**2) if seen is problem.mask else TAU**2
        off = torch.view_as_real(samples[:, seen] - variance / noise**2 * problem.kspace[0, seen])
        assert abs(float(off.square().mean()) / variance - 1) < 0.03 + Z_BOUND * (2 / off.numel()) ** 0.5
        assert float((off.mean(0) / (variance / chains) ** 0.5).abs().max()) < Z_BOUND
        assert float(off.mean().abs()) < Z_BOUND * (variance / off.numel()) ** 0.5


def test_daps_limits() -> None:
    torch.manual_seed(0)
    image = TAU * _complex(8, 8)
    options = DAPSOptions(num_steps=12, num_langevin_steps=40, sigma_max=20.0)
    rng = ChainNoise(0, 0, range(2), dtype=torch.complex128)
    x = daps(gaussian_score, SDE, _with_all_data(image, 1), rng=rng, options=options)
    assert float((x - image).abs().square().mean().sqrt()) < 0.1  # tau 0.01; few steps of falling size leave the rest
    # without data, many ODE steps and few Langevin steps: the ODE's samples of the prior, with the noise of the steps
    many = replace(options, num_steps=4, num_ode_steps=80, num_langevin_steps=1, step_size=1e-6, sigma_min=0.05)
    rng = ChainNoise(0, 0, range(40), dtype=torch.complex128)
    empty = torch.view_as_real(daps(gaussian_score, SDE, _without_data(8), rng=rng, options=many))
    assert float(empty.var()) == pytest.approx(TAU**2, rel=0.05 + Z_BOUND * (2 / empty.numel()) ** 0.5)
    with pytest.raises(ValueError, match="take step_size below"):
        daps(gaussian_score, SDE, _without_data(8), rng=rng, options=replace(options, step_size=1e-3))


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (DPSOptions, {"zeta": -1.0}),
        (DPSOptions, {"num_steps": 1}),
        (DPSOptions, {"beta_min": 30.0}),
        (DDSOptions, {"eta": 1.5}),
        (DDSOptions, {"gamma": 0.0}),
        (DiffPIROptions, {"zeta": 2.0}),
        (DAPSOptions, {"num_ode_steps": 0}),
        (DAPSOptions, {"sigma_min": 200.0}),
        (DAPSOptions, {"tau": 0.0}),
    ],
)
def test_settings_are_checked(options: type, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        options(**wrong)
