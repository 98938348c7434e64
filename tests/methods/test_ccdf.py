"""Starting from another reconstruction (CCDF): every method that can, and how it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdrift.methods import METHODS, ChainNoise, Measurement, Options, StartOptions
from kdrift.methods.samplers.daps import DAPSOptions
from kdrift.methods.samplers.hfs_sde import GuidedPCOptions, HFSOptions
from kdrift.mri.sense import sense_operator
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct
from kdrift.runs.config import parse
from kdrift.sde import HighFrequencySDE, LowFrequencies
from kdrift_serve.job_request import from_query
from kdrift_serve.problems import Problem
from recon_helpers import resolve, tiny_prior
from test_samplers import SDE, TAU, _complex, _problem, gaussian_score

ABLE = [name for name, method in METHODS.items() if issubclass(method.options, StartOptions)]
GUIDED = ("pc_ve", "pc_vp", "hfs_sde")
"""Those that start from noise alone, or with the centre of k-space."""
LOW = LowFrequencies(fraction=0.25)


def _short(name: str, num_steps: int, **settings: Any) -> Any:
    options = replace(next(iter(METHODS[name].presets.values())), num_steps=num_steps, **settings)
    if isinstance(options, HFSOptions):
        options = replace(options, high_pass="plain")
    if isinstance(options, GuidedPCOptions):
        options = replace(options, beta_max=min(options.beta_max, num_steps / 2))
    return replace(options, num_langevin_steps=5) if isinstance(options, DAPSOptions) else options


def _known(name: str) -> Any:
    return HighFrequencySDE(SDE, LOW.mask(8, 8)) if name == "hfs_sde" else SDE


def _usual(name: str, problem: Measurement) -> Tensor:
    """What a method starts from without a start."""
    if name.startswith(("score_mri", "pc_")):
        return torch.zeros_like(problem.kspace[0])
    kept = LOW.mask(8, 8) if name == "hfs_sde" else torch.ones_like(problem.mask)
    return sense_operator(problem.smaps, problem.mask).adjoint(torch.where(kept, problem.kspace, 0))


@pytest.mark.parametrize("name", ABLE)
def test_start_of_nothing_left_out_is_the_ordinary_run(name: str) -> None:
    """At t_0 = 1 a start of what a method starts from anyway changes nothing."""
    method = METHODS[name]
    parts = 2 if method.chains.coil_images else None
    problem = _problem(2 if parts else 1, 8, 8, noise=0.1, chains=method.chains)
    if name == "hfs_sde":  # so that the centre alone is its own low part
        problem = replace(problem, smaps=torch.ones_like(problem.smaps))
    usual = _usual(name, problem)
    options = _short(name, 6)

    def run(measurement: Measurement, options: Any = options) -> Tensor:
        rng = ChainNoise(5, 2, range(2), parts, dtype=torch.complex128)
        return method.function(gaussian_score, _known(name), measurement, rng=rng, options=options)

    torch.testing.assert_close(run(replace(problem, start=usual)), run(problem))
    with pytest.raises(ValueError, match="needs a start"):
        run(problem, replace(options, start_time=0.5))


@pytest.mark.parametrize("name", ABLE)
def test_start_from_the_truth_stays_near_it_and_takes_its_share_of_the_steps(name: str) -> None:
    method, asked = METHODS[name], []

    def score(x: Tensor, sigma: float | Tensor) -> Tensor:
        asked.append(float(sigma))
        return gaussian_score(x, sigma)

    torch.manual_seed(0)
    parts = 2 if method.chains.coil_images else None
    problem = _problem(2 if parts else 1, 8, 8, noise=0.0, chains=method.chains)
    truth = TAU * _complex(8, 8)
    truth = truth.real + 0j if name.endswith("real") else truth
    kspace = sense_operator(problem.smaps, problem.mask).forward(truth)
    start = problem.smaps * truth if parts else truth
    gentle = {"zeta": 0.1} if name == "dps" else {}
    if name.startswith("score_mri") or name in GUIDED:
        gentle = {"snr": 0.01}
    options = _short(name, 50, start_time=0.1, **gentle)
    rng = ChainNoise(5, 2, range(2), parts, dtype=torch.complex128)
    measurement = replace(problem, kspace=kspace, start=start)
    x = method.function(score, _known(name), measurement, rng=rng, options=options)
    assert len(asked) == options.evaluations
    assert options.steps_done == 5
    assert asked[0] < (0.3 if name in GUIDED else 0.25)
    assert float((x - start).abs().square().mean().sqrt()) < 3 * asked[0]  # the noise that was added


@pytest.mark.parametrize("method", ["annealed", "score_mri_ssos", "score_mri_hybrid", "dds"])
def test_reconstruction_starts_from_a_classical_method(method: str) -> None:
    problem = _problem(3, 16, 16, noise=0.05)
    kspace = problem.kspace.to(torch.complex64)[None]
    plan = Plan(
        method, settings={"num_steps": 8, "start_time": 0.25}, num_samples=3, keep_samples=True, start="cg_sense"
    )
    smaps = problem.smaps.to(torch.complex64)[None]
    result = reconstruct(kspace, problem.mask, plan=plan, prior=tiny_prior(), smaps=smaps, noise_sigma=0.05)
    per_step = 2 if method.startswith("score_mri") else 1
    assert result.nfe == 2 * per_step
    assert result.config["start"] == "cg_sense"
    split = reconstruct(
        kspace, problem.mask, plan=replace(plan, batch_samples=1), prior=tiny_prior(), smaps=smaps, noise_sigma=0.05
    )
    torch.testing.assert_close(split.mean, result.mean)


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (Plan("annealed", settings={"start_time": 0.5}), "name a start, one of zero_filled, cg_sense"),
        (Plan("annealed", settings={"start_time": 0.0}), "expected 0 < start_time <= 1"),
        (Plan("annealed", start="cg_sens"), "did you mean 'cg_sense'"),
        (Plan("tv", start="cg_sense"), "tv cannot start from another reconstruction"),
        (Plan("annealed", start="tv", num_map_sets=2), "the start tv takes one set of coil maps, got 2"),
    ],
)
def test_mistakes_about_starts_are_told(plan: Plan, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        resolve(plan, tiny_prior())


def test_a_request_and_a_batch_name_a_start() -> None:
    settings = {"start_time": 0.4}
    plan = from_query([("plan.start", "tv"), ("plan.settings.start_time", "0.4")]).plan
    assert (plan.start, plan.settings) == ("tv", settings)
    assert parse(Plan, {"start": "tv", "settings": settings}).start == "tv"
    with pytest.raises(Problem, match="start"):
        from_query([("plan.start", "3")])


@dataclass(frozen=True)
class _Other(Options):
    num_steps: int = 2

    @property
    def evaluations(self) -> int:
        return self.num_steps


def test_a_method_that_cannot_start_names_those_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "other", replace(METHODS["dds"], presets={"paper": _Other()}))
    with pytest.raises(ValueError, match=r"other cannot start .* those that can: annealed, score_mri_real"):
        resolve(Plan("other", start="cg_sense"), tiny_prior())
