"""Samplers with an exact Gaussian score against closed forms; independence of chains."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kdrift.methods import COILS, COUPLED_COILS, IMAGES, METHODS, ChainNoise, Chains, Measurement
from kdrift.methods.samplers.annealed import AnnealedOptions, annealed
from kdrift.methods.samplers.predictor_corrector import Scheme, run_scheme, time_steps
from kdrift.methods.samplers.score_mri import HybridOptions, ScoreMRIOptions, score_mri, score_mri_hybrid
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.mri.sense import sense_operator
from kdrift.sde import VESDE, AttenuatedSDE, HighFrequencySDE, LowFrequencies
from kdrift.testing import TAU, gaussian_problem, gaussian_score

SDE = VESDE(0.01, 20.0)
Z_BOUND = 5.0
SAMPLERS = [name for name, method in METHODS.items() if method.samples]


def _complex(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128) * 2**0.5


def _problem(coils: int, rows: int, cols: int, noise: float, kept: float = 0.5, chains: Chains = IMAGES) -> Measurement:
    torch.manual_seed(coils)
    smaps = _complex(coils, rows, cols)
    smaps = smaps / smaps.abs().square().sum(0).sqrt()
    if coils == 1:
        smaps = torch.ones_like(smaps)
    mask = torch.rand(rows, cols) < kept
    kspace = sense_operator(smaps, mask).forward(TAU * _complex(rows, cols)) + noise * _complex(coils, rows, cols)
    return Measurement(torch.where(mask, kspace, 0), mask, smaps, noise, chains=chains)


def _posterior(problem: Measurement) -> tuple[Tensor, Tensor]:
    """Closed-form mean (n,) and covariance of each real component pair, (n, n) Hermitian."""
    operator = sense_operator(problem.smaps, problem.mask)
    rows, cols = operator.ishape
    n = rows * cols
    normal = operator.normal(torch.eye(n, dtype=torch.complex128).reshape(n, rows, cols)).reshape(n, n).T
    s = problem.noise_sigma
    covariance = torch.linalg.inv(normal / s**2 + torch.eye(n, dtype=torch.complex128) / TAU**2)
    return covariance @ operator.adjoint(problem.kspace).reshape(n) / s**2, covariance


def _z_scores(samples: Tensor, mean: Tensor, covariance: Tensor) -> tuple[float, float]:
    """Largest deviation of sample mean and of sample variances and covariances, in standard errors."""
    count = len(samples)
    variance = covariance.diagonal().real
    off = torch.view_as_real(samples.mean(0) - mean) / (variance / count).sqrt()[:, None]
    centred = samples - samples.mean(0)
    empirical = centred.T @ centred.conj() / (2 * count)
    both = variance[:, None] * variance[None] + covariance.abs() ** 2
    error = (empirical - covariance).real / (both / (4 * count) * 2).sqrt()
    return float(off.abs().max()), float(error.abs().max())


@pytest.mark.parametrize(("coils", "chains", "steps"), [(1, 6000, 6), (1, 6000, 20), (3, 500, 5)])
def test_annealed_meets_the_gaussian_posterior(coils: int, chains: int, steps: int) -> None:
    problem = _problem(coils, 5, 6, noise=0.3)
    options = AnnealedOptions(
        num_steps=steps,
        sigma_max=20.0,
        sigma_min=0.01,
        prior_sigma=TAU,
        spread=1.0,
        eta=1.0,
        cg_iterations=25,
    )
    rng = ChainNoise(3, 0, range(chains), dtype=torch.complex128)
    samples = annealed(gaussian_score, SDE, problem, rng=rng, options=options)
    mean_z, covariance_z = _z_scores(samples.reshape(chains, -1), *_posterior(problem))
    assert mean_z < Z_BOUND
    assert covariance_z < Z_BOUND


def test_annealed_without_data_samples_the_prior_and_with_all_data_returns_them() -> None:
    problem = _problem(1, 6, 6, noise=0.3)
    options = AnnealedOptions(num_steps=12, sigma_max=20.0, prior_sigma=TAU, spread=1.0)
    nothing = replace(problem, mask=torch.zeros(6, 6, dtype=torch.bool), kspace=torch.zeros_like(problem.kspace))
    rng = ChainNoise(0, 0, range(4000), dtype=torch.complex128)
    samples = annealed(gaussian_score, SDE, nothing, rng=rng, options=options).reshape(4000, -1)
    mean_z, covariance_z = _z_scores(
        samples, torch.zeros(36, dtype=torch.complex128), TAU**2 * torch.eye(36, dtype=torch.complex128)
    )
    assert max(mean_z, covariance_z) < Z_BOUND
    image = _complex(6, 6)
    everything = Measurement(fft2c(image)[None], torch.ones(6, 6, dtype=torch.bool), problem.smaps, 0.0)
    rng = ChainNoise(0, 0, range(2), dtype=torch.complex128)
    samples = annealed(gaussian_score, SDE, everything, rng=rng, options=replace(options, spread=0.0))
    torch.testing.assert_close(samples, image.expand(2, 6, 6), atol=1e-3, rtol=1e-3)


def test_annealed_last_step_keeps_what_was_measured_and_adds_no_noise() -> None:
    problem = _problem(1, 6, 6, noise=0.3)
    # a mean of the posterior of white images is zero where nothing was measured: so is every sample after a last step
    # without noise, and where k-space was measured, samples have it as it was
    options = AnnealedOptions(num_steps=4, sigma_max=20.0, prior_sigma=1e-3, last_spread=0.0, keep_measured=True)
    rng = ChainNoise(0, 0, range(3), dtype=torch.complex128)
    found = fft2c(annealed(lambda x, sigma: -x / sigma**2, SDE, problem, rng=rng, options=options))
    torch.testing.assert_close(found, problem.kspace.expand(3, 6, 6))
    with pytest.raises(ValueError, match=r"last_spread and eta in \[0, 1\]"):
        AnnealedOptions(last_spread=1.5)


@pytest.mark.parametrize(("released", "corrector_first"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(
    ("snr", "num_steps", "bias"), [(0.16, 300, 0.12), pytest.param(0.04, 1200, 0.03, marks=pytest.mark.slow)]
)
def test_predictor_corrector_samples_the_prior(
    released: bool, corrector_first: bool, snr: float, num_steps: int, bias: float
) -> None:
    # Stated limit: the variance is off by a bias that falls with r and N, and with the image size (the step
    # size depends on |score|, which tilts the stationary density by |x|^2: 2 over the number of pixels).
    chains, size = 48, 24
    rng = ChainNoise(1, 0, range(chains), dtype=torch.complex128)
    scheme = Scheme(
        time_steps(0.0, 1.0, num_steps, released=released), corrector="langevin_parts", snr=snr,
        final_mean=released, corrector_first=corrector_first,
    )  # fmt: skip
    x = run_scheme(gaussian_score, SDE, scheme, SDE.prior_sample(rng(size, size)), rng=rng)
    variance = float(torch.view_as_real(x).var())
    noise = 5 * (2 / (2 * chains * size**2)) ** 0.5
    assert abs(variance / TAU**2 - 1) < bias + noise
    assert abs(complex(x.mean())) < Z_BOUND * TAU * 2**0.5 / (chains * size**2) ** 0.5


@pytest.mark.parametrize("name", ["score_mri", "score_mri_real", "score_mri_ssos", "score_mri_hybrid"])
@pytest.mark.parametrize("preset", ["paper", "released"])
def test_score_mri_limits(name: str, preset: str) -> None:
    # Stated limits of these approximate samplers: all data are returned as they are, no data leave the prior.
    method = METHODS[name]
    options = replace(method.presets[preset], num_steps=150)
    coils = 2 if method.chains.coil_images else 1
    problem = _problem(coils, 8, 8, noise=0.0, chains=method.chains)
    parts = coils if method.chains.coil_images else None
    image = TAU * _complex(8, 8)
    image = image.real + 0j if name.endswith("real") else image
    full_mask = torch.ones(8, 8, dtype=torch.bool)
    everything = replace(problem, kspace=fft2c(problem.smaps * image), mask=full_mask)
    rng = ChainNoise(0, 0, range(2), parts, dtype=torch.complex128)
    full = method.function(gaussian_score, SDE, everything, rng=rng, options=options)
    expected = problem.smaps * image if method.chains.coil_images else image
    torch.testing.assert_close(full + 0j, expected.expand(full.shape) + 0j, atol=1e-6, rtol=1e-6)
    if name == "score_mri_hybrid":
        return  # coupled coils have no independent prior without data
    nothing = replace(everything, kspace=0 * everything.kspace, mask=torch.zeros(8, 8, dtype=torch.bool))
    rng = ChainNoise(0, 0, range(150), parts, dtype=torch.complex128)
    empty = method.function(gaussian_score, SDE, nothing, rng=rng, options=options)
    parts_of = torch.view_as_real(empty) if empty.is_complex() else empty
    assert float(parts_of.var()) == pytest.approx(TAU**2, rel=0.12)


def test_hybrid_couplings() -> None:
    problem = _problem(3, 8, 8, noise=0.0, chains=COUPLED_COILS)
    options = HybridOptions(num_steps=20, sense_interval=1)
    rng = ChainNoise(0, 0, range(2), 3, dtype=torch.complex128)
    x = score_mri_hybrid(gaussian_score, SDE, problem, rng=rng, options=options)
    image = (problem.smaps.conj() * x).sum(1, keepdim=True)
    torch.testing.assert_close(problem.smaps * image, x)  # `combine` ends with coils that agree
    always = score_mri_hybrid(
        gaussian_score, SDE, problem, rng=ChainNoise(0, 0, range(2), 3, dtype=torch.complex128),
        options=replace(options, coupling="broadcast", lambda_start=0.0, lambda_stop=0.0),
    )  # fmt: skip
    ssos = score_mri(
        gaussian_score, SDE, problem, rng=ChainNoise(0, 0, range(2), 3, dtype=torch.complex128),
        options=ScoreMRIOptions(num_steps=20),
    )  # fmt: skip
    torch.testing.assert_close(always, ssos)  # without weight, Algorithm 5 is Algorithm 4


def test_sampled_kspace_is_kept_by_every_coil() -> None:
    problem = _problem(2, 8, 8, noise=0.1, chains=COILS)
    x = score_mri(
        gaussian_score, SDE, problem, rng=ChainNoise(0, 0, range(2), 2, dtype=torch.complex128),
        options=ScoreMRIOptions(num_steps=10),
    )  # fmt: skip
    torch.testing.assert_close(torch.where(problem.mask, fft2c(x), 0), problem.kspace.expand(2, 2, 8, 8))
    assert not torch.allclose(x, ifft2c(problem.kspace).expand(2, 2, 8, 8))


@pytest.mark.parametrize("name", SAMPLERS)
def test_chains_do_not_depend_on_their_batch(name: str) -> None:
    method = METHODS[name]
    problem = _problem(2 if method.chains.coil_images else 1, 8, 8, noise=0.1, chains=method.chains)
    parts = 2 if method.chains.coil_images else None
    steps = 4 if name == "daps" else 20  # each of its steps has a hundred of Langevin
    options = replace(next(iter(method.presets.values())), num_steps=steps)
    sde = {
        "white": SDE,
        "high_frequency": HighFrequencySDE(SDE, LowFrequencies().mask(8, 8)),
        "attenuated": AttenuatedSDE(),
    }[method.needs]
    if method.needs == "attenuated":  # its filters need a sampled centre
        problem.mask[2:6, 2:6] = True

    def samples(block: range) -> Tensor:
        rng = ChainNoise(5, 2, block, parts, dtype=torch.complex128)
        return method.function(gaussian_score, sde, problem, rng=rng, options=options)

    together = samples(range(4))
    torch.testing.assert_close(
        torch.cat([samples(range(i, i + 1)) for i in range(4)]), together, rtol=1e-10, atol=1e-10
    )
    torch.testing.assert_close(torch.cat([samples(range(3)), samples(range(3, 4))]), together, rtol=1e-10, atol=1e-10)


def test_chain_noise_is_unit_and_seeded_by_slice_part_and_sample() -> None:
    noise = ChainNoise(0, 0, range(4), 3)(64, 64)
    assert noise.shape == (4, 3, 64, 64)
    assert float(noise.real.std()) == pytest.approx(1, abs=0.02)
    assert float(noise.imag.std()) == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(ChainNoise(0, 0, [2], 3)(64, 64)[0], noise[2])
    assert not torch.equal(ChainNoise(0, 1, [2], 3)(64, 64)[0], noise[2])
    with pytest.raises(ValueError, match="seed"):
        ChainNoise(-1, 0, range(1))


def test_measurement_shapes_are_checked() -> None:
    problem = _problem(2, 4, 4, noise=0.1)
    with pytest.raises(ValueError, match="mask is"):
        replace(problem, mask=torch.ones(3, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="smaps are"):
        replace(problem, smaps=problem.smaps[:1])


def test_score_mri_levels_are_the_options_within_the_priors_range() -> None:
    asked: list[float] = []

    def score(x: Tensor, sigma: float | Tensor) -> Tensor:
        asked.append(float(sigma))
        return gaussian_score(x, sigma)

    for low, high, expected in ((0.1, 5.0, (0.1, 5.0)), (1e-4, 378.0, (0.01, 20.0))):
        asked.clear()
        options = ScoreMRIOptions(num_steps=20, sigma_min=low, sigma_max=high)
        rng = ChainNoise(0, 0, range(1), dtype=torch.complex128)
        METHODS["score_mri"].function(score, SDE, _problem(1, 6, 6, noise=0.1), rng=rng, options=options)
        assert (min(asked), max(asked)) == pytest.approx(expected)
    with pytest.raises(ValueError, match="sigma_min < sigma_max"):
        ScoreMRIOptions(sigma_min=2.0, sigma_max=1.0)


def test_the_sampler_of_the_docs_meets_the_closed_form() -> None:
    """Half-quadratic splitting on Gaussian images ends at the posterior mean: its fixed point, for every sigma small
    beside tau, solves (A^H A / s^2 + 1 / (tau^2 + sigma^2)) x = A^H y / s^2."""
    page = Path(__file__).parents[2] / "docs" / "adding_a_sampler.md"
    module = types.ModuleType("hqs_of_the_docs")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    text = page.read_text().split("```python\n")[1].split("```")[0]
    assert len(text.splitlines()) < 60
    exec(compile(text, str(page), "exec"), module.__dict__)
    method = module.METHODS["hqs"]
    problem = _problem(2, 6, 6, noise=0.3)
    options = method.options(num_steps=400, sigma_first=2.0)
    rng = ChainNoise(0, 0, range(2), dtype=torch.complex128)
    found = method.function(gaussian_score, VESDE(0.05, 20.0), problem, rng=rng, options=options)
    mean, _ = _posterior(problem)
    torch.testing.assert_close(found.reshape(2, -1), mean.expand(2, -1), atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    ("discretisation", "times"),
    [
        ("paper", [1, 3 / 4, 3 / 4, 1 / 2, 1 / 2, 1 / 4, 1 / 4, 0]),  # corrects at the time a step of 1 / N arrives at
        ("released", [1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3, 0, 0]),  # corrects where a step of 1 / (N - 1) starts
    ],
)
def test_score_mri_visits_the_levels_of_its_discretisation(discretisation: str, times: list[float]) -> None:
    levels: list[float] = []

    def score(x: Tensor, sigma: Tensor) -> Tensor:
        levels.append(float(torch.as_tensor(sigma).flatten()[0]))
        return gaussian_score(x, sigma)

    options = ScoreMRIOptions(num_steps=4, discretisation=discretisation, sigma_min=0.1, sigma_max=10.0)
    rng = ChainNoise(0, 0, range(1), dtype=torch.complex128)
    score_mri(score, VESDE(0.1, 10.0), gaussian_problem(METHODS["score_mri"].chains), rng=rng, options=options)
    assert levels == pytest.approx([0.1 * 100**time for time in times])
