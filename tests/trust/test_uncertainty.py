"""Moments, calibration and the split of the spread."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from kdrift.mri.coils import normalise_maps
from kdrift.mri.linop import Identity, Sampling
from kdrift.mri.masks import make_mask
from kdrift.mri.sense import sense_operator
from kdrift.trust.uncertainty import (
    RunningMoments,
    coverage,
    null_space_split,
    object_mask,
    sparsification_error,
    spearman,
    summary,
)


@given(
    st.integers(1, 12),
    st.lists(st.integers(1, 11), max_size=5),
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from([torch.float64, torch.complex128]),
)
@settings(max_examples=60, deadline=None)
def test_moments_are_the_same_for_any_split(count, cuts, rows, cols, dtype):
    torch.manual_seed(count)
    samples = 1e3 + torch.randn(count, rows, cols, dtype=dtype)
    edges = [0, *sorted({min(c, count) for c in cuts} - {0, count}), count]
    parts = [RunningMoments.of(samples[a:b]) for a, b in pairwise(edges)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert merged.count == count
    assert torch.allclose(merged.mean, samples.mean(0), rtol=1e-12, atol=0)
    expected = samples.std(0) if count > 1 else torch.zeros(rows, cols, dtype=torch.float64)
    assert torch.allclose(merged.std, expected, rtol=1e-9, atol=1e-9)


def test_moments_need_samples_of_one_shape():
    with pytest.raises(ValueError, match="at least one sample"):
        RunningMoments.of(torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"shape \(3,\) here and \(4,\) there"):
        RunningMoments.of(torch.zeros(2, 3)).merge(RunningMoments.of(torch.zeros(2, 4)))


@given(st.integers(2, 80), st.integers(1, 20), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_spearman_agrees_with_scipy_with_ties(count, distinct, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, distinct + 1, count), rng.integers(0, distinct + 1, count)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        with pytest.raises(ValueError, match="constant"):
            spearman(torch.as_tensor(x), torch.as_tensor(y))
        return
    assert spearman(torch.as_tensor(x), torch.as_tensor(y)) == pytest.approx(spearmanr(x, y)[0], abs=1e-12)


def test_spearman_looks_where_the_mask_is_set():
    std, error = torch.rand(2, 9, 9), torch.rand(2, 9, 9)
    mask = torch.zeros(9, 9, dtype=torch.bool)
    mask[2:5] = True
    error[:, 2:5] = std[:, 2:5] ** 3
    assert spearman(std, error, mask) == pytest.approx(1)
    with pytest.raises(ValueError, match="leaves 0 pixels"):
        spearman(std, error, mask & False)
    with pytest.raises(ValueError, match=r"error has shape \(9, 9\), std has \(2, 9, 9\)"):
        spearman(std, error[0])
    with pytest.raises(ValueError, match="std is complex"):
        spearman(std + 0j, error)


def test_coverage_of_a_calibrated_posterior_is_nominal():
    truth, spread = torch.randn(400, 400), torch.rand(400, 400) + 0.1
    mean = truth + spread * torch.randn(400, 400)
    for level, found in coverage(mean, spread, truth).items():
        assert found == pytest.approx(level, abs=0.01)


def test_coverage_of_a_few_samples_is_nominal_by_student():
    draws = torch.randn(9, 300, 300)
    moments = RunningMoments.of(draws[:8])
    exact = coverage(moments.mean, moments.std, draws[8], num_samples=8)
    plain = coverage(moments.mean, moments.std, draws[8])
    for level in exact:
        assert exact[level] == pytest.approx(level, abs=0.01)
        assert plain[level] < level - 0.02
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        coverage(moments.mean, moments.std, draws[8], [1.0])
    with pytest.raises(ValueError, match="at least 2"):
        coverage(moments.mean, moments.std, draws[8], num_samples=1)


def test_sparsification_orders_good_useless_and_bad_maps():
    error = torch.randn(100, 100)
    perfect = sparsification_error(error.abs(), error)
    useless = sparsification_error(torch.rand(100, 100), error)
    inverse = sparsification_error(-error.abs(), error)
    assert perfect.ause == pytest.approx(0, abs=1e-12)
    assert useless.ause == pytest.approx(useless.ause_random, abs=0.03)
    assert inverse.ause > useless.ause > perfect.ause
    assert float(perfect.curve[0]) == pytest.approx(1)
    assert perfect.curve.diff().max() <= 0
    with pytest.raises(ValueError, match="zero everywhere"):
        sparsification_error(error, 0 * error)


def test_null_space_split_of_plain_sampling():
    mask = make_mask("random", (12, 16), acceleration=2, seed=0).mask
    samples = torch.randn(200, 12, 16, dtype=torch.complex128)
    split = null_space_split(Sampling((12, 16), mask), samples)
    assert split.null_fraction == pytest.approx(float((~mask).double().mean()), abs=0.02)
    assert float(split.measured_std[~mask].max()) < 1e-9
    assert float(split.null_std[mask].max()) < 1e-5
    both = (split.measured_std.square() + split.null_std.square()).sqrt()
    assert torch.allclose(both, samples.std(0), rtol=1e-5)


def test_null_space_split_of_a_multi_coil_operator_by_its_singular_vectors():
    torch.manual_seed(1)
    mask = make_mask("random", (10, 12), acceleration=3, acs_lines=2, seed=0).mask
    smaps = normalise_maps(torch.randn(2, 10, 12, dtype=torch.complex128))
    operator = sense_operator(smaps, mask)
    basis = torch.eye(120, dtype=torch.complex128).reshape(120, 10, 12)
    values, vectors = torch.linalg.eigh(operator.normal(basis).reshape(120, 120).T)
    null = vectors[:, values < 1e-9]
    samples = torch.randn(6, 10, 12, dtype=torch.complex128)
    split = null_space_split(operator, samples, lam=1e-9, max_iter=500)
    deviation = (samples - samples.mean(0)).reshape(6, 120).T
    expected = (null @ (null.mH @ deviation)).abs().square().sum(1).div(5).sqrt().reshape(10, 12)
    assert 0 < null.shape[1] < 120
    assert torch.allclose(split.null_std, expected, atol=1e-4)


def test_null_space_of_the_identity_is_empty():
    split = null_space_split(Identity((5, 6)), torch.randn(3, 5, 6, dtype=torch.complex64))
    assert split.null_fraction < 1e-9
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        null_space_split(Identity((5, 6)), torch.randn(1, 5, 6, dtype=torch.complex64))


def test_the_object_is_the_largest_part_filled_and_closed():
    y, x = np.mgrid[-32:32, -32:32]
    head = np.hypot(y, x) < 20
    image = np.where(head & ~(np.hypot(y, x - 8) < 5), 1.0, 0.02)  # a hole inside of it
    image[:, 32:34] = 0.02  # a gap of two pixels through it
    image[2:6, 2:6] = 3.0  # bright, small, and apart
    stack = torch.from_numpy(np.stack([image, 100 * image, 0 * image]))
    found = object_mask(stack)
    assert found.dtype == torch.bool
    assert not bool(found[2].any())
    assert torch.equal(found[0], found[1])
    assert not bool(found[0, :8, :8].any())
    assert int((found[0].numpy() ^ head).sum()) < 0.02 * head.sum()
    whole = object_mask(torch.ones(3, 9, 7))
    assert bool(whole.all()), "what touches the margin is not eaten"


def test_summary_knows_a_deviation_that_is_right():
    rng = torch.Generator().manual_seed(4)
    y, x = torch.meshgrid(*(torch.arange(96.0) - 48,) * 2, indexing="ij")
    inside = torch.hypot(y, x) < 40
    std = torch.where(inside, 0.02 + 0.05 * (1 + torch.sin(y / 9)), 0.001).expand(2, 96, 96)
    truth = torch.where(inside, 1.0, 0.0).expand(2, 96, 96)
    mean = truth + std * torch.randn(2, 96, 96, generator=rng)
    found = summary(mean, std, truth, 0.8)
    count = 2 * int(inside.sum())
    assert abs(found["coverage"] - 0.8) < 5 * (0.8 * 0.2 / count) ** 0.5
    assert found["std_error_ratio"] == pytest.approx(1, abs=0.03)
    assert found["std_error_rank_correlation"] > 0.9
    assert found["ause"] < 0.7 * found["ause_random"]
    half = summary(mean, 0.5 * std, truth, 0.8)
    assert half["std_error_ratio"] == pytest.approx(0.5 * found["std_error_ratio"])
    assert half["coverage"] < 0.55
    outside = mean + torch.where(inside, 0.0, 7.0)
    assert summary(outside, std, truth, 0.8) == found, "what is not object does not count"
    silent = torch.stack([std[0], 0 * std[0]])
    assert summary(mean, silent, truth, 0.8) == summary(mean[:1], std[:1], truth[:1], 0.8)
    assert summary(mean, 0 * std, truth) == {}
    assert summary(mean, std, 0 * truth) == {}
    assert set(summary(truth, std, truth)) == {"coverage"}
    assert "std_error_rank_correlation" not in summary(mean, 0 * std + 1, truth)
    with pytest.raises(ValueError, match="expected one"):
        summary(mean[0], std, truth)
    with pytest.raises(ValueError, match="between 0 and 1"):
        summary(mean, std, truth, 1.0)
