"""The divergence guard: what passes, what is stopped, and that what is left is untouched, however chains are split."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdrift.data.phantom import phantom_volume
from kdrift.methods import COILS, COUPLED_COILS, IMAGES, METHODS, ChainNoise, Chains, Measurement, Method, Options
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.mri.masks import make_mask
from kdrift.networks import NCSNppConfig, NetworkConfig, build_network
from kdrift.prior.bundle import Prior
from kdrift.prior.prior_info import PriorInfo
from kdrift.recon.chunks import Chunk, ChunkResult, split_chains
from kdrift.recon.guard import AllDiverged, Diverged, Guard
from kdrift.recon.merge import merge_chunks
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct
from kdrift.recon.result import ReconstructionResult
from kdrift.recon.slices import RawSlice, SliceData, prepare_slice
from kdrift.sde import HighFrequencyNoise, LowFrequencies, WhiteNoise
from recon_helpers import Runner, resolve

CONFIG = NetworkConfig(
    NCSNppConfig(image_size=32, nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), middle_attention=False,
                 centered=True, scale_by_sigma=False, init_scale=0.1),
    preconditioning="edm",
)  # fmt: skip
INFO = PriorInfo(WhiteNoise(0.01, 5.0))
WHITE = [name for name, method in METHODS.items() if method.needs == "white"]
NUM_COILS = 3


@pytest.fixture(scope="module")
def prior() -> Prior:
    torch.manual_seed(0)
    return Prior("tiny", build_network(CONFIG).eval(), CONFIG, INFO, "0" * 64)


@pytest.fixture(scope="module")
def kspace() -> Tensor:
    return torch.as_tensor(phantom_volume(2, 32, 32, NUM_COILS, seed=1).kspace)


@pytest.fixture(scope="module")
def mask() -> Tensor:
    return make_mask("equispaced", (32, 32), acceleration=2, acs_lines=12).mask


@pytest.fixture(scope="module")
def data(kspace: Tensor, mask: Tensor) -> SliceData:
    return prepare_slice(RawSlice(3, torch.where(mask, kspace[0], 0), mask))


def broken(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[int, Tensor, Tensor], Tensor]) -> None:
    """Let every prior's score pass through `spoil(number of the call, x, score)`."""
    original = Prior.score

    class Broken:
        def __init__(self, score: Any) -> None:
            self._score, self._calls = score, itertools.count()

        def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
            return spoil(next(self._calls), x, self._score(x, sigma))

        @property
        def num_images(self) -> int:
            return int(self._score.num_images)

    monkeypatch.setattr(Prior, "score", lambda self, **options: Broken(original(self, **options)))


def plan(method: str, steps: int = 6, **values: Any) -> Plan:
    steps = max(steps, 60) if method.startswith("pc_") else steps  # their steps are too large with fewer
    return Plan(method, settings={"num_steps": steps}, precision="float32", **values)


