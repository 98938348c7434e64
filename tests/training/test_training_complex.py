"""Training of complex and high-frequency priors: their images, their losses, what they start from, what they show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from kdrift.data.data_config import DataConfig
from kdrift.data.dataset import TrainingImages
from kdrift.mri.fourier import fft2c
from kdrift.prior.bundle import load_prior, save_prior
from kdrift.prior.prior_info import PriorInfo
from kdrift.runs.config import load_config, parse
from kdrift.sde import LowFrequencies, Noise, NoiseConfig, WhiteNoise
from kdrift.sde.white_noise import edm_loss, score_matching_loss
from kdrift.training.denoised import denoise, noise_left, validate
from kdrift.training.loop import Hooks, fit, new_state
from kdrift.training.preview import draw_denoised, draw_samples, save_sheet
from kdrift.training.train_config import TrainConfig
from training_helpers import tiny_config, write_images

CPU = torch.device("cpu")
HIGH = NoiseConfig(kind="high_frequency", low=LowFrequencies("square", 0.25))
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "train"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


def complex_config(images: Path, **changes: Any) -> TrainConfig:
    """Return the tiny configuration with two channels and with other values."""
    config = tiny_config(images)
    network = replace(config.network, ncsnpp=replace(config.network.ncsnpp, channels=2))
    data = replace(config.data, images="complex", augment_phase="smooth")
    return replace(config, network=network, data=data, **changes)


def spectrum(images: Tensor) -> Tensor:
    """k-space of two-channel images."""
    return fft2c(torch.view_as_complex(images.movedim(1, -1).contiguous()))


def test_least_losses_of_high_frequency_noise() -> None:
    """For x ~ N(0, s^2) the exact model of F_h z reaches what that of white noise does, on the part that diffuses."""
    data_std, count, size = 0.5, 128, 16
    generator = torch.Generator().manual_seed(0)
    image = data_std * torch.randn(count, 2, size, size, generator=generator)
    noise = torch.randn(image.shape, generator=generator)
    part = HIGH.process.projection()
    share = 1 - float(HIGH.low.mask(size, size).float().mean())
    assert share == pytest.approx(1 - 16 / 256)
    for level in (0.05, 0.5, 5.0):
        sigma = torch.full((count,), level)

        def score(x: Tensor, sigma: Tensor) -> Tensor:
            return -x / (data_std**2 + sigma[:, None, None, None] ** 2)

        def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
            return denoise(score, "score", x, sigma)

        error = 5 * (2 / image.numel()) ** 0.5
        expected = share * data_std**2 / (data_std**2 + level**2)
        assert float(edm_loss(denoiser, image, sigma, noise, data_std, part)) == pytest.approx(share, rel=error)
        assert float(score_matching_loss(score, image, sigma, noise, part)) == pytest.approx(expected, rel=error)
        assert noise_left(denoiser, "image", image, level, noise, HIGH) == pytest.approx(expected, rel=error)
        # what a network returns at the centre of k-space plays no part
        spoilt = edm_loss(lambda x, s: denoiser(x, s) + 1, image, sigma, noise, data_std, part)
        assert float(spoilt) == pytest.approx(share, rel=error)


@pytest.mark.parametrize("kind", ["white", "high_frequency"])
@pytest.mark.parametrize("sde", ["vp", "sub_vp"])
def test_losses_of_vp_type_networks(images: Path, kind: Noise, sde: Literal["vp", "sub_vp"]) -> None:
    """A network conditioned on std sees alpha x; the exact one reaches the least loss, and is the score of a prior."""
    noise = replace(HIGH, kind=kind, sde=sde, t_min=1e-3)
    tiny = complex_config(images)
    ncsnpp = replace(tiny.network.ncsnpp, centered=False)
    network = replace(tiny.network, preconditioning="none", conditioning="std", ncsnpp=ncsnpp)
    config = replace(tiny, network=network, noise=noise)
    data_std, count, size = 0.5, 128, 16
    low, high = noise.sigma_range
    assert low == pytest.approx(float(noise.levels.sigma(torch.tensor(1e-3))), rel=1e-3)
    assert high == pytest.approx(152, rel=0.01)
    sigma, _ = noise.process.draw(noise, "none", 0, range(count), (1,))
    times = noise.levels.time(sigma.double())
    assert 1e-3 * 0.99 < float(times.min()) < float(times.max()) < 1.01
    assert abs(float(times.mean()) - 0.5) < 5 * (1 / 12 / count) ** 0.5
    generator = torch.Generator().manual_seed(0)
    image = data_std * torch.randn(count, 2, size, size, generator=generator)
    unit = torch.randn(image.shape, generator=generator)
    share = 1 - float(noise.low.mask(size, size).float().mean()) if kind == "high_frequency" else 1.0

    def exact(x: Tensor, std: Tensor) -> Tensor:
        level = std[:, None, None, None]
        return -x / ((1 - level**2) * data_std**2 + level**2)

    for level in (0.05, 0.5, 5.0):
        expected = share * data_std**2 / (data_std**2 + level**2)
        found = noise.process.loss(noise, exact, network, image, torch.full((count,), level), unit)
        assert float(found) == pytest.approx(expected, rel=5 * (2 / image.numel()) ** 0.5)
    state = new_state(replace(config, total_images=16), CPU)
    held = TrainingImages(config.data, "validation", config.seed).validation_batch(4)
    fit(replace(config, total_images=16), state, TrainingImages(config.data), Hooks(), validation=held, device=CPU)
    assert draw_samples(config, state.ema, 16, CPU, held).isfinite().all()
    with pytest.raises(ValueError, match=r"needs network\.preconditioning none, got edm"):
        replace(tiny, noise=noise)
    with pytest.raises(ValueError, match="t_min > 0"):
        replace(noise, t_min=0.0)


def test_complex_images_have_the_magnitude_of_the_real_ones(images: Path) -> None:
    config = DataConfig(stores=[str(images)], validation=["v2"], crop=16, scale_jitter=(0.7, 1.3))
    magnitude = TrainingImages(config, seed=1).batch(range(6))
    data = TrainingImages(replace(config, images="complex", augment_phase="smooth"), seed=1)
    batch = data.batch(range(6))
    assert batch.shape == (6, 2, 16, 16)
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch.square().sum(1).sqrt(), magnitude[:, 0])
    assert float(batch.min()) < -0.3 < 0.3 < float(batch.max())
    again = TrainingImages(replace(config, images="complex", augment_phase="smooth"), seed=1)
    assert torch.equal(again.batch([4, 1]), batch[[4, 1]])
    held = TrainingImages(data.config, "validation", seed=1).validation_batch(3)
    assert held.shape == (3, 2, 16, 16)
    plain = TrainingImages(config, "validation").validation_batch(3)
    torch.testing.assert_close(held.square().sum(1).sqrt(), plain[:, 0])
    assert torch.equal(held, TrainingImages(data.config, "validation", seed=9).validation_batch(3))


def test_training_starts_from_what_fits(images: Path, tmp_path: Path) -> None:
    config = tiny_config(images)
    magnitude = new_state(replace(config, seed=9), CPU).network
    with torch.no_grad():
        for parameter in magnitude.parameters():
            parameter.add_(0.1)
    prior = save_prior(tmp_path / "magnitude", magnitude, config.network, PriorInfo(WhiteNoise(0.01, 5.0)))
    fresh = new_state(complex_config(images), CPU).network.state_dict()
    begun = new_state(complex_config(images, init_from=str(prior)), CPU)
    given = load_prior(prior).network.state_dict()
    fitting = [name for name in fresh if fresh[name].shape == given[name].shape]
    others = sorted(set(fresh) - set(fitting))
    assert 0 < len(others) < 8 < len(fitting)  # the convolutions that see the image's channels
    for name, value in begun.network.state_dict().items():
        assert torch.equal(value, given[name] if name in fitting else fresh[name]), name
    for average, value in zip(begun.ema.parameters(), begun.network.parameters(), strict=True):
        assert torch.equal(average, value)
    wider = replace(config.network.ncsnpp, nf=24, channels=2)
    config = complex_config(images, init_from=str(prior))
    other = replace(config.network, preconditioning="none", ncsnpp=replace(wider, centered=False))
    with pytest.raises(ValueError, match="no weight of that prior fits"):
        new_state(replace(config, network=other), CPU)


@pytest.mark.parametrize("kind", ["white", "high_frequency"])
def test_two_channels_train_validate_and_preview(images: Path, tmp_path: Path, kind: Noise) -> None:
    config = complex_config(images, noise=replace(HIGH, kind=kind, sigma_max=20.0), total_images=32)
    state = new_state(config, CPU)
    held = TrainingImages(config.data, "validation", config.seed).validation_batch(4)
    seen: dict[str, float] = {}
    shown: list[int] = []
    hooks = Hooks(metrics=lambda _, values: seen.update(values), preview=lambda state: shown.append(state.images))
    data = TrainingImages(config.data, "train", config.seed)
    fit(config, state, data, hooks, validation=held, device=CPU)
    assert shown == [32]
    assert (
        seen["validation/noise_left_sigma_1"] == validate(config, state.ema, held, CPU)["validation/noise_left_sigma_1"]
    )
    samples = draw_samples(config, state.ema, 16, CPU, held[:1])
    assert samples.shape == (2, 2, 16, 16)
    if kind == "high_frequency":  # the centre of k-space is that of the image, whatever was drawn
        low = config.noise.low.mask(16, 16)
        torch.testing.assert_close(
            spectrum(samples)[:, low], spectrum(held[:1])[:, low].expand(2, -1), atol=1e-4, rtol=1e-4
        )
    sheet = draw_denoised(config, state.ema, held, CPU)
    assert sheet.shape == (9, 2, 16, 16)
    save_sheet(tmp_path / "sheet.png", sheet, 3)
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_channels_must_fit_the_images(images: Path) -> None:
    with pytest.raises(ValueError, match="complex have 2 channels, the network has 1"):
        tiny_config(images, data={"stores": [str(images)], "images": "complex", "augment_phase": "smooth"})
    with pytest.raises(ValueError, match=r"high_frequency needs data\.images: complex"):
        tiny_config(images, noise={"kind": "high_frequency"})
    with pytest.raises(ValueError, match="augment_phase 'smooth'"):
        parse(DataConfig, {"images": "complex", "augment_phase": "sign"})


@pytest.mark.parametrize(("name", "kind"), [("brain_complex", "white"), ("brain_hfs", "high_frequency")])
def test_shipped_configurations_fit_the_prior_they_start_from(name: str, kind: str) -> None:
    config = load_config(TrainConfig, CONFIGS / f"{name}.yaml")
    small = load_config(TrainConfig, CONFIGS / "brain_small.yaml")
    assert config.noise.kind == kind
    assert config.init_from == "brain-magnitude"
    assert replace(config.network, ncsnpp=replace(config.network.ncsnpp, channels=1)) == small.network
    network = new_state(config, CPU).network
    given = load_prior(config.init_from).network.state_dict()
    fitting = [name for name, value in network.state_dict().items() if given[name].shape == value.shape]
    assert np.mean([name in fitting for name in given]) > 0.9
