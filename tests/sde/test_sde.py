"""Every SDE: its kernel against a simulation of the forward equation, its times, its score, its part that diffuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdrift.mri.fourier import fft2c
from kdrift.sde import SDE, VESDE, VPSDE, HighFrequencySDE, LowFrequencies, SubVPSDE

BASES = [VESDE(0.1, 2.0), VPSDE(0.1, 8.0), SubVPSDE(0.1, 8.0)]
ROWS, COLS = 6, 5


def _complex(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128) * 2**0.5


def _all() -> list[SDE]:
    low = LowFrequencies("square", 0.4).mask(ROWS, COLS)
    columns = LowFrequencies("columns", 0.4).mask(ROWS, COLS)
    return [*BASES, *(HighFrequencySDE(base, low) for base in BASES), HighFrequencySDE(BASES[1], columns)]


@pytest.mark.parametrize("sde", _all(), ids=lambda sde: type(getattr(sde, "base", sde)).__name__)
@pytest.mark.parametrize("end", [0.4, 1.0])
def test_kernel_matches_the_simulated_forward_sde(sde: SDE, end: float) -> None:
    torch.manual_seed(0)
    chains, steps = 1500, 400
    x0 = _complex(ROWS, COLS)
    x = sde.perturb(x0, torch.tensor(0.0, dtype=torch.float64), _complex(chains, ROWS, COLS))  # VE starts at sigma(0)
    dt = end / steps
    for i in range(steps):
        t = torch.tensor((i + 0.5) * dt, dtype=torch.float64)
        middle = x + sde.drift(x, t) * dt / 2  # second order in the drift: 400 steps leave no bias that shows
        wiener = sde.project(_complex(*x.shape)) * dt**0.5
        x = x + sde.drift(middle, t) * dt + sde.diffusion(t) * wiener
    mean, std = sde.marginal(x0, torch.tensor(end, dtype=torch.float64))
    moves = sde.project(torch.eye(ROWS * COLS, dtype=torch.complex128).reshape(-1, ROWS, COLS))
    covariance = std**2 * moves.reshape(ROWS * COLS, -1).T  # P is a projection: its square is itself
    count = x.shape[0]
    off = (x.mean(0) - mean).flatten()
    errors = (covariance.diagonal().real / count).sqrt()
    assert float((torch.view_as_real(off) / errors[:, None]).abs().max()) < 5
    centred = (x - mean).reshape(count, -1)
    empirical = centred.T @ centred.conj() / (2 * count)
    both = covariance.diagonal().real[:, None] * covariance.diagonal().real + covariance.abs() ** 2
    assert float(((empirical - covariance).real / (both / (2 * count)).sqrt()).abs().max()) < 5.5


@pytest.mark.parametrize("sde", _all(), ids=lambda sde: type(getattr(sde, "base", sde)).__name__)
def test_time_is_the_inverse_of_sigma_and_the_drift_that_of_alpha(sde: SDE) -> None:
    t = torch.linspace(0.01, 1, 9, dtype=torch.float64)
    torch.testing.assert_close(sde.time(sde.sigma(t)), t)
    step = 1e-6
    slope = (sde.alpha(t + step).log() - sde.alpha(t - step).log()) / (2 * step)
    torch.testing.assert_close(sde.rate(t), slope, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("sde", _all(), ids=lambda sde: type(getattr(sde, "base", sde)).__name__)
def test_score_of_gaussian_images_is_the_closed_form(sde: SDE) -> None:
    """For images N(0, tau^2) the diffusing part of x_t is N(0, alpha^2 tau^2 + std^2)."""
    tau, t = 0.7, torch.tensor(0.3, dtype=torch.float64)
    x = sde.perturb(_complex(4, ROWS, COLS), t, _complex(4, ROWS, COLS))
    found = sde.score(lambda x, sigma: -x / (tau**2 + sigma**2), x, t)
    torch.testing.assert_close(found, -sde.project(x) / (sde.alpha(t) ** 2 * tau**2 + sde.std(t) ** 2))


def test_high_frequencies_with_an_empty_centre_are_the_whole_image() -> None:
    nothing = LowFrequencies(fraction=0.0).mask(ROWS, COLS)
    x0, noise, t = _complex(ROWS, COLS), _complex(ROWS, COLS), torch.tensor(0.5, dtype=torch.float64)
    for base in BASES:
        sde = HighFrequencySDE(base, nothing)
        torch.testing.assert_close(sde.perturb(x0, t, noise), base.perturb(x0, t, noise))
        torch.testing.assert_close(sde.drift(x0, t), base.drift(x0, t))


def test_high_frequencies_never_change_the_centre() -> None:
    low = LowFrequencies("square", 0.4).mask(ROWS, COLS)
    assert int(low.sum()) == 4
    x0 = _complex(ROWS, COLS)
    for base in BASES:
        sde = HighFrequencySDE(base, low)
        x = sde.perturb(x0, torch.tensor(1.0, dtype=torch.float64), _complex(3, ROWS, COLS))
        change = fft2c(x - x0)[:, low]
        assert float(change.abs().max()) < 1e-14


def test_high_frequencies_with_coil_maps() -> None:
    """Eq. 12 with one coil of ones is the plain operator; with maps it is self-adjoint and at most 1."""
    low = LowFrequencies("square", 0.4).mask(ROWS, COLS)
    plain = HighFrequencySDE(BASES[1], low)
    x, y = _complex(ROWS, COLS), _complex(ROWS, COLS)
    ones = torch.ones(1, ROWS, COLS, dtype=torch.complex128)
    torch.testing.assert_close(HighFrequencySDE(BASES[1], low, ones).project(x), plain.project(x))
    maps = _complex(3, ROWS, COLS)
    sde = HighFrequencySDE(BASES[1], low, maps / maps.abs().square().sum(0).sqrt())
    assert torch.allclose((sde.project(x).conj() * y).sum(), (x.conj() * sde.project(y)).sum())
    assert float(sde.project(x).abs().square().sum()) <= float(x.abs().square().sum())


def test_low_frequencies_are_the_centre() -> None:
    paper = LowFrequencies().mask(320, 320)
    assert int(paper.sum()) == 24 * 24
    assert bool(paper[160, 160])
    columns = LowFrequencies("columns", 0.05).mask(320, 368)
    assert int(columns[0].sum()) == 18
    assert bool(columns.all(0).sum() == 18)
    with pytest.raises(ValueError, match="fraction in"):
        LowFrequencies(fraction=1.0)


def test_levels_and_times() -> None:
    sde = VESDE(0.01, 378.0)
    levels = sde.std(torch.linspace(0, 1, 2000, dtype=torch.float64)).tolist()
    assert levels[0] == pytest.approx(0.01)
    assert levels[-1] == pytest.approx(378.0)
    with pytest.raises(ValueError, match="sigma_min < sigma_max"):
        VESDE(1.0, 1.0)
    with pytest.raises(ValueError, match="beta_min < beta_max"):
        VPSDE(1.0, 1.0)
    with pytest.raises(ValueError, match="boolean"):
        HighFrequencySDE(sde, torch.ones(4, 4))
