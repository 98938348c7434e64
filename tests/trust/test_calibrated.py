"""The deviation that is given: scaled, averaged over neighbours, with the noise that all samples share."""

from __future__ import annotations

import pytest
import torch

from kdrift.trust.calibrated import calibrated_std, interval
from kdrift.trust.uncertainty import coverage


def test_a_constant_deviation_stays_and_is_scaled() -> None:
    spread = torch.full((16, 16), 2.0)
    torch.testing.assert_close(calibrated_std(spread), spread)
    torch.testing.assert_close(calibrated_std(spread, factor=1.5), 1.5 * spread)
    torch.testing.assert_close(calibrated_std(spread, factor=1.5, noise=4.0), torch.full((16, 16), 5.0))


def test_power_is_kept_and_the_other_map_only_says_where() -> None:
    torch.manual_seed(0)
    spread, other = torch.rand(64, 64), torch.rand(64, 64) ** 4
    power = calibrated_std(spread).square().sum()
    for scale in (0.1, 1.0, 10.0):
        both = calibrated_std(spread, scale * other)
        torch.testing.assert_close(both.square().sum(), power)
        torch.testing.assert_close(both, calibrated_std(spread, other))
    torch.testing.assert_close(calibrated_std(spread, torch.zeros(64, 64)), calibrated_std(spread))


def test_eight_samples_hold_what_they_should_once_neighbours_are_averaged() -> None:
    torch.manual_seed(1)
    samples, truth = torch.randn(8, 128, 128), torch.randn(128, 128)
    mean, std = torch.zeros(128, 128), samples.std(0)  # the mean is known: the deviation alone is tested
    raw = coverage(mean, std, truth, (0.9,))[0.9]
    better = coverage(mean, calibrated_std(std), truth, (0.9,))[0.9]
    assert raw == pytest.approx(0.856, abs=0.01)
    assert better == pytest.approx(0.9, abs=0.01)


def test_intervals_hold_their_level_and_magnitudes_are_not_negative() -> None:
    torch.manual_seed(2)
    mean, std = torch.full((200, 200), 5.0), torch.ones(200, 200)
    truth = mean + torch.randn(200, 200)
    for level in (0.5, 0.9, 0.95):
        lower, upper = interval(mean, std, level)
        held = float(((lower <= truth) & (truth <= upper)).double().mean())
        assert held == pytest.approx(level, abs=0.01)
    assert float(interval(torch.zeros(2, 2), std[:2, :2], 0.9)[0].min()) == 0
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        interval(mean, std, 1.0)
