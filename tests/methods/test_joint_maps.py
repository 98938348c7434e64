"""Coil maps estimated together with the image."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kdrift.data.phantom import phantom_volume
from kdrift.methods import ChainNoise, Measurement
from kdrift.methods.joint_maps import joint_maps
from kdrift.mri.birdcage import birdcage_maps
from kdrift.mri.coils import espirit_maps
from kdrift.mri.fourier import fft2c
from kdrift.mri.masks import make_mask
from kdrift.networks import NCSNppConfig, NetworkConfig, build_network
from kdrift.prior.bundle import Prior
from kdrift.prior.prior_info import PriorInfo
from kdrift.recon.plan import Plan
from kdrift.recon.slices import RawSlice
from kdrift.sde import VESDE, WhiteNoise

SIZE, NOISE = 48, 0.01


def truth() -> tuple[Tensor, Tensor]:
    volume = phantom_volume(1, SIZE, SIZE, 1, seed=3)
    image = torch.as_tensor(volume.reference[0])
    return (image / image.quantile(0.99)).to(torch.complex64), torch.from_numpy(birdcage_maps(4, SIZE, SIZE))


def measured(image: Tensor, maps: Tensor, acs_lines: int) -> tuple[Tensor, Tensor]:
    mask = torch.as_tensor(make_mask("equispaced", (SIZE, SIZE), acceleration=4, acs_lines=acs_lines).mask)
    noise = NOISE * torch.randn(4, SIZE, SIZE, 2, generator=torch.Generator().manual_seed(0))
    return torch.where(mask, fft2c(maps * image) + torch.view_as_complex(noise), 0), mask


def error(found: Tensor, maps: Tensor, image: Tensor) -> float:
    coil_images = maps * image
    left = coil_images - found * (found.conj() * coil_images).sum(0)
    return float(left.abs().square().sum() / coil_images.abs().square().sum())


@pytest.mark.parametrize(("acs_lines", "left"), [(5, 0.5), (8, 0.6), (12, 0.75)])
def test_maps_come_nearer_to_the_truth_with_a_prior_that_knows_the_image(acs_lines: int, left: float) -> None:
    """The score is that of the one image that goes with ESPIRiT's maps, whose phase holds their errors, which stay."""
    image, maps = truth()
    kspace, mask = measured(image, maps, acs_lines)
    first = espirit_maps(kspace, crop=0.0)
    own = (first.conj() * maps).sum(0)
    known = image * own / own.abs()

    def score(x: Tensor, sigma: float | Tensor) -> Tensor:
        return (known - x) / torch.as_tensor(sigma) ** 2

    measurement = Measurement(kspace, mask, first, NOISE)
    found = joint_maps(score, VESDE(0.01, 5.0), measurement, rng=ChainNoise(0, 0, [0], stream="coil maps"))
    assert error(found, maps, image) < left * error(first, maps, image)
    again = joint_maps(score, VESDE(0.01, 5.0), measurement, rng=ChainNoise(0, 0, [0], stream="coil maps"))
    assert torch.equal(found, again)


def tiny(images: str = "complex") -> Prior:
    torch.manual_seed(0)
    channels = 2 if images == "complex" else 1
    network = NCSNppConfig(
        image_size=32, channels=channels, nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(),
        middle_attention=False, centered=True, scale_by_sigma=False, init_scale=0.1,
    )  # fmt: skip
    config = NetworkConfig(network, preconditioning="edm")
    return Prior("tiny", build_network(config).eval(), config, PriorInfo(WhiteNoise(0.01, 5.0)), "0" * 64)


def test_what_the_plan_says_of_maps_is_what_is_done() -> None:
    image, maps = truth()
    kspace, mask = measured(image, maps, 8)
    raw, prior = RawSlice(0, kspace, mask), tiny()
    espirit = Plan(maps="espirit").resolve(prior)
    joint = Plan().resolve(prior)
    assert (espirit.config["maps"]["kind"], joint.config["maps"]["kind"]) == ("espirit", "joint")
    plain, fitted = espirit.prepare(raw, prior), joint.prepare(raw, prior)
    torch.testing.assert_close(plain.smaps, espirit.prepare(raw).smaps)
    assert not torch.allclose(plain.smaps, fitted.smaps, atol=1e-4)
    assert not torch.allclose(plain.zero_filled, fitted.zero_filled, atol=1e-6)
    with pytest.raises(ValueError, match="coil maps are fitted with the prior"):
        joint.prepare(raw)
    assert torch.equal(joint.prepare(replace(raw, smaps=maps), prior).smaps, maps)  # maps that are given are left
    assert torch.equal(joint.prepare(RawSlice(0, kspace[:1], mask), prior).smaps, torch.ones(1, SIZE, SIZE) + 0j)


def test_methods_and_priors_that_cannot_fit_maps_have_those_of_espirit() -> None:
    assert Plan("tv").resolve().config["maps"]["kind"] == "espirit"
    assert Plan().resolve(tiny("magnitude")).config["maps"]["kind"] == "espirit"
    assert Plan("score_mri").resolve(tiny()).config["maps"]["kind"] == "joint"
