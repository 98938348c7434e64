"""DDPM and NCSNv2-deepest: sizes, parameter names and order, what they are conditioned on, seen as one VE score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.networks import Conditioning, DDPMConfig, NCSNppConfig, NCSNv2Config, NetworkConfig, build_network
from kdrift.networks.infer import infer_architecture, infer_settings
from kdrift.prior.bundle import Prior, load_prior, save_prior
from kdrift.prior.network_score import NetworkScore
from kdrift.prior.prior_info import ImageScale, PriorInfo
from kdrift.runs.config import parse
from kdrift.sde import VPSDE, HighFrequencyNoise, HighFrequencySDE, LowFrequencies, WhiteNoise
from kdrift.sde.score import denoise
from kdrift.training.train_config import TrainConfig

TAU = 0.6
DDPM_SMALL = DDPMConfig(image_size=32, nf=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(16,))
NCSNV2_SMALL = NCSNv2Config(ngf=4, num_levels=12, sigma_max=20.0, sigma_min=0.01)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (NetworkConfig(), 61_433_601),
        (NetworkConfig(architecture="ddpm", conditioning="std"), 34_425_602),
        (NetworkConfig(architecture="ncsnv2", conditioning="level"), 94_130_306),
    ],
    ids=["score-mri", "hfs-sde", "ncsnv2"],
)
def test_full_networks_have_the_published_size(config: NetworkConfig, count: int) -> None:
    with torch.device("meta"):
        network = build_network(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert infer_architecture(shapes) == config.architecture
    settings = infer_settings(config.architecture, shapes)
    with torch.device("meta"):
        again = build_network(NetworkConfig(
            **{config.architecture: type(config.config)(**settings)},
            architecture=config.architecture, conditioning=config.conditioning,
        ))  # fmt: skip
    assert {key: tuple(value.shape) for key, value in again.state_dict().items()} == shapes


@pytest.mark.parametrize("name", ["hfs_small", "ncsnv2_small"])
@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_published_weights_give_published_output(shared_reference: Path, name: str, weights: str) -> None:
    content = torch.load(shared_reference / f"{name}.pth", weights_only=True)
    arrays = np.load(shared_reference / f"{name}_io.npz")
    if name == "hfs_small":
        ddpm = DDPMConfig(image_size=32, nf=32, ch_mult=(1, 2, 2), num_res_blocks=1)
        network = build_network(NetworkConfig(architecture="ddpm", ddpm=ddpm, conditioning="std")).eval()
        state = {key.removeprefix("module."): value for key, value in content["model"].items() if "sigmas" not in key}
        names, shadow = [key for key, _ in network.named_parameters()], content["ema"]["shadow_params"]
        average, second = dict(zip(names, shadow, strict=True)), torch.from_numpy(arrays["t"])
    else:
        ncsnv2 = NCSNv2Config(ngf=8, num_levels=40)
        network = build_network(NetworkConfig(architecture="ncsnv2", ncsnv2=ncsnv2, conditioning="level")).eval()
        state = {key.removeprefix("module."): value for key, value in content[0].items()}
        average, second = content[4], torch.from_numpy(arrays["level"])
        torch.testing.assert_close(network.get_buffer("sigmas"), state["sigmas"], rtol=1e-5, atol=0)
    assert list(network.state_dict()) == list(state)  # names, and the order that lists of parameters rely on
    network.load_state_dict(state if weights == "raw" else state | average)
    with torch.no_grad():
        output = network(torch.from_numpy(arrays["x"]), second)
    expected = torch.from_numpy(arrays[weights])
    assert torch.linalg.vector_norm(output - expected) < 1e-5 * torch.linalg.vector_norm(expected)


@pytest.mark.parametrize("attn", [(), (16,), (32, 8)])
@pytest.mark.parametrize("architecture", ["ddpm", "ncsnpp"])
@pytest.mark.parametrize(("ch_mult", "blocks"), [((1,), 2), ((1, 1), 1), ((1, 2, 4), 2)])
def test_settings_are_inferred_from_shapes(
    architecture: str, attn: tuple[int, ...], ch_mult: tuple[int, ...], blocks: int
) -> None:
    sizes = tuple(size for size in attn if size >= 32 // 2 ** (len(ch_mult) - 1))
    common = {"image_size": 32, "channels": 2, "nf": 32, "ch_mult": ch_mult, "num_res_blocks": blocks}
    if architecture == "ddpm":
        variants: list[NetworkConfig] = [
            NetworkConfig(architecture="ddpm", ddpm=DDPMConfig(**common, attn_resolutions=sizes))
        ]
    else:
        variants = [
            NetworkConfig(NCSNppConfig(**common, attn_resolutions=sizes, **extra))
            for extra in ({"middle_attention": False}, {"fir": False}, {"progressive_input": "none"})
            if len(ch_mult) > 1 or "middle_attention" in extra
        ]
    for config in variants:
        with torch.device("meta"):
            network = build_network(config)
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        found = infer_settings(infer_architecture(shapes), shapes, image_size=32)
        expected = {key: getattr(config.config, key) for key in found}
        if len(ch_mult) == 1:  # nothing is resampled: there is nothing to tell these from
            expected |= {key: found[key] for key in ("fir", "progressive_input") if key in found}
        assert found == expected


def test_networks_learn_and_name_wrong_sizes() -> None:
    ddpm = build_network(NetworkConfig(architecture="ddpm", ddpm=DDPM_SMALL, conditioning="std"))
    ncsnv2 = build_network(NetworkConfig(architecture="ncsnv2", ncsnv2=NCSNV2_SMALL, conditioning="level"))
    x = torch.randn(2, 2, 16, 24)
    for network, second in ((ddpm, torch.tensor([0.1, 0.9])), (ncsnv2, torch.tensor([0, 11]))):
        output = network(x, second)
        assert output.shape == x.shape
        output.square().mean().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
        with pytest.raises(ValueError, match="multiple of"):
            network(x[..., :15], second)


def test_settings_that_contradict_are_named() -> None:
    with pytest.raises(ValueError, match="conditioning 'level' is that of architecture ncsnv2"):
        NetworkConfig(conditioning="level")
    with pytest.raises(ValueError, match=r"needs conditioning: sigma and ddpm\.centered: true"):
        NetworkConfig(architecture="ddpm", preconditioning="edm")
    with pytest.raises(ValueError, match="multiple of 32"):
        DDPMConfig(nf=16)
    with pytest.raises(ValueError, match="sigma_min < sigma_max"):
        NCSNv2Config(sigma_max=0.001)


def test_training_does_not_ask_with_levels() -> None:
    network = {"architecture": "ncsnv2", "ncsnv2": {"channels": 1}, "conditioning": "level"}
    with pytest.raises(ValueError, match=r"training needs network\.conditioning sigma or std"):
        parse(TrainConfig, {"data": {"stores": ["x.zarr"], "crop": 32}, "network": network})


class _Gaussian(nn.Module):
    """The exact score of white Gaussian images of deviation TAU, in each parametrisation."""

    def __init__(self, conditioning: Conditioning) -> None:
        super().__init__()
        self.conditioning = conditioning
        self.parameter = nn.Parameter(torch.zeros(()))
        self.register_buffer("sigmas", torch.exp(torch.linspace(3, -5, 2001)))

    def forward(self, x: Tensor, second: Tensor) -> Tensor:
        if self.conditioning == "level":
            assert second.dtype == torch.int64
            second = self.get_buffer("sigmas")[second]
        variance = TAU**2 + second**2
        if self.conditioning == "std":
            variance = (1 - second**2) * TAU**2 + second**2
        return -x / variance[:, None, None, None]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("conditioning", ["sigma", "std", "level"])
def test_every_parametrisation_gives_the_same_score(conditioning: Conditioning, scale: float, channels: int) -> None:
    network = _Gaussian(conditioning)
    score = NetworkScore(
        network, returns="score", channels=channels, conditioning=conditioning, scale=scale, fast=False
    )
    x = torch.randn(3, 5, 6, dtype=torch.complex64)
    level = 5e-3 if conditioning == "level" else 1e-5  # the table's spacing is 0.4 %
    for sigma in (0.02, 0.3, torch.tensor([0.05, 1.0, 4.0])):
        per_image = torch.as_tensor(sigma).expand(3)[:, None, None]
        expected = -x / ((TAU / scale) ** 2 + per_image**2)
        torch.testing.assert_close(score(x, sigma), expected, rtol=level, atol=1e-5)
        wanted = x * (TAU / scale) ** 2 / ((TAU / scale) ** 2 + per_image**2)
        torch.testing.assert_close(denoise(score, x, sigma), wanted, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("conditioning", ["std", "level"])
def test_gradients_pass_through_every_parametrisation(conditioning: Conditioning) -> None:
    score = NetworkScore(_Gaussian(conditioning), returns="score", channels=2, conditioning=conditioning, fast=False)
    x = torch.randn(2, 4, 4, dtype=torch.complex64, requires_grad=True)
    (gradient,) = torch.autograd.grad(score(x, 1.0).real.sum(), x)
    torch.testing.assert_close(gradient, torch.full_like(x, -1 / (TAU**2 + 1)), rtol=5e-3, atol=1e-3)


def test_high_frequency_prior_is_asked_for_what_it_was_trained_on() -> None:
    # a VP-type network of HFS-SDE sees x_t = F_l x_0 + alpha F_h x_0 + std F_h z, and says the score of that
    seen: list[Tensor] = []

    class Network(_Gaussian):
        def forward(self, x: Tensor, second: Tensor) -> Tensor:
            seen.extend([x, second])
            return super().forward(x, second)

    ddpm = DDPMConfig(image_size=16, nf=32, ch_mult=(1,), num_res_blocks=1)
    config = NetworkConfig(architecture="ddpm", ddpm=ddpm, conditioning="std")
    info = PriorInfo(HighFrequencyNoise(0.01, 150.0, LowFrequencies("columns", 0.25)))
    prior = Prior("hfs", Network("std"), config, info, "")
    sde = HighFrequencySDE(VPSDE(), LowFrequencies("columns", 0.25).mask(16, 16))
    x0, noise = torch.randn(2, 1, 16, 16, dtype=torch.complex64).unbind(0)
    t = torch.tensor(0.4)
    x_t = sde.perturb(x0, t, noise)
    found = sde.score(prior.score(fast=False), x_t, t)
    given = torch.view_as_complex(seen[0].permute(0, 2, 3, 1).contiguous())
    torch.testing.assert_close(given, x_t, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen[1], sde.std(t)[None], rtol=1e-5, atol=1e-5)
    variance = (1 - sde.std(t) ** 2) * TAU**2 + sde.std(t) ** 2
    torch.testing.assert_close(found, sde.project(-x_t / variance), rtol=1e-4, atol=1e-4)
    low = torch.where(sde.low, fft2c(x0), 0)
    torch.testing.assert_close(ifft2c(torch.where(sde.low, fft2c(given), 0)), ifft2c(low), rtol=1e-4, atol=1e-4)


def test_bundles_hold_the_chosen_architecture_alone(tmp_path: Path) -> None:
    config = NetworkConfig(architecture="ncsnv2", ncsnv2=NCSNV2_SMALL, conditioning="level")
    network = build_network(config)
    info = PriorInfo(WhiteNoise(0.005, 10.0), ImageScale(value=2.0))
    folder = save_prior(tmp_path / "p", network, config, info)
    assert "ddpm" not in (folder / "config.yaml").read_text()
    prior = load_prior(folder)
    assert prior.network_config == config
    assert (prior.sigma_range, prior.info.scale.value) == ((0.005, 10.0), 2.0)
    x = torch.randn(1, 2, 16, 16)
    torch.testing.assert_close(prior.network(x, torch.tensor([3])), network.eval()(x, torch.tensor([3])))
    image = torch.randn(1, 13, 16, dtype=torch.complex64)
    assert prior.score(fast=False)(image, 0.3).shape == image.shape  # padded to a multiple of 8
