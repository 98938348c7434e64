"""Looks at chains while they run: the last one is the result, and none that is not taken costs anything."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

import kdrift.recon.guard
from kdrift.data.phantom import phantom_volume
from kdrift.recon.chunks import Chunk
from kdrift.recon.gather import SliceFacts, share
from kdrift.recon.looks import Look, SoFar, so_far
from kdrift.recon.merge import merge_chunks
from kdrift.recon.plan import Plan
from kdrift.recon.sampling import Show
from kdrift.recon.slices import RawSlice, SliceData, prepare_slice
from recon_helpers import Runner, phantom_slice, resolve, tiny_prior
from test_host_waits import ASKS, Waits


@pytest.fixture(scope="module")
def data() -> SliceData:
    return phantom_slice()


def runner(method: str, num_steps: int = 4, **values: object) -> Runner:
    plan = Plan(method, settings={"num_steps": num_steps}, num_samples=4, precision="float32", check=False)
    return resolve(replace(plan, **values), tiny_prior())  # type: ignore[arg-type]


@pytest.mark.parametrize(("method", "parts"), [("annealed", 2), ("score_mri_ssos", 6), ("score_mri_hybrid", 1)])
def test_the_last_look_is_the_result(method: str, parts: int, data: SliceData) -> None:
    made = runner(method, settings={"num_steps": 4} | ({"keep_measured": False} if method == "annealed" else {}))
    chunks = made.plan.split(4, parts)
    last: dict[Chunk, Look] = {}

    def watching(chunk: Chunk) -> None:
        def steps(done: int, total: int, show: Show) -> None:
            if done == total:
                look = show()
                assert look is not None
                last[chunk] = look

        results.append(made.run_chunk(data, chunk, steps))

    results: list[object] = []
    for number, chunk in enumerate(chunks):
        found = so_far(list(last.values()), chunks)
        assert found is None or number > 0
        watching(chunk)
    merged = merge_chunks(results)  # type: ignore[arg-type]
    found = so_far(list(last.values()), chunks)
    assert found is not None
    assert float((found.mean - merged.mean).abs().max()) <= 1e-5 * float(merged.mean.max())
    if method != "annealed":  # whose samples are put in agreement with the data after their last step
        assert float((found.std - merged.std).abs().max()) <= 1e-4 * float(merged.mean.max())
    assert found.chains == made.num_samples + made.plan.num_means
    assert found.residual == pytest.approx(share(SliceFacts.of(data, 0.0), merged), rel=1e-4)


def look(first: int, images: torch.Tensor, coils: tuple[int, int] | None = None) -> Look:
    return Look(Chunk((first, first + len(images)), coils), images, torch.ones(len(images)), 4.0)


def test_what_is_not_whole_is_left_out() -> None:
    ones = torch.ones(2, 4, 4)
    lower, upper = look(0, 3 * ones, (0, 2)), look(0, 4 * ones, (2, 4))
    assert so_far([lower], [lower.chunk, upper.chunk]) is None, "half of the coils are no image"
    found = so_far([upper, lower], [lower.chunk, upper.chunk])
    assert isinstance(found, SoFar)
    assert torch.equal(found.mean, 5 * ones[0])
    diverged = torch.stack([ones[0], torch.full((4, 4), torch.nan)])
    found = so_far([look(0, ones), look(2, diverged)], [Chunk((0, 2)), Chunk((2, 4))])
    assert found is not None
    assert (found.chains, found.residual) == (3, 0.5)
    assert so_far([look(0, diverged[1:])], [Chunk((0, 1))]) is None
    assert so_far([], [Chunk((0, 1))]) is None


def test_large_images_are_thinned_out(data: SliceData) -> None:
    from kdrift.recon.looks import look_at

    large = phantom_volume(1, 400, 800, 2, seed=1)
    mask = torch.ones(400, 800, dtype=torch.bool)
    slice_data = prepare_slice(RawSlice(0, torch.as_tensor(large.kspace[0]), mask))
    measurement = slice_data.measurement(runner("annealed").plan.method.chains)
    shown = look_at(slice_data, measurement, Chunk((0, 1)), torch.ones(1, 400, 800, dtype=torch.complex64))
    assert shown.images.shape == (1, 134, 267)


@pytest.mark.parametrize("method", ["annealed", "score_mri_ssos"])
def test_a_step_whose_images_nobody_looks_at_does_not_wait(
    method: str, data: SliceData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kdrift.recon.guard, "asks_freely", lambda device: False)
    monkeypatch.setattr("kdrift.mri.cg.asks_freely", lambda device: False)
    found = []
    for num_steps in (8, 16):
        with Waits() as waits:
            runner(method, num_steps).run_chunk(data, Chunk((0, 2)), lambda done, total, show: None)
        found.append(Counter({at: count for at, count in waits.found.items() if at[0] in ASKS}))
    assert not found[1] - found[0], f"8 more steps wait {dict(found[1] - found[0])}"
