"""The samplers ak_diffusion and heat_diffusion with exact denoisers: their limits, their ablations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdrift.data.phantom import phantom_volume
from kdrift.methods import COUPLED_COILS, IMAGES, METHODS, ChainNoise, Chains, Measurement
from kdrift.methods.samplers.ak_diffusion import AKDiffusionOptions, ak_diffusion
from kdrift.methods.samplers.heat_diffusion import HeatDiffusionOptions, heat_diffusion, learning_rate
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.mri.masks import make_mask
from kdrift.mri.sense import sense_operator
from kdrift.networks import NCSNppConfig, NetworkConfig, build_network
from kdrift.prior.bundle import load_prior, save_prior
from kdrift.prior.prior_info import PriorInfo
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct
from kdrift.sde import AttenuatedNoise, AttenuatedSDE, WhiteNoise

TAU = 0.7
SIZE = 12
SDE = AttenuatedSDE(0.01, 1.0, 0.5, 24.0)


def _complex(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128) * 2**0.5


def gaussian_score(x: Tensor, sigma: float | Tensor) -> Tensor:
    """(h - x) / sigma^2 for white images of deviation TAU, one unit coil: h = tau^2 G / (tau^2 G^2 + sigma^2) z."""
    level = torch.as_tensor(sigma, dtype=torch.float64)
    window = SDE.attenuation(SDE.time(level), *x.shape[-2:])
    restored = ifft2c(TAU**2 * window / (TAU**2 * window**2 + level**2) * fft2c(x))
    return (restored - x) / level**2


def knows(image: Tensor) -> Any:
    """Score whose denoiser answers `image` whatever it is asked."""
    return lambda x, sigma: (image.expand_as(x) - x) / sigma**2


def _problem(
    coils: int, *, mask: Tensor | None = None, noise: float = 0.0, chains: Chains = COUPLED_COILS
) -> tuple[Measurement, Tensor]:
    torch.manual_seed(coils)
    smaps = _complex(coils, SIZE, SIZE)
    smaps = torch.ones_like(smaps) if coils == 1 else smaps / smaps.abs().square().sum(0).sqrt()
    mask = torch.ones(SIZE, SIZE, dtype=torch.bool) if mask is None else mask
    image = TAU * _complex(SIZE, SIZE)
    kspace = sense_operator(smaps, mask).forward(image) + noise * mask * _complex(coils, SIZE, SIZE)
    return Measurement(kspace, mask, smaps, noise, chains=chains), image


@pytest.mark.parametrize("flow", [False, True])
def test_without_data_it_samples_the_prior(flow: bool) -> None:
    """Every frequency is a scalar recursion with Gaussian noise: its variance is met in Monte Carlo errors, and it
    tends to tau^2 with N but where G_N is not small, for the start has nothing there."""
    problem, _ = _problem(1, mask=torch.zeros(SIZE, SIZE, dtype=torch.bool))
    steps, chains = 60, 1000
    options = AKDiffusionOptions(num_steps=steps, num_corrector_steps=0, slr_weight=0.0, probability_flow=flow)
    rng = ChainNoise(0, 0, range(chains), 1, dtype=torch.complex128)
    samples = fft2c(ak_diffusion(gaussian_score, SDE, problem, rng=rng, options=options))[:, 0]
    found = torch.view_as_real(samples).square().mean((0, 3))
    expected = _variance(steps, flow)
    assert float(((found / expected - 1) / (1 / chains) ** 0.5).abs().max()) < 5
    inner = SDE.attenuation(torch.tensor(1.0, dtype=torch.float64), SIZE, SIZE) < 0.05

    def off(steps: int) -> float:
        return float((_variance(steps, flow)[inner] / TAU**2 - 1).abs().max())

    assert off(60) < (0.2 if flow else 0.1)
    assert off(1000) < (0.02 if flow else 0.01)
    assert off(2000) < 0.01
    assert off(2000) == pytest.approx(off(1000) / 2, rel=0.1)  # of first order


def _variance(steps: int, flow: bool) -> Tensor:
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    sigma, window = SDE.sigma(times), [SDE.attenuation(t, SIZE, SIZE) for t in times]
    variance = torch.full((SIZE, SIZE), float(sigma[-1] ** 2), dtype=torch.float64)
    for i in reversed(range(steps)):
        h = TAU**2 * window[i + 1] / (TAU**2 * window[i + 1] ** 2 + sigma[i + 1] ** 2)
        step = 1 - (sigma[i] / sigma[i + 1]) ** (1 if flow else 2)
        gain = 1 - (window[i + 1] - window[i]) * h + step * (window[i + 1] * h - 1)
        variance = gain**2 * variance + (0 if flow else sigma[i + 1] ** 2 - sigma[i] ** 2)
    return variance / window[0] ** 2


def test_corrector_keeps_the_prior() -> None:
    problem, _ = _problem(1, mask=torch.zeros(SIZE, SIZE, dtype=torch.bool))
    options = AKDiffusionOptions(num_steps=100, num_corrector_steps=1, slr_weight=0.0, snr=0.05)
    rng = ChainNoise(0, 0, range(200), 1, dtype=torch.complex128)
    samples = fft2c(ak_diffusion(gaussian_score, SDE, problem, rng=rng, options=options))[:, 0]
    inner = SDE.attenuation(torch.tensor(1.0, dtype=torch.float64), SIZE, SIZE) < 0.05
    assert float(torch.view_as_real(samples)[:, inner].var()) == pytest.approx(TAU**2, rel=0.1)


def test_with_all_data_it_returns_them() -> None:
    """Limit of the corrected score: the last noise, sigma_min, is what is left; kept data have none."""
    problem, image = _problem(2)
    options = AKDiffusionOptions(num_corrector_steps=0, slr_weight=0.0, lam=1e-6, correct_score=True)
    rng = ChainNoise(0, 0, range(3), 2, dtype=torch.complex128)
    found = ak_diffusion(gaussian_score, SDE, problem, rng=rng, options=options)
    assert found.shape == (3, 2, SIZE, SIZE)
    off = found - problem.smaps * image
    assert float(off.abs().pow(2).mean().sqrt()) < 3 * 0.01 * 2**0.5
    kept = ak_diffusion(
        gaussian_score, SDE, problem, rng=ChainNoise(0, 0, range(3), 2, dtype=torch.complex128),
        options=replace(options, keep_measured=True),
    )  # fmt: skip
    torch.testing.assert_close(kept, (problem.smaps * image).expand_as(kept))


def test_a_denoiser_that_knows_the_image_gives_it_with_coil_noise() -> None:
    """As in the paper's preset: what is left is noise in the range of the maps."""
    problem, image = _problem(3, mask=torch.arange(SIZE).expand(SIZE, SIZE) % 2 == 0)
    coils = problem.smaps * image
    options = AKDiffusionOptions(num_steps=30, num_corrector_steps=1, slr_weight=0.0)
    rng = ChainNoise(0, 0, range(2), 3, dtype=torch.complex128)
    off = ak_diffusion(knows(coils), SDE, problem, rng=rng, options=options) - coils
    assert float(off.abs().pow(2).mean().sqrt()) < 3 * 0.01
    free = ak_diffusion(
        knows(coils), SDE, problem, rng=ChainNoise(0, 0, range(2), 3, dtype=torch.complex128),
        options=replace(options, coil_noise="none"),
    )  # fmt: skip
    window = SDE.attenuation(torch.tensor(0.0, dtype=torch.float64), SIZE, SIZE)
    project = replace(SDE, smaps=problem.smaps).project

    def outside(error: Tensor) -> float:
        noise = window * fft2c(error)  # it was shaped before the division by G_0
        return float((project(noise) - noise).norm() / noise.norm())

    assert outside(off) < 0.02 < 0.3 < outside(free - coils)


