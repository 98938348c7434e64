"""Networks: agreement with the published architecture, resampling filters, preconditioning, group normalisation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdrift.networks import NCSNpp, NCSNppConfig, NetworkConfig, build_network
from kdrift.networks.group_norm import GroupNorm
from kdrift.networks.layers import fir_downsample, fir_upsample

SMALL = NCSNppConfig(image_size=32, nf=16, ch_mult=(1, 2, 2), num_res_blocks=2)


def test_published_checkpoint_gives_published_output(shared_reference: Path) -> None:
    content = torch.load(shared_reference / "score_mri_small.pth", weights_only=True)
    arrays = np.load(shared_reference / "score_mri_small_io.npz")
    network = NCSNpp(SMALL).eval()
    state = {key.removeprefix("module."): value for key, value in content["model"].items()}
    state.pop("sigmas")
    network.load_state_dict(state)
    x, sigma = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["sigma"])
    with torch.no_grad():
        torch.testing.assert_close(network(x, sigma), torch.from_numpy(arrays["raw"]), rtol=1e-4, atol=1e-4)
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        for parameter, value in zip(trained, content["ema"]["shadow_params"], strict=True):
            parameter.copy_(value)
        torch.testing.assert_close(network(x, sigma), torch.from_numpy(arrays["ema"]), rtol=1e-4, atol=1e-4)


def test_full_network_has_the_published_size() -> None:
    with torch.device("meta"):
        network = NCSNpp(NCSNppConfig())
    assert sum(p.numel() for p in network.parameters()) == 61_433_601


def _upfirdn(x: torch.Tensor, up: int, down: int, pad: tuple[int, int], gain: float) -> torch.Tensor:
    """Insert zeros, pad, filter with (1, 3, 3, 1) normalised, keep every `down`-th: the definition."""
    batch, channels, rows, cols = x.shape
    grid = x.new_zeros(batch, channels, rows * up, cols * up)
    grid[..., ::up, ::up] = x
    grid = F.pad(grid, (*pad, *pad))
    taps = torch.tensor((1.0, 3.0, 3.0, 1.0), dtype=x.dtype) / 8
    kernel = (gain * torch.outer(taps, taps)).expand(channels, 1, 4, 4)
    return F.conv2d(grid, kernel, groups=channels)[..., ::down, ::down]


@pytest.mark.parametrize("size", [(8, 8), (6, 10), (7, 5)])
def test_fir_resampling_equals_its_definition(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(fir_upsample(x), _upfirdn(x, 2, 1, (2, 1), 4.0))
    if size[0] % 2 == 0:
        torch.testing.assert_close(fir_downsample(x), _upfirdn(x, 1, 2, (1, 1), 1.0))


def test_fir_gradients_are_the_adjoints() -> None:
    x = torch.randn(1, 2, 6, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(fir_downsample, x)
    assert torch.autograd.gradcheck(fir_upsample, x)


def test_group_norm_gradient_in_bfloat16_is_that_of_float64() -> None:
    layer = GroupNorm(4, 16)
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(3, 16, 9, 7).to(torch.bfloat16).contiguous(memory_format=torch.channels_last).requires_grad_()
    upstream = torch.randn(3, 16, 9, 7).to(torch.bfloat16)
    fast = torch.autograd.grad(layer(x), (x, layer.weight, layer.bias), upstream)
    exact_x = x.detach().double().requires_grad_()
    weight, bias = (p.detach().double().requires_grad_() for p in (layer.weight, layer.bias))
    exact = torch.autograd.grad(
        F.group_norm(exact_x, 4, weight, bias, layer.eps), (exact_x, weight, bias), upstream.double()
    )
    for ours, reference in zip(fast, exact, strict=True):
        assert torch.linalg.vector_norm(ours.double() - reference) < 0.01 * torch.linalg.vector_norm(reference)


def test_edm_denoiser_leaves_a_clean_image_and_has_unit_input() -> None:
    config = NetworkConfig(
        NCSNppConfig(image_size=16, nf=8, ch_mult=(1, 1), num_res_blocks=1, centered=True, scale_by_sigma=False),
        preconditioning="edm",
    )
    network = build_network(config)
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(x, torch.full((2,), 1e-4)), x, atol=1e-3, rtol=1e-3)


def test_wrong_sizes_and_settings_are_named() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        NCSNpp(SMALL)(torch.zeros(1, 1, 30, 32), torch.ones(1))
    with pytest.raises(ValueError, match="progressive_input"):
        NCSNppConfig(progressive_input="input_skip")
    with pytest.raises(ValueError, match="edm preconditioning needs"):
        NetworkConfig(preconditioning="edm")


@pytest.mark.parametrize("progressive", ["residual", "none"])
@pytest.mark.parametrize("fir", [True, False])
def test_every_variant_runs_and_learns(progressive: str, fir: bool) -> None:
    config = NCSNppConfig(
        image_size=16, nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(8,), fir=fir,
        progressive_input=progressive, init_scale=1.0,
    )  # fmt: skip
    network = NCSNpp(config)
    x = torch.randn(2, 1, 16, 16)
    output = network(x, torch.tensor([0.1, 1.0]))
    assert output.shape == x.shape
    output.square().mean().backward()
    trained = [p for p in network.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
