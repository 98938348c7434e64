"""A slice is checked on samples that are held out: what that finds, and what it leaves as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kdrift.data.phantom import phantom_volume
from kdrift.mri.masks import make_mask
from kdrift.prior.bundle import load_prior
from kdrift.recon.check import CLASSICAL, classical_image, hold_out, noise_left
from kdrift.recon.chunks import Chunk
from kdrift.recon.merge import SliceResult, merge_chunks
from kdrift.recon.plan import Plan
from kdrift.recon.resolved import ResolvedPlan
from kdrift.recon.sampling import run_chunk
from kdrift.recon.slices import RawSlice, SliceData
from kdrift.trust.verdict import SAMPLER

PLAN = Plan(settings={"num_steps": 6}, num_samples=3, precision="float32")
PRIOR = load_prior("brain-complex")


@pytest.fixture(scope="module")
def raw() -> RawSlice:
    volume = phantom_volume(1, 64, 64, 4, seed=1)
    mask = make_mask("equispaced", (64, 64), acceleration=2, acs_lines=12, seed=0).mask
    return RawSlice(3, torch.where(mask, torch.as_tensor(volume.kspace[0]), 0), mask)


@pytest.fixture(scope="module")
def data(raw: RawSlice) -> SliceData:
    return PLAN.resolve(PRIOR).prepare(raw, PRIOR)


def done(plan: ResolvedPlan, data: SliceData, num_chunks: int = 1) -> SliceResult:
    return merge_chunks([run_chunk(plan, PRIOR, data, chunk) for chunk in plan.split(len(data.kspace), num_chunks)])


def test_chains_of_the_mean_and_of_the_spread_have_settings_of_their_own(data: SliceData) -> None:
    plan = PLAN.resolve(PRIOR)
    parts = {chunk.part: chunk for chunk in plan.split(4)}
    assert list(parts) == ["mean", "samples", "check"]
    assert not plan.options_of("mean").draws
    assert plan.options_of("samples").draws
    assert plan.evaluations(4) == 2 * 6 + 3 * 6 + 2 * 6 + 2 * 6
    kept = replace(PLAN, keep_samples=True).resolve(PRIOR)
    result = done(kept, data)
    means = merge_chunks([run_chunk(kept.mean_alone(), PRIOR, data, Chunk((0, 2), part="mean")),
                          run_chunk(kept, PRIOR, data, Chunk((0, 3)))])  # fmt: skip
    assert torch.equal(result.mean, means.mean)
    assert result.samples is not None
    assert result.samples.shape == (3, 64, 64)
    assert not torch.equal(result.samples.mean(0), result.mean)


def test_an_answer_does_not_depend_on_how_its_chains_are_split(data: SliceData) -> None:
    plan = PLAN.resolve(PRIOR)
    one, three = done(plan, data), done(plan, data, 3)
    torch.testing.assert_close(one.mean, three.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.std, three.std, rtol=1e-3, atol=1e-5)
    assert one.verdict == three.verdict


def test_a_check_changes_the_deviation_and_nothing_else(data: SliceData) -> None:
    checked, not_checked = done(PLAN.resolve(PRIOR), data), done(replace(PLAN, check=False).resolve(PRIOR), data)
    assert torch.equal(checked.mean, not_checked.mean)
    assert not_checked.verdict is None
    assert checked.verdict is not None
    assert set(checked.verdict.evidence.predictions) == {SAMPLER, *CLASSICAL}
    assert not torch.equal(checked.std, not_checked.std)


def test_one_preset_that_draws_gives_both(data: SliceData) -> None:
    plan = replace(PLAN, preset="posterior", check=False, keep_samples=True).resolve(PRIOR)
    assert plan.spread is None
    assert [chunk.part for chunk in plan.split(4)] == ["samples"]
    result = done(plan, data)
    assert result.samples is not None
    torch.testing.assert_close(result.samples.mean(0), result.mean)
    torch.testing.assert_close(result.samples.std(0), result.std)


def test_nothing_that_is_held_out_is_seen(data: SliceData) -> None:
    seen, groups = hold_out(data, 0)
    unseen = torch.stack([group.mask for group in groups]).any(0)
    assert bool(unseen.any())
    assert not (seen.mask & unseen).any()
    assert not seen.kspace[:, unseen].any()
    assert seen.heldout is not None
    assert torch.equal(seen.kspace + seen.heldout.kspace, data.kspace)
    assert torch.equal(seen.smaps, data.smaps)
    full = replace(data, mask=torch.ones_like(data.mask))
    assert hold_out(full, 0) == (full, [])


def test_a_slice_that_the_sampler_ruins_is_given_by_another_method(
    data: SliceData, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(PLAN, settings={"num_steps": 2, "sigma_max": 3.0}, on_mistrust="fallback").resolve(PRIOR)
    result = done(plan, data)
    assert result.verdict is not None
    assert result.verdict.level == "not trusted"
    assert result.verdict.given in CLASSICAL
    given = classical_image(data, result.verdict.given)
    assert torch.equal(result.mean, given.image)
    assert result.misfit == pytest.approx(given.misfit)
    kept = done(replace(PLAN, settings={"num_steps": 2, "sigma_max": 3.0}).resolve(PRIOR), data)
    assert kept.verdict is not None
    assert (kept.verdict.level, kept.verdict.given) == ("not trusted", "")
    assert not torch.equal(kept.mean, given.image)


def test_a_prior_leaves_more_noise_on_what_it_does_not_know(data: SliceData) -> None:
    score, table = PLAN.resolve(PRIOR).score(PRIOR), PRIOR.info.noise_left
    head = (data.zero_filled / data.scale) + 0j
    torch.manual_seed(0)
    strange = torch.where(torch.rand(64, 64) < 0.5, 0.2, 1.0) + 0j
    known, unknown = noise_left(score, head, table, 0, 0), noise_left(score, strange, table, 0, 0)
    assert known is not None
    assert unknown is not None
    assert unknown > 1.5 * known
    assert noise_left(score, head, (), 0, 0) is None
    noisy = head + 0.05 * torch.view_as_complex(torch.randn(64, 64, 2))
    told, untold = (noise_left(score, noisy, table, 0, 0, noise=noise) for noise in (0.05, 0.0))
    assert told is not None
    assert untold is not None
    assert abs(told - known) < abs(untold - known)