def _centre() -> Tensor:
    mask = torch.arange(SIZE).expand(SIZE, SIZE) % 3 == 0
    mask = mask.clone()
    mask[:, SIZE // 2 - 3 : SIZE // 2 + 3] = True
    return mask


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"coil_noise": "none"},
        {"coil_noise": "zero_filled"},
        {"coil_noise": "low_rank"},
        {"coil_noise": "low_rank", "slr_weight": 0.0},
        {"slr_weight": 0.0},
        {"sigma_last": 0.25},
        {"sigma_last": 0.5, "correct_score": True},
    ],
    ids=str,
)
def test_ablations_run_and_differ(changes: dict[str, Any]) -> None:
    problem, _ = _problem(3, mask=_centre(), noise=0.02)
    options = AKDiffusionOptions(num_steps=4, kernel_size=3, null_threshold=0.3)

    def run(options: AKDiffusionOptions) -> Tensor:
        rng = ChainNoise(1, 0, range(2), 3, dtype=torch.complex128)
        return ak_diffusion(gaussian_score, SDE, problem, rng=rng, options=options)

    found = run(replace(options, **changes))
    assert found.shape == (2, 3, SIZE, SIZE)
    assert bool(torch.isfinite(torch.view_as_real(found)).all())
    if changes:
        assert not torch.allclose(found, run(options))
    else:
        assert torch.equal(found, run(options))


def test_super_resolution_takes_a_centre_mask() -> None:
    mask = make_mask("center", (SIZE, SIZE), acceleration=1, acs_lines=6).mask
    assert int(mask.sum()) == 36
    problem, _ = _problem(2, mask=mask)
    rng = ChainNoise(0, 0, range(1), 2, dtype=torch.complex128)
    steps: list[tuple[int, int, float]] = []
    options = AKDiffusionOptions(num_steps=3, kernel_size=2)
    ak_diffusion(
        gaussian_score, SDE, problem, rng=rng, options=options,
        callback=lambda done, total, images, level: steps.append((done, total, level)),
    )  # fmt: skip
    assert [step[:2] for step in steps] == [(1, 3), (2, 3), (3, 3)]
    assert steps[-1][2] == pytest.approx(0.01)


