"""Networks that reconstruct: closed forms of their parts, agreement with MONAI, what holds for any weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kdrift.mri.coils import combine, normalise_maps, rss
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.mri.masks import make_mask
from kdrift.networks import DuDoRNetConfig, HDSLRConfig, ISTANetConfig, NetworkConfig, VarNetConfig, build_network
from kdrift.networks.reconstructor import UNet, of_complex, peak
from kdrift.networks.varnet import Cascade, VarNet
from kdrift.testing import complex_normal
from reconstructor_helpers import SMALL, network_of


def problem(batch: int = 2, coils: int = 3, rows: int = 32, cols: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """k-space, masks and maps of random images, each mask another one."""
    image = complex_normal((batch, 1, rows, cols), seed=1, dtype=torch.complex64)
    smaps = normalise_maps(complex_normal((batch, coils, rows, cols), seed=2, dtype=torch.complex64))
    kinds = [make_mask(kind, (rows, cols), acceleration=3, acs_fraction=0.2).mask for kind in ("random", "poisson")]
    mask = torch.stack([kinds[number % 2] for number in range(batch)])
    return fft2c(smaps * image) * mask[:, None], mask, smaps


@pytest.mark.parametrize("name", SMALL)
def test_a_batch_gives_what_its_images_give_one_by_one(name: str) -> None:
    network, given = network_of(name), problem()
    together = network(*given)
    for number in range(2):
        alone = network(*(part[number : number + 1] for part in given))
        torch.testing.assert_close(together[number], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("coils", "rows", "cols"), [(1, 32, 32), (5, 33, 47), (12, 24, 64)])
def test_any_number_of_coils_and_any_size(name: str, coils: int, rows: int, cols: int) -> None:
    kspace, mask, smaps = problem(1, coils, rows, cols)
    image = network_of(name)(kspace, mask, smaps)
    assert image.shape == (1, rows, cols)
    seven = network_of(name)(7 * kspace, mask, smaps)
    torch.testing.assert_close(seven, 7 * image, rtol=1e-3, atol=1e-3 * float(image.detach().abs().max()))


def test_fresh_networks_give_the_zero_filled_image() -> None:
    kspace, mask, smaps = problem()
    zero_filled = combine(ifft2c(kspace), smaps)
    torch.testing.assert_close(build_network(SMALL["unet"])(kspace, mask, smaps), zero_filled)
    torch.testing.assert_close(build_network(SMALL["varnet"])(kspace, mask, smaps).abs(), rss(ifft2c(kspace)))


def test_the_phase_is_that_of_the_combination_by_the_maps_that_are_given() -> None:
    kspace, mask, smaps = problem()
    turned = smaps * torch.exp(torch.tensor(0.7j))
    network = network_of("varnet")
    torch.testing.assert_close(
        network(kspace, mask, turned), network(kspace, mask, smaps) * torch.exp(-torch.tensor(0.7j))
    )


def test_a_cascade_is_a_data_step_and_a_correction() -> None:
    """With eta = 1 and full sampling a cascade is y - F S r(S^H F^-1 k), whatever k was."""
    kspace, _, smaps = problem()
    cascade = Cascade(SMALL["varnet"].varnet)
    now, full = complex_normal(tuple(kspace.shape), seed=5, dtype=torch.complex64), torch.ones(2, 1, 32, 40).bool()
    torch.testing.assert_close(cascade(now, kspace, full, smaps), kspace)  # the correction is zero at first
    cascade.eta.data[:] = 0.25
    half = full.clone()
    half[..., ::2] = False
    expected = torch.where(half, 0.75 * now + 0.25 * kspace, now)
    torch.testing.assert_close(cascade(now, kspace, half, smaps), expected)


def test_full_sampling_keeps_the_data_when_nothing_is_corrected() -> None:
    smaps = problem()[2]
    whole = fft2c(smaps * complex_normal((2, 1, 32, 40), seed=9, dtype=torch.complex64))
    image = build_network(SMALL["varnet"])(whole, torch.ones(2, 32, 40).bool(), smaps)
    torch.testing.assert_close(image, combine(ifft2c(whole), smaps), rtol=1e-4, atol=1e-5)


def test_a_cascade_is_that_of_monai() -> None:
    """The same step as MONAI's port of the released code, with any correction and a mask of columns."""
    monai = pytest.importorskip(
        "monai.apps.reconstruction.networks.blocks.varnetblock", reason="MONAI is not installed"
    )
    kspace, _, smaps = problem(1)
    mask = make_mask("equispaced", (32, 40), acceleration=3, acs_fraction=0.2).mask[None, None]
    kspace = kspace * mask
    ours = Cascade(SMALL["varnet"].varnet)
    nn.init.normal_(ours.correction.unet.last.weight)  # type: ignore[union-attr, arg-type]

    class Correction(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return ours.correction(image[:, 0].movedim(-1, 1)).movedim(1, -1)[:, None]

    theirs = monai.VarNetBlock(Correction())
    theirs.dc_weight.data[:] = ours.eta.data[:] = 0.6
    now = complex_normal(tuple(kspace.shape), seed=3, dtype=torch.complex64)
    pairs = [torch.view_as_real(part) for part in (now, kspace)]
    expected = theirs(*pairs, mask[..., None], torch.view_as_real(smaps))
    torch.testing.assert_close(torch.view_as_real(ours(now, kspace, mask, smaps)), expected, rtol=1e-3, atol=1e-4)


def test_the_map_network_sees_the_sampled_centre_alone() -> None:
    kspace, mask, _ = problem()
    network = network_of("varnet")
    assert isinstance(network, VarNet)
    maps = network.estimate_maps(kspace, mask)
    torch.testing.assert_close(rss(maps), torch.ones(2, 32, 40))
    outside = kspace.clone()
    outside[..., :4] *= 5  # no part of the centre
    torch.testing.assert_close(network.estimate_maps(outside, mask), maps)
    with pytest.raises(ValueError, match="centre of k-space, which was not sampled"):
        network.estimate_maps(kspace, torch.zeros_like(mask))


def test_several_complex_maps_go_through_a_network_and_come_back_in_their_order() -> None:
    images = complex_normal((2, 3, 8, 9), seed=1, dtype=torch.complex64)
    seen = list[Tensor]()

    def network(x: Tensor) -> Tensor:
        seen.append(x)
        return 2 * x

    torch.testing.assert_close(of_complex(network, images), 2 * images)
    assert seen[0].shape == (2, 6, 8, 9)
    assert peak(torch.stack([images[0, 0], 0 * images[0, 0]])).flatten().tolist() == [
        pytest.approx(float(images[0, 0].abs().max())),
        1.0,
    ]


def test_what_a_network_cannot_be_is_said() -> None:
    with pytest.raises(ValueError, match="levels needs more than 16 rows or columns, got 16 x 12"):
        UNet(1, 1, 2, 4)(torch.zeros(1, 1, 16, 12))
    with pytest.raises(ValueError, match="unet reconstructs and has no noise level"):
        NetworkConfig(architecture="unet", preconditioning="edm")
    with pytest.raises(ValueError, match="cascades of at least 1"):
        VarNetConfig(cascades=0)
    with pytest.raises(ValueError, match="layers and features of at least 1, got 0 and 32"):
        ISTANetConfig(layers=0)
    with pytest.raises(ValueError, match=r"symmetry of at least 0, got -0.5"):
        ISTANetConfig(symmetry=-0.5)
    with pytest.raises(ValueError, match="dilations of at least 1, got 4, 32, 3 and "):
        DuDoRNetConfig(dilations=(1, 0))
    with pytest.raises(ValueError, match="dilations of at least 1, got 4, 32, 3 and "):
        DuDoRNetConfig(dilations=())
    with pytest.raises(ValueError, match="at least 1 and 2 layers, got 10, 12, 64 and 1"):
        HDSLRConfig(layers=1)
