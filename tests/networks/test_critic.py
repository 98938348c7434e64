"""The critic of adversarial training: its loss in closed form, and whom each part of it reaches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdrift.networks import SRGAN, Critic, CriticConfig, SRGANConfig
from kdrift.networks.sr_gan import ResidualBlock


def critic(weight: float = 0.1) -> Critic:
    torch.manual_seed(0)
    return Critic(CriticConfig(weight, 4, 2))


def test_a_critic_that_knows_nothing_costs_what_guessing_costs() -> None:
    judge = critic()
    nn.init.zeros_(judge.layers[-1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(judge.layers[-1].bias)  # type: ignore[arg-type]
    loss = judge(torch.rand(2, 15, 22), torch.rand(2, 15, 22))  # of any size
    assert float(loss.detach()) == pytest.approx(2.1 * math.log(2))


def test_each_part_of_the_loss_reaches_one_of_the_two_alone() -> None:
    judge, reference = critic(), torch.rand(2, 16, 16)
    image = torch.rand(2, 16, 16, requires_grad=True)
    torch.autograd.backward(judge(image, reference))
    found = [parameter.grad for parameter in judge.parameters()]
    made, real = judge.layers(image.detach()[:, None]), judge.layers(reference[:, None])
    own = F.softplus(made).mean() + F.softplus(-real).mean()
    for gradient, expected in zip(found, torch.autograd.grad(own, list(judge.parameters())), strict=True):
        torch.testing.assert_close(gradient, expected)
    deceived = 0.1 * F.softplus(-judge.layers(image[:, None])).mean()
    torch.testing.assert_close(image.grad, torch.autograd.grad(deceived, image)[0])


def test_a_critic_learns_to_tell_and_an_image_to_deceive() -> None:
    judge = critic(1.0)
    reference, image = torch.rand(4, 16, 16).round(), torch.full((4, 16, 16), 0.5, requires_grad=True)
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        torch.autograd.backward(judge(image, reference))
        optimizer.step()
    (gradient,) = torch.autograd.grad(judge(image, reference), image)
    with torch.no_grad():
        assert float(judge.layers(reference[:, None]).mean()) > 1
        before = float(judge.layers(image[:, None]).mean())
        assert before < -1
        assert float(judge.layers((image - 0.2 * gradient.sign())[:, None]).mean()) > before


def test_the_generator_adds_to_its_input_what_grows_with_it() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(3)
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(block(x), x)  # at first
    network = SRGAN(SRGANConfig(4, 1))
    kspace = torch.randn(1, 1, 12, 12, dtype=torch.complex64)
    given = torch.ones(1, 12, 12).bool(), torch.ones_like(kspace)
    zero_filled = network(kspace, *given)
    nn.init.normal_(network.last.weight)
    torch.testing.assert_close(network(3 * kspace, *given), 3 * network(kspace, *given), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(network(kspace, *given), zero_filled)


def test_what_a_critic_cannot_be_is_said() -> None:
    with pytest.raises(ValueError, match="weight above 0, features and levels of at least 1, got 0, 64 and 4"):
        CriticConfig(weight=0)
    with pytest.raises(ValueError, match="blocks of at least 1, got 64 and 0"):
        SRGANConfig(blocks=0)
