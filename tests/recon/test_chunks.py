"""Splitting chains and merging chunks: every split and every order gives the same mean and deviation."""

from __future__ import annotations

import random

import pytest
import torch

from kdrift.recon.chunks import Chunk, split_chains
from kdrift.recon.merge import merge_chunks
from kdrift.recon.plan import Plan
from kdrift.recon.slices import SliceData
from kdrift.runs.hardware import has_fast_bfloat16
from recon_helpers import Runner, phantom_slice, resolve, tiny_prior


@pytest.fixture(scope="module")
def data() -> SliceData:
    return phantom_slice()


def _runner(method: str, num_samples: int) -> Runner:
    plan = Plan(method, settings={"num_steps": 3}, num_samples=num_samples, keep_samples=True, precision="float32")
    return resolve(plan, tiny_prior())


@pytest.mark.parametrize("num_samples", [1, 2, 5, 16])
@pytest.mark.parametrize("num_chunks", [1, 2, 3, 8])
@pytest.mark.parametrize("num_coils", [None, 1, 4])
def test_split_covers_every_chain_once(num_samples: int, num_chunks: int, num_coils: int | None) -> None:
    chunks = split_chains(num_samples, num_coils=num_coils, num_chunks=num_chunks, batch_samples=4)
    chains = [
        (sample, coil)
        for chunk in chunks
        for sample in range(*chunk.samples)
        for coil in range(*(chunk.coils or (0, num_coils or 1)))
    ]
    assert sorted(chains) == [(sample, coil) for sample in range(num_samples) for coil in range(num_coils or 1)]
    assert max(chunk.num_samples for chunk in chunks) <= 4
    assert len(chunks) >= min(num_chunks, num_samples * (num_coils or 1))


def test_split_is_a_multiple_of_the_replicas() -> None:
    assert len(split_chains(24, num_chunks=2, batch_samples=8)) == 4
    assert split_chains(2, num_coils=5, num_chunks=4) == [
        Chunk((0, 1), (0, 2)), Chunk((0, 1), (2, 5)), Chunk((1, 2), (0, 2)), Chunk((1, 2), (2, 5))
    ]  # fmt: skip
    with pytest.raises(ValueError, match="at least 1, got 0"):
        split_chains(0)


@pytest.mark.parametrize("method", ["annealed", "score_mri_ssos", "score_mri_hybrid"])
def test_any_split_in_any_order_gives_the_same_answer(method: str, data: SliceData) -> None:
    runner = _runner(method, 4)
    whole = merge_chunks([runner.run_chunk(data, chunk) for chunk in split_chains(4)])
    coils = len(data.kspace) if runner.splits_coils else None
    for num_chunks in (2, 3, 8):
        chunks = split_chains(4, num_coils=coils, num_chunks=num_chunks)
        found = [runner.run_chunk(data, chunk) for chunk in chunks]
        random.Random(0).shuffle(found)
        merged = merge_chunks(found)
        scale = float(whole.mean.max())
        torch.testing.assert_close(merged.mean, whole.mean, rtol=0, atol=1e-5 * scale)
        torch.testing.assert_close(merged.std, whole.std, rtol=0, atol=1e-5 * scale)
        assert merged.samples is not None
        assert merged.samples.shape == (4, 32, 32)
        assert merged.misfit == pytest.approx(whole.misfit, rel=1e-4)
        assert merged.network_images == whole.network_images
        assert merged.nfe == whole.nfe == runner.plan.options.evaluations  # of one chain, however many chunks
        assert sum(merged.stages.values()) == pytest.approx(sum(sum(part.stages.values()) for part in found))


@pytest.mark.skipif(not has_fast_bfloat16(torch.device("cpu")), reason="the processor has no bfloat16")
def test_bfloat16_gives_the_same_answer_for_any_split(data: SliceData) -> None:
    """The network sees other batches, and rounds as it does alone."""
    runner = resolve(Plan("annealed", settings={"num_steps": 6}, num_samples=4))
    whole = merge_chunks([runner.run_chunk(data, chunk) for chunk in split_chains(4)])
    exact = resolve(Plan("annealed", settings={"num_steps": 6}, num_samples=4, precision="float32"))
    assert not torch.equal(merge_chunks([exact.run_chunk(data, Chunk((0, 4)))]).mean, whole.mean)
    for num_chunks in (2, 3, 4):
        merged = merge_chunks([runner.run_chunk(data, chunk) for chunk in split_chains(4, num_chunks=num_chunks)])
        scale = float(whole.mean.max())
        torch.testing.assert_close(merged.mean, whole.mean, rtol=0, atol=1e-5 * scale)
        torch.testing.assert_close(merged.std, whole.std, rtol=0, atol=1e-5 * scale)


def test_what_cannot_be_merged_or_split_is_named(data: SliceData) -> None:
    runner = _runner("annealed", 2)
    second = runner.run_chunk(data, Chunk((1, 2)))
    with pytest.raises(ValueError, match="hold samples 1 to 1, expected the next to start at 0"):
        merge_chunks([second])
    with pytest.raises(ValueError, match="at least one chunk"):
        merge_chunks([])
    with pytest.raises(ValueError, match="coils of annealed cannot be split"):
        runner.run_chunk(data, Chunk((0, 1), (0, 2)))