def test_what_does_not_fit_is_refused() -> None:
    problem, _ = _problem(2)
    rng = ChainNoise(0, 0, range(1), 2, dtype=torch.complex128)
    for name in ("ak_diffusion", "heat_diffusion"):
        with pytest.raises(ValueError, match=f"{name} takes one set of coil maps, got 2"):
            METHODS[name].check_map_sets(2, name)
    outside = replace(problem, mask=torch.arange(SIZE).expand(SIZE, SIZE) == 0)
    with pytest.raises(ValueError, match="fully sampled centre"):
        ak_diffusion(gaussian_score, SDE, outside, rng=rng, options=AKDiffusionOptions())
    with pytest.raises(ValueError, match="lam > 0"):
        AKDiffusionOptions(lam=0.0)
    with pytest.raises(ValueError, match="num_steps <= start_index < num_times"):
        HeatDiffusionOptions(num_steps=1000)
    with pytest.raises(ValueError, match="lr >= 0"):
        HeatDiffusionOptions(lr=-0.1)


def test_heat_diffusion_limits() -> None:
    options = HeatDiffusionOptions(num_steps=20, num_times=200, start_index=199)
    clean = torch.zeros(64, 64, dtype=torch.complex128)
    clean[16:48, 16:48] = 1  # a quarter of the pixels
    for snr_db, rate in ((5, 0.2), (11, 0.2), (13, 0.35), (15, 0.5), (18, 0.6), (30, 0.6)):
        noisy = clean.clone()
        noisy[:8, :8] = noisy[:8, -8:] = noisy[-8:, :8] = noisy[-8:, -8:] = 10 ** (-snr_db / 20) * (1 + 1j)
        assert learning_rate(7 * noisy) == pytest.approx(rate, abs=0.01)
    assert learning_rate(clean) == 0.6
    assert learning_rate(0 * clean) == 0.2
    # a network that does not depend on its input has no Jacobian: the image it knows comes back
    problem, image = _problem(1, chains=IMAGES)
    rng = ChainNoise(0, 0, range(2), dtype=torch.complex128)
    found = heat_diffusion(lambda x, sigma: (image - x + 0 * x) / sigma**2, SDE, problem, rng=rng, options=options)
    torch.testing.assert_close(found, image.expand_as(found))
    # with all data, an exact Gaussian denoiser at the last level is next to 1/G, and lr = 1 next to the data
    steps = replace(options, lr=1.0, num_steps=60)
    rng = ChainNoise(0, 0, range(2), dtype=torch.complex128)
    full = heat_diffusion(gaussian_score, SDE, problem, rng=rng, options=steps)
    none = heat_diffusion(
        gaussian_score, SDE, problem, rng=ChainNoise(0, 0, range(2), dtype=torch.complex128),
        options=replace(steps, lr=0.0),
    )  # fmt: skip
    assert float((full - image).norm()) < 0.6 * float((none - image).norm())


@pytest.mark.parametrize("method", ["ak_diffusion", "heat_diffusion"])
def test_reconstruct_runs_it_with_a_prior_of_its_kind(method: str, tmp_path: Path) -> None:
    network = NetworkConfig(
        NCSNppConfig(image_size=16, channels=2, nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(),
                     middle_attention=False, centered=True, scale_by_sigma=False),
        preconditioning="residual",
    )  # fmt: skip
    info = PriorInfo(AttenuatedNoise(0.01, 1.0, 0.5, 24.0))
    made = save_prior(tmp_path / "ak", build_network(network), network, info)
    kspace = torch.from_numpy(phantom_volume(1, 32, 32, 3).kspace)
    mask = make_mask("equispaced", (32, 32), acceleration=2, acs_lines=12).mask
    preset = "paper" if method == "ak_diffusion" else None
    plan = Plan(method, preset, settings={"num_steps": 2}, num_samples=2, check=False)
    result = reconstruct(kspace, mask, plan=plan, prior=load_prior(made), device="cpu")
    assert result.nfe == (4 if method == "ak_diffusion" else 2)
    assert result.network_images == 2 * (12 if method == "ak_diffusion" else 2)
    assert bool(torch.isfinite(result.mean).all())
    white = save_prior(tmp_path / "white", build_network(network), network, PriorInfo(WhiteNoise(0.01, 1.0)))
    with pytest.raises(ValueError, match="needs a prior trained on attenuated noise"):
        reconstruct(kspace, mask, plan=plan, prior=load_prior(white), device="cpu")
