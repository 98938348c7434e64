"""`reconstruct` and the command: results, invariance, outputs, errors. The prior here is a small untrained network."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nibabel
import pytest
import torch

from kdrift.cli import main
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.phantom import phantom_volume
from kdrift.methods import METHODS
from kdrift.mri.image_scale import ImageScale
from kdrift.mri.masks import make_mask
from kdrift.networks import NCSNppConfig, NetworkConfig, build_network
from kdrift.notice import RESEARCH_ONLY
from kdrift.prior.bundle import Prior, load_prior, save_prior
from kdrift.prior.prior_info import PriorInfo
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct
from kdrift.sde import WhiteNoise
from kdrift.trust.uncertainty import DEFINITIONS

CONFIG = NetworkConfig(
    NCSNppConfig(image_size=32, nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), middle_attention=False,
                 centered=True, scale_by_sigma=False, init_scale=0.1),
    preconditioning="edm",
)  # fmt: skip


@pytest.fixture(scope="module")
def prior_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("prior") / "tiny"
    return save_prior(folder, build_network(CONFIG), CONFIG, PriorInfo(WhiteNoise(0.01, 5.0)))


@pytest.fixture(scope="module")
def prior(prior_folder: Path) -> Prior:
    return load_prior(prior_folder)


@pytest.fixture(scope="module")
def phantom_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "phantom.h5"
    assert main(["phantom", "--out", str(path), "--slices", "2", "--size", "48", "--coils", "4", "--seed", "1"]) == 0
    return path


@pytest.fixture(scope="module")
def kspace(phantom_file: Path) -> torch.Tensor:
    with h5py.File(phantom_file) as file:
        return torch.from_numpy(file["kspace"][:])


def _mask(kspace: torch.Tensor) -> torch.Tensor:
    return make_mask("equispaced", (kspace.shape[-2], kspace.shape[-1]), acceleration=2.5, acs_lines=14).mask


@pytest.mark.parametrize("method", ["annealed", "score_mri", "score_mri_ssos", "score_mri_hybrid"])
def test_methods_give_moments_of_their_samples(method: str, kspace: torch.Tensor, prior: Prior) -> None:
    plan = Plan(method, settings={"num_steps": 4}, num_samples=3, keep_samples=True).resolve(prior).mean_alone()
    result = reconstruct(kspace, _mask(kspace), plan=plan, prior=prior)
    assert result.mean.shape == (2, 48, 48)
    assert result.samples is not None
    torch.testing.assert_close(result.samples.mean(1), result.mean)
    torch.testing.assert_close(result.samples.std(1), result.std, rtol=1e-3, atol=1e-6)
    per_step = 1 if method == "annealed" else 2
    assert result.nfe == 4 * per_step
    chains = 3 * 2 * (4 if METHODS[method].chains.coil_images else 1)
    assert result.network_images == 2 * chains * result.nfe
    assert result.config["options"]["num_steps"] == 4
    assert result.config["prior"]["sha256"] == prior.sha256
    assert set(result.stages) == {"prepare", "network", "sampler", "combine"}


@pytest.mark.parametrize(("method", "settings", "nfe"), [
    ("red_diff", {"num_steps": 4}, 4),
    ("csgm_langevin", {"num_steps": 3}, 3 + 3 + 4),
    ("smrd", {"num_steps": 3}, 2 * (3 + 3 + 4)),
    ("smrd", {"num_steps": 3, "early_stopping": False}, 2 * 3 + 3 + 4),
])  # fmt: skip
def test_cost_of_optimising_and_langevin_methods(
    method: str, settings: dict[str, Any], nfe: int, kspace: torch.Tensor, prior: Prior
) -> None:
    plan = Plan(method=method, settings=settings, num_samples=3, check=False)
    result = reconstruct(kspace, _mask(kspace), plan=plan, prior=prior)
    assert result.nfe == nfe
    assert result.network_images == 2 * 3 * 2 * nfe  # slices, samples, real and imaginary parts
    assert bool(torch.isfinite(result.mean).all())


def test_a_slice_is_scaled_as_the_images_of_its_prior_were(kspace: torch.Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, found = build_network(CONFIG), {}
    plan = Plan(settings={"num_steps": 4}, num_samples=2)
    scales = {"0.99": ImageScale(), "0.9": ImageScale(number=0.9), "std": ImageScale("std"), "max": ImageScale("max")}
    for name, scale in scales.items():
        made = save_prior(tmp_path / name, network, CONFIG, PriorInfo(WhiteNoise(0.01, 5.0), scale=scale))
        found[name] = reconstruct(kspace, _mask(kspace), plan=plan, prior=load_prior(made)).mean
    largest = float(found["0.99"].max())
    for name in ("0.9", "std", "max"):
        assert float((found[name] - found["0.99"]).abs().max()) > 1e-3 * largest, name
    # twice the data, all else alike: the answer is twice as bright, whatever the rule
    prior = load_prior(tmp_path / "0.9")
    doubled = reconstruct(2 * kspace, _mask(kspace), plan=plan, prior=prior).mean
    torch.testing.assert_close(doubled, 2 * found["0.9"], rtol=0, atol=1e-4 * largest)


def test_answer_does_not_depend_on_batches_or_slices(kspace: torch.Tensor, prior: Prior) -> None:
    plan = Plan(settings={"num_steps": 4}, num_samples=4, keep_samples=True)
    whole = reconstruct(kspace, _mask(kspace), plan=plan, prior=prior, noise_sigma=0.05)
    for size in (1, 3):
        split = reconstruct(
            kspace, _mask(kspace), plan=replace(plan, batch_samples=size), prior=prior, noise_sigma=0.05
        )
        scale = float(whole.mean.max())
        torch.testing.assert_close(split.mean, whole.mean, rtol=0, atol=1e-5 * scale)
        torch.testing.assert_close(split.std, whole.std, rtol=0, atol=1e-5 * scale)
    second = reconstruct(kspace[1:], _mask(kspace), plan=plan, prior=prior, slice_indices=[1], noise_sigma=0.05)
    torch.testing.assert_close(second.mean[0], whole.mean[1])
    other = reconstruct(
        kspace[1:], _mask(kspace), plan=replace(plan, seed=1), prior=prior, slice_indices=[1], noise_sigma=0.05
    )
    assert not torch.allclose(other.mean, second.mean)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.needs_prior])
def test_baselines_go_the_same_way(method: str, kspace: torch.Tensor) -> None:
    result = reconstruct(kspace[:1], _mask(kspace), plan=Plan(method=method))
    assert result.nfe == 0
    assert float(result.std.max()) == 0
    everything = torch.ones(48, 48, dtype=torch.bool)
    reference = reconstruct(kspace[:1], everything, plan=Plan(method="zero_filled")).mean
    error = torch.linalg.vector_norm(result.mean - reference) / torch.linalg.vector_norm(reference)
    assert float(error) < (0.6 if method == "zero_filled" else 0.3)


def test_two_map_sets_and_single_coil(kspace: torch.Tensor, prior: Prior) -> None:
    plan = Plan(settings={"num_steps": 3}, num_samples=2, num_map_sets=2)
    assert reconstruct(kspace[:1], _mask(kspace), plan=plan, prior=prior).smaps.shape == (1, 2, 4, 48, 48)
    single = reconstruct(kspace[:1, :1], _mask(kspace), plan=replace(plan, num_map_sets=1), prior=prior)
    assert single.mean.shape == (1, 48, 48)
    with pytest.raises(ValueError, match="one set of coil maps"):
        reconstruct(kspace[:1], _mask(kspace), plan=Plan(method="tv", num_map_sets=2))


def test_mistakes_are_named(kspace: torch.Tensor, prior: Prior) -> None:
    mask = _mask(kspace)
    cases: list[tuple[Plan, str]] = [
        (Plan(method="score_mri_hybrd"), "did you mean 'score_mri_hybrid'"),
        (Plan(preset="papr"), "no preset 'papr'"),
        (Plan(settings={"num_step": 3}), "did you mean 'num_steps'"),
        (Plan(settings={"num_steps": 1}), "expected num_steps >= 2"),
        (Plan(method="tv", settings={"lambda": 1}), "method tv: unknown key 'lambda'; known: max_iter, weight"),
        (Plan(method="tv", preset="paper"), "no preset 'paper'; there are default"),
        (Plan(num_samples=0), "at least 1"),
    ]
    for plan, message in cases:
        with pytest.raises(ValueError, match=message):
            reconstruct(kspace[:1], mask, plan=plan, prior=prior)
    with pytest.raises(ValueError, match="complex"):
        reconstruct(kspace[:1].abs(), mask, prior=prior)
    with pytest.raises(ValueError, match="kspace is zero everywhere"):
        reconstruct(0 * kspace[:1], mask, prior=prior)


def test_command_writes_everything(
    phantom_file: Path, prior_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "reconstruct", str(phantom_file), "--out", str(tmp_path / "r"), "--prior", str(prior_folder), "--steps", "3",
        "--samples", "2", "--mask", "random", "--acceleration", "2", "--acs-lines", "14", "--slices", "1:2",
        "--save-samples", "--save-smaps", "--nifti", "--set", "eta=0.5",
    ]  # fmt: skip
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "PSNR" in captured.out
    evaluations = 2 * 3 + 2 * 3 + 4 * 3  # of samples, of the mean, of the check
    shown = (
        rf"^{evaluations}/{evaluations} evaluations  100\.0 %  [0-9.]+ evaluations/(s|min)  0:00:00 left  slice 1/1$"
    )
    assert re.search(shown, captured.err, re.M)
    assert sorted(f.name for f in (tmp_path / "r").iterdir()) == [
        "lower.nii.gz", "mean.nii.gz", "metrics.json", "panel.png", "reconstruction.h5", "std.nii.gz", "upper.nii.gz",
    ]  # fmt: skip
    report = json.loads((tmp_path / "r/metrics.json").read_text())
    assert report["simulated"] is True
    assert report["slices"] == [1]
    assert report["config"]["options"]["eta"] == 0.5
    assert set(report["metrics"]) == {"psnr", "ssim", "nmse"}
    assert set(report["definitions"]) == {*report["metrics"], *DEFINITIONS, "by_slice"}
    assert report["nfe"] == 3
    assert report["net_acceleration"] > 1.5
    assert {"torch", "kdrift"} <= set(report["versions"])
    with h5py.File(tmp_path / "r/reconstruction.h5") as file:
        assert file["reconstruction"].shape == file["std"].shape == (1, 48, 48)
        assert file["samples"].shape == (1, 2, 48, 48)
        assert file["smaps"].shape == (1, 4, 48, 48)
        assert file["mask"].shape == (48, 48)
        assert (file["lower"][:] <= file["reconstruction"][:]).all()
        assert (file["reconstruction"][:] <= file["upper"][:]).all()
        assert file.attrs["notice"] == RESEARCH_ONLY
    for name in ("mean", "std"):
        header = nibabel.load(tmp_path / f"r/{name}.nii.gz").header
        assert bytes(header["descrip"]).rstrip(b"\0").decode().startswith(RESEARCH_ONLY)


def test_command_says_what_diverged_and_labels_the_fallback(
    phantom_file: Path, prior_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, mask = tmp_path / "r", ["--mask", "random", "--acceleration", "2", "--acs-lines", "14", "--slices", "1:2"]
    silly = [
        "reconstruct", str(phantom_file), "--out", str(out), "--prior", str(prior_folder), "--method", "score_mri",
        "--set", "snr=50", "--steps", "20", "--samples", "2", *mask,
    ]  # fmt: skip
    assert main(silly) == 1
    error = capsys.readouterr().err
    assert error.startswith("kdrift: error: slice 1: all 2 samples diverged, sample ")
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()
    assert main([*silly, "--on-divergence", "fallback", "--save-samples"]) == 0
    assert "slice 1: samples diverged: 0, 1 (0 at step" in capsys.readouterr().err
    report = json.loads((out / "metrics.json").read_text())
    assert report["fallback"] == [1]
    assert list(report["diverged"]["1"]) == ["0", "1"]
    assert report["config"]["on_divergence"] == "fallback"
    with h5py.File(out / "reconstruction.h5") as file:
        assert list(file.attrs["fallback_slices"]) == [1]
        assert "none is left, the slice is CG-SENSE" in file.attrs["diverged"]
    cg = ["reconstruct", str(phantom_file), "--out", str(tmp_path / "cg"), "--method", "cg_sense", *mask]
    assert main(cg) == 0
    classical = json.loads((tmp_path / "cg" / "metrics.json").read_text())
    assert report["metrics"] == pytest.approx(classical["metrics"], rel=1e-4)
    assert (classical["diverged"], classical["fallback"]) == ({}, [])


def test_prospective_data_keep_their_mask_and_have_no_reference(
    kspace: torch.Tensor, prior_folder: Path, tmp_path: Path
) -> None:
    mask = _mask(kspace)
    data = torch.where(mask, kspace, 0).numpy()
    write_fastmri(tmp_path / "test.h5", data, mask=mask[0].numpy())
    arguments = [
        "reconstruct",
        str(tmp_path / "test.h5"),
        "--out",
        str(tmp_path / "r"),
        "--prior",
        str(prior_folder),
    ]
    assert main([*arguments, "--steps", "2", "--samples", "2"]) == 0
    report = json.loads((tmp_path / "r/metrics.json").read_text())
    assert "metrics" not in report
    assert report["reference"] is None
    assert report["sampling"].startswith("as measured")
    assert main([*arguments, "--mask", "random"]) == 1


def test_command_line_mistakes_end_in_one_line(
    phantom_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "r")]
    (tmp_path / "junk.h5").write_bytes(b"not an HDF5 file")
    for arguments, message in [
        ([str(tmp_path / "absent.h5")], "absent.h5"),
        ([str(tmp_path / "junk.h5")], "junk.h5"),
        ([str(phantom_file), "--slices", "9:12"], "has 2 slices"),
        ([str(phantom_file), "--slices", "a:b"], "A:B"),
        ([str(phantom_file), "--prior", "nothing"], "no prior 'nothing'"),
        ([str(phantom_file), "--set", "eta"], "key=value"),
        ([str(phantom_file), "--device", "tpu"], "device 'tpu'"),
        ([str(phantom_file), "--mask", "equispaced", "--acceleration", "0.5"], "at least 1"),
    ]:
        assert main(["reconstruct", *arguments, *out]) == 1
        error = capsys.readouterr().err
        assert error.startswith("kdrift: error:")
        assert message in error
        assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "r").exists()


def test_phantom_has_the_shapes_it_says() -> None:
    volume = phantom_volume(num_slices=1, rows=33, cols=40, num_coils=3, seed=0)
    assert volume.kspace.shape == (1, 3, 33, 40)
