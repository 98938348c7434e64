"""Work that shares the network's batches: each piece gets what it gets alone, and ends as it ends alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from kdrift.data.phantom import phantom_volume
from kdrift.methods import METHODS
from kdrift.prior.network_score import NetworkScore
from kdrift.prior.shared_calls import Fill, run_together
from kdrift.recon.chunks import Chunk, ChunkResult
from kdrift.recon.plan import Plan
from kdrift.recon.sampling import run_chunk
from kdrift.recon.slices import RawSlice
from recon_helpers import tiny_prior


def raw(coils: int, every: int, seed: int, size: int = 32) -> RawSlice:
    kspace = torch.as_tensor(phantom_volume(1, size, size, coils, seed=seed).kspace)[0]
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[:, ::every] = mask[:, size // 2 - 7 : size // 2 + 7] = True
    return RawSlice(seed, torch.where(mask, kspace, 0), mask)


def pieces(method: str, *, of: int = 3, **values: Any) -> list[Callable[[], ChunkResult]]:
    """Chains of slices that differ in coils, masks, noise levels, seeds and number of samples."""
    prior = tiny_prior()
    works = []
    for number in range(of):
        plan = Plan(method, num_samples=1 + number % 2, seed=number, precision="float32", check=False, **values)
        resolved = plan.resolve(prior)
        data = resolved.prepare(raw(2 + number, 2 + number % 2, number), prior)
        works.append(partial(run_chunk, resolved, prior, data, resolved.split(len(data.kspace))[0]))
    return works


STEPS = {"settings": {"num_steps": 4}}


@pytest.mark.parametrize(
    ("method", "values"),
    [("annealed", STEPS), ("dds", STEPS), ("score_mri_hybrid", STEPS), ("score_mri_ssos", STEPS), ("red_diff", STEPS)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_gets_what_it_gets_alone(method: str, values: dict[str, Any]) -> None:
    works, fill, alone = pieces(method, **values), Fill(), Fill()
    expected = [run_together([work], alone)[0] for work in works]
    for found, one in zip(run_together(works, fill), expected, strict=True):
        assert isinstance(found, ChunkResult)
        assert isinstance(one, ChunkResult)
        assert found.moments is not None
        assert one.moments is not None
        assert float((found.moments.mean - one.moments.mean).abs().max() / one.moments.mean.max()) < 1e-5
        assert (found.nfe, found.network_images) == (one.nfe, one.network_images)
    assert fill.images == alone.images
    assert fill.room < alone.room, "fewer batches, and fuller ones"


def test_coil_maps_and_the_check_share_batches_too() -> None:
    prior = tiny_prior()
    plans = [Plan(num_samples=2, seed=seed, precision="float32", **STEPS).resolve(prior) for seed in (0, 1)]
    slices = [raw(4, 2, seed) for seed in (0, 1)]
    alone = [plan.prepare(each, prior) for plan, each in zip(plans, slices, strict=True)]
    fill = Fill()
    works = [partial(plan.prepare, each, prior) for plan, each in zip(plans, slices, strict=True)]
    for found, expected in zip(run_together(works, fill), alone, strict=True):
        assert not isinstance(found, BaseException)
        torch.testing.assert_close(found.smaps, expected.smaps, rtol=1e-4, atol=1e-5)
    assert not plans[0].fits_maps or fill.images
    checks = [partial(run_chunk, p, prior, d, Chunk((0, 2), part="check")) for p, d in zip(plans, alone, strict=True)]
    for found, work in zip(run_together(checks, fill), checks, strict=True):
        assert isinstance(found, ChunkResult)
        assert found.checked is not None
        expected = work().checked
        assert expected is not None
        assert found.checked.verdict.level == expected.verdict.level


@pytest.mark.parametrize("method", [name for name, each in METHODS.items() if each.needs == "white"])
def test_a_method_says_whether_it_differentiates_the_network(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    differentiated = set[bool]()
    asked = NetworkScore.__call__

    def seen(self: NetworkScore, x: torch.Tensor, sigma: Any) -> torch.Tensor:
        differentiated.add(x.requires_grad and torch.is_grad_enabled())
        return asked(self, x, sigma)

    monkeypatch.setattr(NetworkScore, "__call__", seen)

    class Enough(Exception):
        pass

    def steps(done: int, total: int, show: Any) -> None:
        raise Enough

    prior = tiny_prior()
    plan = Plan(method, num_samples=1, check=False, maps="espirit").resolve(prior)
    data = plan.prepare(raw(4, 2, 0), prior)
    differentiated.clear()
    with pytest.raises(Enough):
        run_chunk(plan, prior, data, plan.split(4)[0], steps)
    assert differentiated == {METHODS[method].through_network}


def test_one_that_fails_or_is_stopped_costs_itself_alone() -> None:
    good, stopped, bad = pieces("annealed", **STEPS)

    class Stopped(Exception):
        pass

    def stop(done: int, total: int, show: Any) -> None:
        if done == 2:
            raise Stopped

    def fail() -> ChunkResult:
        raise ValueError("no such slice")

    found = run_together([partial(stopped, steps=stop), good, fail, bad])
    assert isinstance(found[0], Stopped)
    assert str(found[2]) == "no such slice"
    for each, work in ((found[1], good), (found[3], bad)):
        assert isinstance(each, ChunkResult)
        assert each.moments is not None
        expected = work().moments
        assert expected is not None
        torch.testing.assert_close(each.moments.mean, expected.mean, rtol=1e-5, atol=1e-5)


def test_a_batch_that_memory_does_not_hold_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    works, sizes = pieces("annealed", of=4, **STEPS), list[int]()
    expected = [work() for work in works]
    asked = NetworkScore._network

    def short(self: NetworkScore, images: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        if len(images) > 3:
            raise torch.OutOfMemoryError("out of memory")
        sizes.append(len(images))
        return asked(self, images, levels)

    monkeypatch.setattr(NetworkScore, "_network", short)
    for found, one in zip(run_together(works), expected, strict=True):
        assert isinstance(found, ChunkResult)
        assert found.moments is not None
        assert one.moments is not None
        torch.testing.assert_close(found.moments.mean, one.moments.mean, rtol=1e-5, atol=1e-5)
    assert max(sizes) in (2, 3)

    def none(self: NetworkScore, images: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(NetworkScore, "_network", none)
    assert all(isinstance(found, torch.OutOfMemoryError) for found in run_together(works))
