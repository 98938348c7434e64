"""AK-Diffusion: its SDE, the structured low-rank operator, and the training of its prior."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdrift.data.dataset import TrainingImages
from kdrift.methods import Measurement
from kdrift.methods.samplers.ak_diffusion import AKDiffusionOptions, correct
from kdrift.mri.birdcage import FIELD_OF_VIEW, HEIGHT, birdcage_maps, draw_coils, maps_of, random_coil_maps
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.mri.low_rank import LowRankOperator, annihilation_filters, low_rank_operator
from kdrift.networks import NetworkConfig, build_network
from kdrift.prior.bundle import load_prior, save_prior
from kdrift.prior.prior_info import PriorInfo
from kdrift.runs.config import parse, to_dict
from kdrift.sde import VESDE, AttenuatedSDE, AttenuationConfig, NoiseConfig, gaussian_window
from kdrift.sde.process import Network
from kdrift.sde.score import denoise
from kdrift.testing import check_operator
from kdrift.training.denoised import noise_left, validate
from kdrift.training.loop import Hooks, fit, new_state
from kdrift.training.preview import draw_denoised, draw_samples
from kdrift.training.train_config import TrainConfig
from training_helpers import tiny_config, write_images

CPU = torch.device("cpu")
COILS, ROWS, COLS = 2, 5, 4


def _complex(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128) * 2**0.5


def _maps(coils: int, rows: int, cols: int) -> Tensor:
    smaps = _complex(coils, rows, cols)
    return smaps / smaps.abs().square().sum(0).sqrt()


def _time(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("end", [0.4, 1.0])
def test_kernel_matches_the_simulated_forward_process(end: float) -> None:
    torch.manual_seed(0)
    sde = AttenuatedSDE(0.1, 2.0, 0.5, 6.0, _maps(COILS, ROWS, COLS))
    chains, steps = 1000, 200
    z0 = _complex(COILS, ROWS, COLS)
    z = sde.perturb(z0, _time(0.0), _complex(chains, COILS, ROWS, COLS))
    assert z.std() > 0
    for i in range(steps):
        t = _time((i + 0.5) * end / steps)
        wiener = sde.project(_complex(*z.shape)) * (end / steps) ** 0.5
        z = z + sde.drift(z0, t) * (end / steps) + sde.diffusion(t) * wiener
    mean, std = sde.marginal(z0, _time(end))
    size = z0.numel()
    covariance = std**2 * sde.project(torch.eye(size, dtype=torch.complex128).reshape(size, *z0.shape))
    covariance = covariance.reshape(size, size).T
    variance = covariance.diagonal().real
    off = torch.view_as_real((z.mean(0) - mean).flatten()) / (variance / chains).sqrt()[:, None]
    assert float(off.abs().max()) < 5
    centred = (z - mean).reshape(chains, -1)
    both = variance[:, None] * variance + covariance.abs() ** 2
    error = (centred.T @ centred.conj() / (2 * chains) - covariance).real / (both / (2 * chains)).sqrt()
    assert float(error.abs().max()) < 5


def test_without_attenuation_and_maps_it_is_ve() -> None:
    ve, sde = VESDE(0.01, 3.0), AttenuatedSDE(0.01, 3.0, 0.0, 0.0)
    x0, noise = _complex(3, COILS, ROWS, COLS), _complex(3, COILS, ROWS, COLS)
    for t in (_time(0.0), _time(0.3), torch.rand(3, 1, 1, 1, dtype=torch.float64)):
        assert torch.equal(sde.perturb(x0, t, noise), ve.perturb(x0, t, noise))
        assert torch.equal(sde.diffusion(t), ve.diffusion(t))
        assert torch.equal(sde.drift(x0, t), ve.drift(x0, t))
        assert torch.equal(sde.time(ve.sigma(t)), ve.time(ve.sigma(t)))
    assert torch.allclose(sde.prior_sample(noise), ve.prior_sample(noise))


def test_schedule_is_the_published_one() -> None:
    sde = AttenuatedSDE()
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(sde.b(ends), torch.tensor([0.5, 24.0], dtype=torch.float64))
    torch.testing.assert_close(sde.sigma(ends), torch.tensor([0.01, 1.0], dtype=torch.float64))
    window = sde.attenuation(_time(0.0), 8, 6)
    assert float(window[4, 3]) == 1
    assert float(window[0, 3]) == pytest.approx(np.exp(-0.125))
    late = sde.attenuation(_time(1.0), 8, 8)
    assert bool((late <= sde.attenuation(_time(0.5), 8, 8)).all())  # high frequencies fade as t grows
    slope = (sde.attenuation(_time(0.500001), 8, 8) - sde.attenuation(_time(0.499999), 8, 8)) / 2e-6
    torch.testing.assert_close(
        sde.drift(torch.ones(8, 8, dtype=torch.float64), _time(0.5)), slope, atol=1e-6, rtol=1e-6
    )
    with pytest.raises(ValueError, match="b_min"):
        AttenuatedSDE(b_min=2.0, b_max=1.0)
    with pytest.raises(ValueError, match="one set"):
        AttenuatedSDE(smaps=torch.ones(1, 2, 3, 4))


def _dense_hankel(filters: Tensor, shape: tuple[int, ...]) -> Tensor:
    """H(.) N as a matrix, from its definition: sums over the samples under a kernel that goes round the edge."""
    coils, rows, cols = shape
    count, _, height, width = filters.shape
    matrix = torch.zeros(count, rows, cols, coils, rows, cols, dtype=filters.dtype)
    for row in range(rows):
        for col in range(cols):
            for y in range(height):
                for x in range(width):
                    matrix[:, row, col, :, (row + y) % rows, (col + x) % cols] += filters[:, :, y, x]
    return matrix.reshape(count * rows * cols, -1) / (height * width) ** 0.5


@pytest.mark.parametrize("shape", [(2, 8, 6), (3, 7, 9)])
def test_low_rank_operator_is_the_hankel_matrix(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    flat = torch.linalg.qr(_complex(shape[0] * 6, 4))[0]
    filters = flat.T.reshape(4, shape[0], 3, 2)
    operator = LowRankOperator(filters, shape)
    check_operator(operator)
    dense, z = _dense_hankel(filters, shape), _complex(*shape)
    # which sample of the kernel is its place only shifts the result, not its norm
    assert float(operator.forward(z).norm()) == pytest.approx(float((dense @ z.flatten()).norm()))
    torch.testing.assert_close(operator.normal(z).flatten(), dense.mH @ (dense @ z.flatten()))
    assert float(torch.linalg.eigvalsh(dense.mH @ dense)[-1]) <= 1 + 1e-12
    with pytest.raises(ValueError, match="too wide"):
        LowRankOperator(_complex(1, 2, 5, 2), (2, 8, 6))


def _multi_coil(coils: int = 3, size: int = 24) -> tuple[Tensor, Tensor]:
    """Fully sampled k-space of a compact object seen by smooth coils, and the maps."""
    rng = np.random.default_rng(3)
    smaps = torch.from_numpy(random_coil_maps(coils, size, size, rng)).to(torch.complex128)
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    image = ((x**2 + y**2) < 0.4) * (1 + 0.3 * torch.sin(9 * x)) + 0j
    return fft2c(smaps * image), smaps


def test_filters_annihilate_what_they_were_found_in() -> None:
    kspace, smaps = _multi_coil()
    box = (slice(6, 18), slice(6, 18))
    filters = annihilation_filters(kspace, box, kernel_size=4, threshold=0.03)
    assert filters.shape[1:] == (3, 4, 4)
    flat = filters.flatten(1)
    torch.testing.assert_close(flat.conj() @ flat.T, torch.eye(len(flat), dtype=torch.complex128))
    operator = LowRankOperator(filters, tuple(kspace.shape))
    left = float((operator.forward(kspace).abs() ** 2).sum() / (kspace.abs() ** 2).sum())
    other = torch.roll(smaps, 1, 0) * ifft2c(kspace)
    assert left < 2e-3 < 50 * left < float((operator.forward(other).abs() ** 2).sum() / (other.abs() ** 2).sum())
    # gradient steps on |H(z) N|^2 leave such k-space, and take from noise what no coil image has
    attracted = operator.attract(kspace, 8)
    assert float((attracted - kspace).norm() / kspace.norm()) < 0.1
    noise = _complex(*kspace.shape)
    assert float(operator.attract(noise, 8).norm()) < 0.8 * float(noise.norm())
    rows = torch.linspace(-1, 1, 24, dtype=torch.float64)[:, None]
    similar = fft2c(ifft2c(kspace) * (1 + 0.5j * torch.cos(4 * rows)))  # another object there, through the same coils
    assert float((operator.attract(similar, 8) - similar).norm() / similar.norm()) < 0.15
    with pytest.raises(ValueError, match="slr_weight"):
        annihilation_filters(kspace, (slice(0, 0), slice(0, 0)))


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_correction_is_the_dense_least_squares_solution(weight: float) -> None:
    torch.manual_seed(2)
    kspace, smaps = _multi_coil(2, 10)
    mask = torch.rand(10, 10) < 0.5
    mask[2:8, 2:8] = True
    data = Measurement(torch.where(mask, kspace, 0), mask, smaps, 0.0)
    options = AKDiffusionOptions(slr_weight=weight, lam=0.03, cg_iterations=400, kernel_size=2)
    operator = low_rank_operator(data.kspace, mask, kernel_size=2, threshold=0.05) if weight else None
    start = _complex(3, 2, 10, 10)
    found = correct(start, data, operator, replace(options))
    normal = torch.diag(mask.expand(2, 10, 10).flatten().to(torch.complex128))
    if operator is not None:
        dense = _dense_hankel(operator.filters, (2, 10, 10))
        normal = normal + 2 * weight * dense.mH @ dense
    system = normal + 0.06 * torch.eye(200, dtype=torch.complex128)
    right = data.kspace.flatten() + 0.06 * start.flatten(1)
    expected = torch.linalg.solve(system, right.T).T.reshape(found.shape)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)  # the solve stops at 1e-4 of the right side


def test_random_maps_are_normalised_and_vary() -> None:
    maps = [random_coil_maps(4, 24, 20, np.random.default_rng(seed)) for seed in range(6)]
    for one in maps:
        assert one.shape == (4, 24, 20)
        np.testing.assert_allclose((np.abs(one) ** 2).sum(0), 1, rtol=1e-5)
        assert np.abs(np.diff(one, axis=1)).max() < 0.7
    assert all(np.abs(maps[0] - other).max() > 0.2 for other in maps[1:])


def window_of_birdcage(num_coils: int, rows: int, cols: int, rng: np.random.Generator) -> np.ndarray:
    """What `random_coil_maps` is, put together of whole maps in double precision."""
    wide = rng.uniform(*FIELD_OF_VIEW)
    full = round(max(rows, cols) * wide)
    maps = birdcage_maps(num_coils, full, full, z=rng.uniform(-HEIGHT, HEIGHT)).astype(np.complex128)
    top, left = int(rng.integers(full - rows + 1)), int(rng.integers(full - cols + 1))
    maps = np.rot90(maps, int(rng.integers(4)), axes=(1, 2))[:, top : top + rows, left : left + cols]
    maps = maps * np.exp(1j * rng.uniform(-np.pi, np.pi, (num_coils, 1, 1)))
    if rng.integers(2):
        gaussian = rng.standard_normal((2, num_coils, num_coils))
        maps = np.einsum("vc,cyx->vyx", np.linalg.qr(gaussian[0] + 1j * gaussian[1])[0], maps)
    return maps


@pytest.mark.parametrize("shape", [(1, 24, 24), (4, 20, 31), (15, 33, 16), (27, 16, 16)])
def test_random_maps_are_windows_of_the_birdcage(shape: tuple[int, int, int]) -> None:
    """Whatever the turn, the window, the mix and the number of rings; alone, and with others in a batch."""
    expected = [window_of_birdcage(*shape, np.random.default_rng(seed)) for seed in range(16)]
    drawn = [draw_coils(*shape, np.random.default_rng(seed)) for seed in range(16)]
    place, mix = (torch.stack(each) for each in zip(*drawn, strict=True))
    with torch.autocast("cpu", torch.bfloat16):  # as in a training step
        together = maps_of(place, mix, *shape[1:])
    assert together.dtype == torch.complex64
    for number, one in enumerate(expected):
        found = random_coil_maps(*shape, np.random.default_rng(number))
        np.testing.assert_allclose(found, one, atol=3e-6)
        torch.testing.assert_close(together[number], torch.from_numpy(found), rtol=0, atol=1e-6)


def ak_config(images: Path, **changes: Any) -> TrainConfig:
    base = to_dict(tiny_config(images))
    base["data"] |= {"images": "complex", "augment_phase": "smooth"}
    base["network"]["preconditioning"] = "residual"
    base["network"]["ncsnpp"]["channels"] = 2
    base["noise"] |= {"kind": "attenuated", "sigma_max": 1.0}
    base["noise"]["attenuated"] |= {"num_coils": 2, **changes}
    return parse(TrainConfig, base)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


@pytest.mark.parametrize("coil_noise", [True, False])
def test_drawn_batches_do_not_depend_on_the_split(images: Path, coil_noise: bool) -> None:
    config = ak_config(images, coil_noise=coil_noise, sigma_last=[0.25, 1.0])

    def draw(indices: range) -> tuple[Tensor, ...]:
        return config.noise.process.draw(config.noise, "residual", config.seed, indices, (2, 16, 16))

    whole, parts = draw(range(8)), [draw(range(3)), draw(range(3, 8))]
    for together, *pieces in zip(whole, *parts, strict=True):
        assert torch.equal(together, torch.cat(pieces))
    sigma, noise, b, place, mix = whole
    smaps = maps_of(place, mix, 16, 16)
    assert noise.shape[1] == (1 if coil_noise else 2)
    gain = smaps.abs().square().sum(1).sqrt()
    assert float((gain - gain[:, :1, :1]).abs().max()) < 1e-5
    assert 0.4 - 1e-6 < float(gain.min()) <= float(gain.max()) < 1 + 1e-6
    # antithetic: b of an image and of its partner mirror each other, whatever sigma_N each has
    torch.testing.assert_close(b[::2] * b[1::2], torch.full((4,), 12.0))
    assert float(sigma.min()) >= 0.01 - 1e-6
    assert float(sigma.max()) <= 1
    with pytest.raises(ValueError, match="sigma_last"):
        ak_config(images, sigma_last=[2.0])


def drawn_from(config: AttenuationConfig) -> tuple[Tensor, ...]:
    noise = NoiseConfig("attenuated", attenuated=config, sigma_min=0.01, sigma_max=1.0)
    return noise.process.draw(noise, "residual", 0, range(32), (2, 16, 16))


def loss_of(network: Network, config: AttenuationConfig, *drawn: Tensor) -> Tensor:
    noise = NoiseConfig("attenuated", attenuated=config, sigma_min=0.01, sigma_max=1.0)
    return noise.process.loss(noise, network, NetworkConfig(), *drawn)


def test_loss_of_the_exact_model_is_the_noise_it_leaves() -> None:
    """For one image that is known the loss is 0; for h = z_t / G it is all of the noise, in units of that under G."""
    config = AttenuationConfig(num_coils=3, b_max=1.5, gain=(0.5, 0.9))
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(32, 2, 16, 16, generator=generator)
    sigma, noise, b, place, mix = drawn_from(config)
    smaps = maps_of(place, mix, 16, 16)
    clean = smaps * torch.complex(image[:, 0], image[:, 1])[:, None]

    def known(x: Tensor, level: Tensor) -> Tensor:
        return torch.view_as_real(clean.flatten(0, 1)).movedim(-1, 1)

    def inverse(x: Tensor, level: Tensor) -> Tensor:
        window = gaussian_window(16, 16, b.repeat_interleave(3)[:, None, None])
        restored = ifft2c(fft2c(torch.complex(x[:, 0], x[:, 1])) / window)
        return torch.view_as_real(restored).movedim(-1, 1)

    drawn = (image, sigma, noise, b, place, mix)
    assert float(loss_of(known, config, *drawn)) < 1e-9
    windows = gaussian_window(16, 16, b[:, None, None])
    expected = float((1 / (windows**2).mean((1, 2))).mean())
    found = float(loss_of(inverse, config, *drawn))
    assert found == pytest.approx(expected, rel=8 * (2 / image.numel()) ** 0.5)
    alike = replace(config, loss_under_attenuation=False)  # all of k-space: noise over G, in units of the noise
    assert float(loss_of(known, alike, *drawn)) < 1e-9
    found = float(loss_of(inverse, alike, *drawn))
    assert found == pytest.approx(float((windows**-2.0).mean()), rel=8 * (2 / image.numel()) ** 0.5)
    plain = replace(config, coil_noise=False)
    drawn = (image, *drawn_from(plain))
    found = float(loss_of(inverse, plain, *drawn))
    assert found == pytest.approx(expected, rel=8 * (2 / image.numel() / 3) ** 0.5)


@pytest.mark.parametrize("sigma", [0.05, 0.5])
def test_validation_of_the_inverse_is_all_of_the_noise(sigma: float) -> None:
    """h = z_t / G leaves sigma n / G: under G all of the noise, over that under G; over all of k-space the mean of
    1 / G^2, whatever the level."""
    config = NoiseConfig("attenuated", attenuated=AttenuationConfig(b_max=1.5), sigma_min=0.01, sigma_max=1.0)
    image, noise = (torch.randn(16, 2, 16, 16, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    time = math.log(sigma / 0.01) / math.log(100)
    window = gaussian_window(16, 16, torch.tensor(0.5 * 3**time))

    def inverse(x: Tensor, level: Tensor) -> Tensor:
        restored = ifft2c(fft2c(torch.complex(x[:, 0], x[:, 1])) / window)
        return torch.view_as_real(restored).movedim(-1, 1)

    spectrum = fft2c(torch.complex(noise[:, 0], noise[:, 1]))
    under = float((noise**2).mean() / (torch.view_as_real(ifft2c(window * spectrum)) ** 2).mean())
    assert noise_left(inverse, "image", image, sigma, noise, config) == pytest.approx(under, rel=1e-3)
    alike = replace(config, attenuated=replace(config.attenuated, loss_under_attenuation=False))
    everywhere = float(
        (torch.view_as_real(ifft2c(fft2c(torch.complex(noise[:, 0], noise[:, 1])) / window)) ** 2).mean()
    )
    assert noise_left(inverse, "image", image, sigma, noise, alike) == pytest.approx(everywhere, rel=1e-3)


def test_training_lowers_the_loss_and_makes_a_prior(images: Path, tmp_path: Path) -> None:
    config = replace(ak_config(images), total_images=320)
    held_out = TrainingImages(config.data, "validation", config.seed).validation_batch(4)
    state = new_state(config, CPU)
    before = validate(config, state.ema, held_out, CPU)
    fit(config, state, TrainingImages(config.data, "train", config.seed), Hooks(), validation=held_out, device=CPU)
    after = validate(config, state.ema, held_out, CPU)
    # at sigma 1 a few samples of k-space are left, far above the noise: nothing is to be learned there
    assert after["validation/noise_left_sigma_0.1"] < before["validation/noise_left_sigma_0.1"]
    assert draw_samples(config, state.ema, 16, CPU, held_out).shape == (2, 2, 16, 16)
    assert draw_denoised(config, state.ema, held_out, CPU).shape == (9, 2, 16, 16)
    prior = load_prior(save_prior(tmp_path / "p", state.ema, config.network, PriorInfo(config.noise.process)))
    sde = prior.sde(16, 16)
    assert isinstance(sde, AttenuatedSDE)
    assert (sde.sigma_max, sde.b_max) == (1.0, 24.0)
    x = torch.randn(2, 3, 16, 16, dtype=torch.complex64)  # (sample, coil): each coil is an image of two channels
    channels = torch.view_as_real(x.flatten(0, 1)).movedim(-1, 1)
    expected = prior.network(channels, torch.full((6,), 0.3)).movedim(1, -1).contiguous()
    found = denoise(prior.score(fast=False), x, 0.3)
    torch.testing.assert_close(found, torch.view_as_complex(expected).reshape(x.shape), rtol=1e-4, atol=1e-4)


def test_configurations_that_do_not_fit_are_refused(images: Path) -> None:
    config = ak_config(images)
    with pytest.raises(ValueError, match=r"takes network\.preconditioning residual or edm, got 'none'"):
        replace(config, network=replace(config.network, preconditioning="none"))
    white = tiny_config(images)
    with pytest.raises(ValueError, match=r"takes network\.preconditioning none or edm, got 'residual'"):
        replace(white, network=replace(white.network, preconditioning="residual"))
    with pytest.raises(ValueError, match=r"needs data\.images: complex"):
        replace(tiny_config(images), noise=config.noise)
    with pytest.raises(ValueError, match="residual preconditioning needs"):
        build_network(replace(config.network, ncsnpp=replace(config.network.ncsnpp, centered=False)))
