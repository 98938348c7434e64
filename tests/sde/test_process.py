"""Noise processes: the SDE each gives, what it leaves, what it draws."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from kdrift.mri.fourier import fft2c
from kdrift.sde import (
    PROCESSES,
    VESDE,
    AttenuatedNoise,
    AttenuatedSDE,
    AttenuationConfig,
    HighFrequencyNoise,
    HighFrequencySDE,
    LowFrequencies,
    Noise,
    NoiseConfig,
    NoiseProcess,
    WhiteNoise,
)
from kdrift.sde.process import as_channels, as_complex, project_channels

LOW = LowFrequencies("columns", 0.25)
ALL: list[NoiseProcess] = [
    WhiteNoise(0.01, 5.0),
    HighFrequencyNoise(0.01, 5.0, LOW),
    AttenuatedNoise(0.01, 1.0, 0.5, 24.0),
]


def test_every_kind_has_its_process() -> None:
    assert set(PROCESSES) == set(get_args(Noise)) == {process.kind for process in ALL}
    config = NoiseConfig(low=LOW, attenuated=AttenuationConfig(b_max=12.0), sigma_max=2.0)
    for kind in PROCESSES:
        made = NoiseConfig(kind, config.low, config.attenuated, sigma_max=2.0).process
        assert (made.kind, made.sigma_min, made.sigma_max) == (kind, 0.01, 2.0)
    assert NoiseConfig("high_frequency", low=LOW).process == HighFrequencyNoise(0.01, 378.0, LOW)
    assert NoiseConfig("attenuated", attenuated=config.attenuated).process == AttenuatedNoise(0.01, 378.0, 0.5, 12.0)


def test_each_gives_the_sde_that_samplers_take_back() -> None:
    white, high, attenuated = (process.sde(8, 16) for process in ALL)
    assert white == VESDE(0.01, 5.0)
    assert isinstance(high, HighFrequencySDE)
    assert (high.base, high.low.sum(-1).tolist()) == (VESDE(0.01, 5.0), [4] * 8)
    assert isinstance(attenuated, AttenuatedSDE)
    assert (attenuated.sigma_max, attenuated.b_min, attenuated.b_max) == (1.0, 0.5, 24.0)


def test_projection_and_what_is_kept_share_an_image_between_them() -> None:
    images = torch.randn(3, 2, 8, 16, generator=torch.Generator().manual_seed(0))
    white, high, attenuated = ALL
    assert white.projection() is None
    assert float(white.kept(images, 5.0).abs().max()) == 0
    part = project_channels(high.projection(), images)
    torch.testing.assert_close(part + high.kept(images, 5.0), images)
    spectrum = fft2c(as_complex(part))
    assert float(spectrum[:, LOW.mask(8, 16)].abs().max()) < 1e-5 < float(spectrum.abs().max())
    for process in (white, high):
        assert torch.equal(process.blur(images, 0.3), images)
    sde = attenuated.sde(8, 16)
    assert isinstance(sde, AttenuatedSDE)
    for level in (0.01, 0.2, 1.0):  # the blur of previews is the attenuation that samplers undo
        window = sde.attenuation(sde.time(torch.tensor(level)), 8, 16)
        found = fft2c(as_complex(attenuated.blur(images, level)))
        torch.testing.assert_close(found, window * fft2c(as_complex(images)), rtol=1e-4, atol=1e-5)
    assert torch.equal(attenuated.blur(images, 0.0), images)
    torch.testing.assert_close(as_channels(as_complex(images)), images)


@pytest.mark.parametrize("process", ALL, ids=lambda process: process.kind)
def test_misfit_of_the_noise_itself_is_its_power(process: NoiseProcess) -> None:
    """An error that is the noise leaves all of it: the fraction is 1 on the part that the noise is in."""
    noise = torch.randn(64, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    error, power = process.misfit(NoiseConfig(), 0.3 * noise, noise, 0.3)
    share = 1 - float(LOW.mask(16, 16).float().mean()) if process.kind == "high_frequency" else 1.0
    assert float((error**2).mean()) / power == pytest.approx(share, rel=5 * (2 / noise.numel()) ** 0.5)


def test_levels_that_are_none_are_refused() -> None:
    for make in (WhiteNoise, lambda low, high: HighFrequencyNoise(low, high, LOW)):
        with pytest.raises(ValueError, match="0 < sigma_min < sigma_max, got 2"):
            make(2.0, 1.0)
    with pytest.raises(ValueError, match="b_min"):
        AttenuatedNoise(0.01, 1.0, 5.0, 1.0)
