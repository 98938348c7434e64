"""ISTA-Net+, DuDoRNet and H-DSLR: what makes each of them that network, in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kdrift.mri.coils import combine, normalise_maps, rss
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.mri.masks import make_mask
from kdrift.networks import HDSLR, DuDoRNet, DuDoRNetConfig, ISTANet, build_network
from kdrift.networks.dudornet import DRDNet
from kdrift.networks.h_dslr import virtual_coils
from kdrift.networks.ista_net import ISTALayer
from kdrift.testing import complex_normal
from reconstructor_helpers import SMALL, network_of


def problem(coils: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """k-space, masks and maps of two random images."""
    image = complex_normal((2, 1, 24, 20), seed=1, dtype=torch.complex64)
    smaps = normalise_maps(complex_normal((2, coils, 24, 20), seed=2, dtype=torch.complex64))
    mask = make_mask("random", (24, 20), acceleration=3, acs_fraction=0.2).mask.repeat(2, 1, 1)
    return fft2c(smaps * image) * mask[:, None], mask, smaps


def descended(image: Tensor, kspace: Tensor, mask: Tensor, smaps: Tensor, step: float) -> Tensor:
    misfit = (fft2c(smaps * image[:, None]) - kspace) * mask[:, None]
    return image - step * combine(ifft2c(misfit), smaps)


def with_identity(layer: ISTALayer, kept: float) -> ISTALayer:
    """Give a layer of 4 channels transforms that invert each other, and a G that returns `kept` times what is left.

    Of the channels two are the image; a transform parts them into positive and negative values, which ReLU keeps, and
    puts them together.
    """
    parted = torch.cat([torch.eye(2), -torch.eye(2)])
    whole = torch.zeros(4, 4)
    whole[:, :2] = parted
    with torch.no_grad():
        weights = [layer.expand.weight, layer.reduce.weight]
        kernels = [torch.eye(4)[:, :2], kept * torch.eye(4)[:2]]
        for transform in (layer.analysis, layer.synthesis):
            weights += [transform[0].weight, transform[2].weight]  # type: ignore[list-item]
            kernels += [whole, whole.mT]
        for weight, kernel in zip(weights, kernels, strict=True):
            weight.zero_()
            weight[:, :, 1, 1] = kernel
    return layer


def test_an_ista_layer_is_a_gradient_step_and_a_threshold() -> None:
    kspace, mask, smaps = problem()
    image = complex_normal((2, 24, 20), seed=4, dtype=torch.complex64)
    layer = with_identity(ISTALayer(4), 0.3)
    layer.step.data[:] = 0.25
    stepped = descended(image, kspace, mask, smaps, 0.25)
    for threshold in (0.0, 0.7, 100.0):  # all is kept, a part, nothing
        layer.threshold.data[:] = threshold
        found = layer(image, kspace, mask, smaps)
        torch.testing.assert_close(found[0], stepped)
        parts = torch.view_as_real(stepped)
        left = torch.view_as_complex(parts.sign() * (parts.abs() - threshold).clamp(min=0))
        torch.testing.assert_close(found[1], stepped + 0.3 * left)


def test_a_fresh_ista_net_is_gradient_descent() -> None:
    kspace, mask, smaps = problem()
    image = combine(ifft2c(kspace), smaps)
    for _ in range(3):
        image = descended(image, kspace, mask, smaps, 0.5)
    torch.testing.assert_close(build_network(SMALL["ista_net"])(kspace, mask, smaps), image, rtol=1e-4, atol=1e-5)


def test_the_symmetry_penalty_is_that_of_transforms_which_are_no_inverses() -> None:
    image = complex_normal((2, 24, 20), seed=4, dtype=torch.complex64)
    layer = with_identity(ISTALayer(4), 0.3)
    assert float(layer.asymmetry(image).detach()) == pytest.approx(0, abs=1e-12)
    layer.synthesis[2].weight.data *= 3  # type: ignore[operator]
    # 2 D(r) is left over, of which two channels of four are not zero
    expected = 4 * float(torch.view_as_real(image).square().mean()) / 2
    assert float(layer.asymmetry(image).detach()) == pytest.approx(expected, rel=1e-5)


def test_the_symmetry_penalty_does_not_depend_on_the_scale_and_reaches_the_transforms() -> None:
    kspace, mask, smaps = problem()
    network = network_of("ista_net")
    assert isinstance(network, ISTANet)
    image, penalty = network(kspace, mask, smaps, penalised=True)
    assert torch.equal(image, network(kspace, mask, smaps))
    torch.testing.assert_close(network(7 * kspace, mask, smaps, penalised=True)[1], penalty, rtol=1e-4, atol=0)
    torch.autograd.backward(penalty)
    assert all(bool(layer.synthesis[0].weight.grad.any()) for layer in network.layers)  # type: ignore[union-attr, index]


@pytest.mark.parametrize("coils", [1, 3])
def test_dudornet_keeps_the_measured_samples(coils: int) -> None:
    kspace, mask, smaps = problem(coils)
    network = network_of("dudornet")
    assert isinstance(network, DuDoRNet)
    restored, sampled = network.restored_kspace(kspace, mask, smaps), mask[:, None].expand_as(kspace)
    assert torch.equal(restored[sampled], kspace[sampled])
    assert not torch.equal(restored[~sampled], kspace[~sampled])
    image = network(kspace, mask, smaps)
    torch.testing.assert_close(image, combine(ifft2c(restored), smaps))
    if coils == 1:  # the image explains the data, whatever the weights
        torch.testing.assert_close(fft2c(smaps * image[:, None])[sampled], kspace[sampled], rtol=1e-4, atol=1e-5)


def test_a_fresh_dudornet_projects_on_the_coil_maps_and_on_the_data_in_turns() -> None:
    kspace, mask, smaps = problem()
    filled = kspace
    for _ in range(SMALL["dudornet"].dudornet.recurrences):
        projected = fft2c(smaps * combine(ifft2c(filled), smaps)[:, None])
        filled = torch.where(mask[:, None], kspace, projected)
    fresh = build_network(SMALL["dudornet"])
    torch.testing.assert_close(fresh(kspace, mask, smaps), combine(ifft2c(filled), smaps), rtol=1e-4, atol=1e-5)


def test_the_order_of_coils_means_nothing_to_dudornet() -> None:
    kspace, mask, smaps = problem()
    network, order = network_of("dudornet"), torch.tensor([2, 0, 1])
    turned = network(kspace[:, order], mask, smaps[:, order])
    torch.testing.assert_close(turned, network(kspace, mask, smaps), rtol=1e-3, atol=1e-4)


def test_a_pixel_of_the_dense_network_sees_as_far_as_its_dilations() -> None:
    config = DuDoRNetConfig(1, 4, 1, (1, 3))
    torch.manual_seed(0)
    network = DRDNet(config)
    nn.init.normal_(network.last[1].weight)  # type: ignore[arg-type]
    x = torch.zeros(1, 2, 41, 41)
    x[..., 20, 20] = 1
    network.blocks[0].weigh = nn.Identity()  # type: ignore[assignment]
    changed = (network(x) - network(0 * x)).abs().amax((0, 1)) > 1e-9
    rows = changed.any(1).nonzero()
    assert (int(rows.min()), int(rows.max())) == (20 - 9, 20 + 9)  # two before, 1 + 3 in the block, three after


def test_the_data_step_of_h_dslr_is_the_minimiser() -> None:
    """Of |M k - y|^2 + l1 |k - a|^2 + l2 |k - b|^2; by small weights the measured samples are kept."""
    kspace, mask, _ = problem()
    measured = torch.einsum("bvc,bcyx->bvyx", virtual_coils(kspace, 4), kspace)
    network = network_of("h_dslr")
    assert isinstance(network, HDSLR)
    network.iterations, network.log_weights.data[:] = 1, torch.tensor([0.4, 1.5]).log()
    by_image = fft2c(_added(network.image_network, ifft2c(measured)))
    by_kspace = _added(network.kspace_network, measured)
    found = network.completed(measured, mask[:, None])
    gradient = mask[:, None] * (found - measured) + 0.4 * (found - by_image) + 1.5 * (found - by_kspace)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-5)
    network.log_weights.data[:] = -14
    sampled = mask[:, None].expand_as(measured)
    torch.testing.assert_close(
        network.completed(measured, mask[:, None])[sampled], measured[sampled], atol=1e-4, rtol=0
    )


def _added(network: nn.Module, images: Tensor) -> Tensor:
    channels = torch.view_as_real(images)  # (batch, coil, row, col, part)
    stacked = torch.cat([channels[:, number].movedim(-1, 1) for number in range(images.shape[1])], 1)
    found = network(stacked).unflatten(1, (images.shape[1], 2))
    return images + torch.complex(found[:, :, 0], found[:, :, 1])


@pytest.mark.parametrize("coils", [2, 4, 7])
def test_a_fresh_h_dslr_gives_the_root_sum_of_squares(coils: int) -> None:
    kspace, mask, smaps = problem(coils)
    image = build_network(SMALL["h_dslr"])(kspace, mask, smaps)
    matrix = virtual_coils(kspace, 4)
    kept = torch.einsum("bvc,bcyx->bvyx", matrix, kspace)
    torch.testing.assert_close(image.abs(), rss(ifft2c(kept)), rtol=1e-4, atol=1e-5)
    if coils <= 4:  # nothing is lost
        torch.testing.assert_close(image.abs(), rss(ifft2c(kspace)), rtol=1e-4, atol=1e-5)
        phase = torch.sgn(combine(ifft2c(kspace), smaps))
        torch.testing.assert_close(image, image.abs() * phase, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("coils", [2, 7])
def test_virtual_coils_are_the_principal_ones_whatever_the_order_of_coils(coils: int) -> None:
    kspace, _, _ = problem(coils)
    matrix = virtual_coils(kspace, 4)
    rank = min(coils, 4)
    torch.testing.assert_close(matrix[:, :rank] @ matrix[:, :rank].mH, torch.eye(rank).to(matrix).expand(2, -1, -1))
    assert not bool(matrix[:, rank:].any())
    energy = torch.einsum("bvc,bcyx->bvyx", matrix, kspace).abs().square().sum((-2, -1))
    values = torch.linalg.eigvalsh(torch.einsum("bcyx,bdyx->bcd", kspace, kspace.conj())).flip(-1)[:, :rank]
    torch.testing.assert_close(energy[:, :rank], values, rtol=1e-4, atol=1e-4)
    order = torch.randperm(coils, generator=torch.Generator().manual_seed(0))
    again = torch.einsum("bvc,bcyx->bvyx", virtual_coils(kspace[:, order], 4), kspace[:, order])
    torch.testing.assert_close(again.abs(), torch.einsum("bvc,bcyx->bvyx", matrix, kspace).abs(), rtol=1e-3, atol=1e-4)
