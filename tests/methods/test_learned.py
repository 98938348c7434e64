"""Learned methods: what the table asks of them, and which bundles they take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdrift.cli import main
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.simulate import simulate_volume
from kdrift.evaluation.cells import resolve_methods
from kdrift.evaluation.evaluate_config import EvaluateConfig
from kdrift.methods import METHODS
from kdrift.mri.birdcage import birdcage_maps
from kdrift.prior.bundle import load_prior, save_prior, shipped_for
from kdrift.prior.prior_info import PriorInfo
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct
from kdrift.recon.sampling import run_chunk
from kdrift.recon.slices import RawSlice
from kdrift.runs.config import parse
from kdrift.sde import WhiteNoise
from kdrift.testing import check_learned, check_sampler, complex_normal
from kdrift_serve.job_request import from_query, resolve_plan
from kdrift_serve.problems import Problem
from kdrift_serve.serve_config import Limits
from reconstructor_helpers import SMALL, network_of

LEARNED = [name for name, method in METHODS.items() if method.needs_prior and not method.samples]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: save_prior(folder / f"my-{name}", network_of(name), SMALL[name], PriorInfo(None)) for name in SMALL}


@pytest.mark.parametrize("name", LEARNED)
def test_without_a_network_it_is_said_how_to_train_one(name: str) -> None:
    if shipped_for(METHODS[name].needs):  # type: ignore[arg-type]
        assert Plan(method=name).resolve().prior is not None
        return
    with pytest.raises(ValueError, match=f"none is shipped, train one with network.architecture: {name}"):
        Plan(method=name).resolve()


@pytest.mark.parametrize("name", LEARNED)
def test_every_learned_method_keeps_what_the_table_asks(name: str) -> None:
    check_learned(METHODS[name], network_of(name))
    with pytest.raises(AssertionError, match="check it by check_learned"):
        check_sampler(METHODS[name])


@pytest.mark.parametrize("name", LEARNED)
def test_a_bundle_comes_back_as_it_was(name: str, bundles: dict[str, Path]) -> None:
    prior = load_prior(bundles[name])
    assert prior.task == name
    for key, value in network_of(name).state_dict().items():
        assert torch.equal(prior.network.state_dict()[key], value)
    assert f"network: {name} (" in (bundles[name] / "README.md").read_text()
    with pytest.raises(ValueError, match=f"is a {name} that reconstructs: it has no score"):
        prior.score()


@pytest.mark.parametrize("name", LEARNED)
def test_one_image_goes_the_way_of_all(name: str, bundles: dict[str, Path]) -> None:
    y, x = np.mgrid[:32, :32] - 16
    disc = ((y**2 + x**2 < 120) * (2 + np.sin(x))).astype(np.float32)
    kspace = torch.from_numpy(simulate_volume(np.stack([disc, disc.T]), birdcage_maps(3, 32, 32), noise_std=0.02)[0])
    plan, mask = Plan(method=name, num_samples=8), torch.zeros(32, 32, dtype=torch.bool)
    mask[:, ::3] = mask[:, 12:20] = True
    prior = load_prior(bundles[name])
    result = reconstruct(kspace * mask, mask, plan=plan, prior=prior)
    assert result.nfe == 1
    assert result.mean.shape == (2, 32, 32)
    assert float(result.std.max()) == 0
    assert result.config["num_samples"] == 1
    assert result.config["prior"]["name"] == f"my-{name}"
    seven = reconstruct(7 * kspace * mask, mask, plan=plan, prior=prior)
    torch.testing.assert_close(seven.mean, 7 * result.mean, rtol=1e-3, atol=1e-3 * float(result.mean.max()))


def test_the_command_reconstructs(bundles: dict[str, Path], tmp_path: Path) -> None:
    image = np.zeros((1, 32, 32), np.float32)
    image[:, 8:24, 8:24] = np.arange(1, 17)
    kspace, reference = simulate_volume(image, birdcage_maps(3, 32, 32), noise_std=0.01)
    write_fastmri(tmp_path / "scan.h5", kspace, reference=reference, fov_mm=(220.0, 220.0, 5.0))
    command = ["reconstruct", str(tmp_path / "scan.h5"), "--out", str(tmp_path / "out"), "--method", "unet", "--quiet"]
    options = ["--prior", str(bundles["unet"]), "--mask", "equispaced", "--acceleration", "3"]
    assert main([*command, *options]) == 0
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert report["config"]["prior"]["sha256"] == load_prior(bundles["unet"]).sha256
    assert report["config"]["unchecked"] == "unet draws no samples"
    assert report["metrics"]["psnr"] > 0


def test_a_sampler_starts_from_the_image_of_a_network(bundles: dict[str, Path], tmp_path: Path) -> None:
    unet, mask = str(bundles["unet"]), torch.zeros(32, 32, dtype=torch.bool)
    mask[:, ::3] = mask[:, 12:20] = True
    raw = RawSlice(0, torch.where(mask, complex_normal((2, 32, 32)).to(torch.complex64), 0), mask)
    settings = {"num_steps": 5, "start_time": 0.4}
    plan = Plan("pc_ve", "paper", settings, num_samples=1, maps="espirit", start="unet", start_prior=unet).resolve()
    data = plan.prepare(raw)
    alone = Plan("unet").resolve(unet)
    assert data.start is not None
    expected = run_chunk(alone, load_prior(unet), replace(data, start=None), alone.split(2)[0]).moments
    assert expected is not None
    torch.testing.assert_close(data.start.abs(), expected.mean, rtol=1e-4, atol=1e-5)
    assert plan.config["start_prior"]["name"] == "my-unet"
    assert "from unet by my-unet" in plan.headline("cpu")
    changed = replace(plan, start_prior=replace(plan.start_prior, sha256="0" * 64))
    with pytest.raises(ValueError, match=r"start_prior .* has other weights here than where the plan was made"):
        changed.prepare(raw)


def test_mistakes_about_the_network_of_a_start_are_told(bundles: dict[str, Path]) -> None:
    unet, settings = str(bundles["unet"]), {"start_time": 0.4}
    with pytest.raises(ValueError, match="start is tv: leave it out"):
        Plan(settings=settings, start="tv", start_prior=unet).resolve()
    with pytest.raises(ValueError, match="start is None: leave it out"):
        Plan(start_prior=unet).resolve()
    with pytest.raises(ValueError, match="method varnet needs"):
        Plan(settings=settings, start="varnet", start_prior=unet).resolve()
    with pytest.raises(ValueError, match="no prior 'absent'"):
        Plan(settings=settings, start="unet", start_prior="absent").resolve()
    request = from_query([("plan.start", "unet"), ("plan.start_prior", unet)])
    with pytest.raises(Problem) as refused:
        resolve_plan(request, {"brain-complex": load_prior("brain-complex")}, Limits())
    assert refused.value.status == 422
    assert "this service reads no networks by path" in refused.value.detail


def test_the_prior_of_an_evaluation_is_for_methods_of_its_kind(bundles: dict[str, Path]) -> None:
    name = str(bundles["unet"])
    methods = {each: {"method": each} for each in ("unet", "annealed", "tv")}
    config = {"store": "s", "out": "o", "masks": {"m": {"kind": "gaussian1d"}}, "methods": methods, "prior": name}
    plans, _ = resolve_methods(parse(EvaluateConfig, config))
    used = {str(entry): plan.prior.name if plan.prior else None for entry, plan in plans.items()}
    assert used == {"unet": "my-unet", "annealed": "brain-complex", "tv": None}


def test_a_bundle_of_another_kind_is_refused(bundles: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="method varnet needs a varnet that reconstructs, my-unet is a unet that recon"
    ):
        Plan(method="varnet").resolve(str(bundles["unet"]))
    with pytest.raises(
        ValueError, match="needs a prior trained on white noise, my-varnet is a varnet that reconstructs"
    ):
        Plan(method="dps").resolve(str(bundles["varnet"]))
    with pytest.raises(ValueError, match=r"needs a unet that reconstructs, .* was trained on white noise"):
        Plan(method="unet").resolve("brain-complex")
    wrong = save_prior(tmp_path / "wrong", network_of("unet"), SMALL["unet"], PriorInfo(WhiteNoise(0.01, 1.0)))
    with pytest.raises(ValueError, match="network unet and process white do not fit"):
        load_prior(wrong)