@pytest.mark.parametrize("steps", [4, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", WHITE)
def test_healthy_runs_pass(method: str, steps: int, data: SliceData, prior: Prior) -> None:
    for preset in METHODS[method].presets:
        if (method, preset) == ("csgm_langevin", "paper"):
            continue  # diverges with scores that grow with the noise, see its card
        runner = resolve(replace(plan(method, steps, num_samples=2), preset=preset), prior)
        assert runner.run_chunk(data, Chunk((0, 2))).diverged == (), preset


def test_healthy_runs_of_the_shipped_prior_pass(data: SliceData) -> None:
    for method in ("annealed", "score_mri"):
        assert resolve(plan(method, 5, num_samples=1)).run_chunk(data, Chunk((0, 1))).diverged == ()


@pytest.mark.parametrize("method", [name for name in WHITE if name != "red_diff"])  # Adam's steps are bounded
def test_a_score_of_the_wrong_sign_is_stopped(
    method: str, kspace: Tensor, mask: Tensor, prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, lambda call, x, score: -score)
    steps: list[int] = []
    with pytest.raises(Diverged, match=r"slice 7: all 2 samples diverged, sample \d at step \d+ of \d+: .*fallback"):
        reconstruct(
            kspace[:1], mask, plan=plan(method, 40, num_samples=2), prior=prior, slice_indices=[7],
            progress=lambda position, done, total: steps.append(done),
        )  # fmt: skip
    assert len(steps) < 39  # stopped on the way


def test_a_silly_step_size_is_stopped(kspace: Tensor, mask: Tensor, prior: Prior) -> None:
    silly = Plan("score_mri", settings={"num_steps": 30, "snr": 50.0}, num_samples=1)
    with pytest.raises(Diverged, match="slice 0: the sample diverged, sample 0 at step"):
        reconstruct(kspace[:1], mask, plan=silly, prior=prior)


@pytest.mark.parametrize("method", ["annealed", "score_mri", "score_mri_ssos", "score_mri_hybrid"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e3, 1e6])
def test_a_diverged_chain_leaves_the_others_as_they_are(
    method: str, value: float, kspace: Tensor, mask: Tensor, prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = plan(method, num_samples=4, keep_samples=True)
    if method == "annealed":  # its preset starts where even this is bounded
        chosen = replace(chosen, settings={**chosen.settings, "sigma_max": 3.0})
    resolved = chosen.resolve(prior).mean_alone()
    # at their own noise the data would hold even this chain
    good = reconstruct(kspace[:1], mask, plan=resolved, prior=prior, noise_sigma=0.05)

    def spoil(call: int, x: Tensor, score: Tensor) -> Tensor:
        if call < 3:
            return score
        row = score[1] if score.ndim == 3 else score[1, 0]  # one coil is enough
        row.copy_(-value * x[1].reshape(-1, 32, 32)[0])
        return score

    broken(monkeypatch, spoil)
    found = reconstruct(kspace[:1], mask, plan=resolved, prior=prior, noise_sigma=0.05)
    assert good.diverged == {}
    assert list(found.diverged) == [0]
    assert list(found.diverged[0]) == [1]
    assert " of 6: " in found.diverged[0][1]
    assert found.fallback == []
    assert good.samples is not None
    assert found.samples is not None
    others = [0, 2, 3]
    assert torch.equal(found.samples[:, others], good.samples[:, others])
    assert bool(found.samples[:, 1].isnan().all())
    torch.testing.assert_close(found.mean, good.samples[:, others].mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.std, good.samples[:, others].std(1), rtol=1e-5, atol=1e-7)


@dataclass(frozen=True)
class ExplodingOptions(Options):
    """Settings of a sampler some of whose chains explode."""

    num_steps: int = 5
    threshold: float = 0.5
    """Chains whose first noise is above it explode: that belongs to the chain, not to its batch."""

    @property
    def evaluations(self) -> int:
        return self.num_steps


def exploding(
    score: Any,
    sde: Any,
    measurement: Measurement,
    *,
    rng: ChainNoise,
    options: ExplodingOptions,
    callback: Any = None,
) -> Tensor:
    noise = rng(*measurement.kspace.shape[-2:])
    bad = (noise[..., :1, :1].real > options.threshold).expand(noise.shape)
    images = ifft2c(measurement.kspace)
    x = (images if len(rng.shape) == 2 else (measurement.smaps.conj() * images).sum(0)) + 0.1 * noise
    for step in range(options.num_steps):
        x = torch.where(bad, 30 * x, x)
        callback(step + 1, options.num_steps, x, 0.1)
    return x


def exploder(monkeypatch: pytest.MonkeyPatch, prior: Prior, chains: Any, **values: Any) -> Runner:
    method = Method(exploding, {"paper": ExplodingOptions()}, "explodes", chains)
    monkeypatch.setitem(METHODS, "exploding", method)
    return resolve(Plan("exploding", keep_samples=True, **values), prior)


def _cg_sense(data: SliceData) -> Tensor:
    method = METHODS["cg_sense"]
    return data.scale * method.function(data.measurement(), options=method.options())


def run(runner: Runner, data: SliceData, chunks: list[Chunk]) -> list[ChunkResult]:
    found = [runner.run_chunk(data, chunk) for chunk in chunks]
    random.Random(1).shuffle(found)
    return found


@pytest.mark.parametrize("chains", [IMAGES, COILS, COUPLED_COILS])
def test_any_split_leaves_out_the_same_samples(
    chains: Chains, data: SliceData, prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = exploder(monkeypatch, prior, chains, num_samples=12, settings={"threshold": 1.2})
    heldout = torch.zeros(32, 32, dtype=torch.bool)
    heldout[:, 3] = True
    data = prepare_slice(RawSlice(3, data.kspace, data.mask, data.smaps), heldout=heldout & data.mask)
    parts = NUM_COILS if chains.coil_images else None
    noise = ChainNoise(0, 3, range(12), parts)(32, 32)[..., 0, 0].real.reshape(12, -1)
    bad = (noise > 1.2).any(1).nonzero().flatten().tolist()
    assert 0 < len(bad) < 12
    whole = merge_chunks(run(runner, data, [Chunk((0, 12))]))
    assert list(whole.diverged) == bad
    coils = NUM_COILS if runner.splits_coils else None
    for num_chunks in (2, 5, 12, 24, 36):
        chunks = split_chains(12, num_coils=coils, num_chunks=num_chunks)
        merged = merge_chunks(run(runner, data, chunks))
        assert merged.diverged == whole.diverged
        assert not merged.fallback
        assert merged.samples is not None
        good = [sample for sample in range(12) if sample not in bad]
        torch.testing.assert_close(merged.mean, merged.samples[good].mean(0))
        torch.testing.assert_close(merged.mean, whole.mean)
        torch.testing.assert_close(merged.std, whole.std)
        assert bool(merged.samples[bad].isnan().all())
        assert merged.misfit == pytest.approx(whole.misfit, rel=1e-4)
        assert merged.heldout_misfit == pytest.approx(whole.heldout_misfit, rel=1e-4)


@pytest.mark.parametrize("chains", [IMAGES, COILS])
@pytest.mark.parametrize("num_chunks", [1, 3, 9])
def test_where_none_is_left(
    chains: Chains, num_chunks: int, data: SliceData, prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    # of coil chains every sample has a bad coil, and no coil is bad in all of them
    threshold = -0.2 if chains.coil_images else -9.0
    runner = exploder(monkeypatch, prior, chains, num_samples=3, settings={"threshold": threshold})
    chunks = split_chains(3, num_coils=NUM_COILS if runner.splits_coils else None, num_chunks=num_chunks)
    with pytest.raises(Diverged, match=r"slice 3: all 3 samples diverged, sample \d at step \d of 5: .* times what"):
        merge_chunks(run(runner, data, chunks))
    settings = {"threshold": threshold}
    other = exploder(monkeypatch, prior, chains, num_samples=3, settings=settings, on_divergence="fallback")
    merged = merge_chunks(run(other, data, chunks))
    assert merged.fallback
    assert list(merged.diverged) == [0, 1, 2]
    torch.testing.assert_close(merged.mean, _cg_sense(data).abs())
    assert float(merged.std.max()) == 0
    assert merged.samples is not None
    assert bool(merged.samples.isnan().all())
    residual = torch.where(data.mask, data.kspace - fft2c(data.smaps * _cg_sense(data)), 0)
    assert merged.misfit == pytest.approx(float(residual.abs().square().sum()), rel=1e-3)


def test_a_lost_slice_leaves_the_others(
    kspace: Tensor, mask: Tensor, prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the threshold lies between the two slices' first noise
    first = [float(ChainNoise(0, index, range(1))(32, 32)[0, 0, 0].real) for index in (0, 1)]
    settings = {"threshold": sum(first) / 2}
    exploder(monkeypatch, prior, IMAGES, settings=settings)
    chosen = Plan("exploding", settings=settings, num_samples=1, on_divergence="fallback", keep_samples=True)
    result = reconstruct(kspace, mask, plan=chosen, prior=prior)
    lost = first.index(max(first))
    assert result.fallback == [lost]
    assert list(result.diverged) == [lost]
    assert bool(result.mean.isfinite().all())
    assert result.samples is not None
    assert bool(result.samples[1 - lost].isfinite().all())
    strict = replace(chosen, on_divergence="error")
    without = reconstruct(kspace, mask, plan=strict, prior=prior)
    assert without.failed[lost].startswith(f"slice {lost}: the sample diverged")
    assert not without.mean[lost].any()
    torch.testing.assert_close(without.mean[1 - lost], result.mean[1 - lost])
    with pytest.raises(Diverged, match=f"slice {lost}: the sample diverged"):
        reconstruct(kspace[lost : lost + 1], mask, plan=strict, prior=prior, slice_indices=[lost])


def test_two_map_sets_fall_back_too(kspace: Tensor, mask: Tensor, prior: Prior) -> None:
    silly = {"num_steps": 20, "snr": 50.0}
    chosen = Plan("score_mri", settings=silly, num_samples=1, num_map_sets=2, on_divergence="fallback")
    result: ReconstructionResult = reconstruct(kspace[:1], mask, plan=chosen, prior=prior)
    assert result.fallback == [0]
    assert float(result.mean.max()) > 0


def test_bounds_follow_the_level_and_stop_when_none_is_left() -> None:
    mask, smaps = torch.ones(16, 16, dtype=torch.bool), torch.ones(1, 16, 16, dtype=torch.complex64)
    problem = Measurement(torch.zeros(1, 16, 16, dtype=torch.complex64), mask, smaps, 0.0)
    noise = ChainNoise(0, 0, range(2))(16, 16)
    guard = Guard(problem, 2)
    for done, level in enumerate((300.0, 100.0, 30.0, 10.0, 0.1, 0.01)):
        guard(done + 1, 8, level * noise, level)
    assert guard.divergences(0, 0) == ()
    guard(7, 8, torch.stack([noise[0], 10 * noise[1]]), 0.01)
    (found,) = guard.divergences(4, 6)
    assert (found.slice_index, found.sample, found.step, found.num_steps) == (4, 7, 7, 8)
    assert guard.healthy() == [0]
    with pytest.raises(AllDiverged):
        guard(8, 8, torch.stack([torch.nan * noise[0], noise[1]]), 0.01)
    assert guard.healthy() == []


def test_the_limit_is_five_times_what_is_explained() -> None:
    """Images of one brightness without data, noise or level: what is explained is the unit image, of rms UNIT."""
    size, mask = 16, torch.ones(16, 16, dtype=torch.bool)
    smaps, kspace = torch.ones(1, size, size, dtype=torch.complex64), torch.zeros(1, size, size, dtype=torch.complex64)
    everything = Measurement(kspace, mask, smaps, 0.0)
    nothing = Measurement(kspace, torch.zeros_like(mask), smaps, 0.0)  # the size of the image alone says it
    bright = 0.25 * torch.ones(size, size, dtype=torch.complex64)
    for problem in (everything, nothing):
        guard = Guard(problem, 3)
        guard.finish(torch.stack([bright, 4.95 * bright, 5.05 * bright]))
        (found,) = guard.divergences(0, 0)
        assert (found.sample, found.reason) == (2, "the image is 5.05 times what the data and the noise level explain")
    # a data residual beyond the limit, of an image that is not: half of k-space sampled, all energy of x there
    columns = torch.zeros(size, size, dtype=torch.bool)
    columns[:, size // 2] = True
    half = Measurement(kspace, columns, smaps, 0.0)
    for factor, marked in ((4.95, ()), (5.05, (0,))):
        guard = Guard(half, 1)
        guard.finish(factor / 4 * bright[None])  # its energy lies in the one column of 16: 4 times UNIT a point
        assert tuple(d.sample for d in guard.divergences(0, 0)) == marked
        assert all("data residual is 5.05" in d.reason for d in guard.divergences(0, 0))
    level = 0.3
    for factor, marked in ((4.95, ()), (5.05, (1,))):  # noise of two levels ago is explained
        guard = Guard(nothing, 2)
        for done in (1, 2):
            guard(done, 4, torch.stack([bright, bright]), level)
        guard(3, 4, torch.stack([bright, factor * (0.25 + level * 2**0.5) * bright / 0.25]), 0.0)
        assert tuple(d.sample for d in guard.divergences(0, 0)) == marked


def test_the_methods_own_prior_is_used_where_none_is_named(data: SliceData, prior: Prior) -> None:
    runner = resolve(plan("annealed", 2))
    assert runner.config["prior"]["name"] == "brain-complex"
    other = replace(prior, info=PriorInfo(HighFrequencyNoise(0.01, 5.0, LowFrequencies())))
    with pytest.raises(ValueError, match="needs a prior trained on white noise, tiny was trained on high_frequency"):
        resolve(plan("annealed", 2), other)


def test_real_images_need_a_magnitude_prior() -> None:
    sentence = "needs a prior of magnitude images, .* of complex images; .* serve it: brain-magnitude$"
    with pytest.raises(ValueError, match=sentence):
        resolve(plan("score_mri_real", 2), "brain-complex-small")
    assert resolve(plan("score_mri_real", 2)).config["prior"]["name"] == "brain-magnitude"
    assert resolve(plan("score_mri", 2), "brain-complex-small").config["prior"]["name"] == "brain-complex-small"
