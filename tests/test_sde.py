"""The VE-SDE: its kernel against a simulation of the forward equation, and its schedule."""

from __future__ import annotations

import pytest
import torch

from kdrift.sde import VESDE


def test_kernel_matches_simulated_forward_sde() -> None:
    sde, chains, steps = VESDE(0.1, 2.0), 20000, 400
    x0 = 0.7
    x = torch.full((chains,), x0, dtype=torch.float64)
    x = x + sde.sigma_min * torch.randn(chains, dtype=torch.float64)  # the kernel counts sigma(0) as noise
    for i in range(steps):
        t = torch.tensor((i + 0.5) / steps, dtype=torch.float64)
        x = x + sde.drift(x, t) / steps + sde.diffusion(t) * torch.randn(chains, dtype=torch.float64) / steps**0.5
    mean, std = sde.marginal(torch.tensor(x0), torch.tensor(1.0, dtype=torch.float64))
    assert abs(float(x.mean() - mean)) < 5 * float(std) / chains**0.5
    assert abs(float(x.var() / std**2) - 1) < 5 * (2 / chains) ** 0.5


def test_levels_and_times() -> None:
    sde = VESDE(0.01, 378.0)
    levels = sde.levels(2000)
    assert levels[0] == pytest.approx(0.01)
    assert levels[-1] == pytest.approx(378.0)
    sigma = torch.tensor([0.01, 1.0, 378.0], dtype=torch.float64)
    torch.testing.assert_close(sde.sigma(sde.time(sigma)), sigma)
    with pytest.raises(ValueError, match="sigma_min < sigma_max"):
        VESDE(1.0, 1.0)
    with pytest.raises(ValueError, match="at least 2 steps"):
        sde.levels(1)
