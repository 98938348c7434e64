"""Published checkpoints become bundles: layouts, moving averages, what does not fit, what is hostile or broken."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import kdrift
from kdrift.cli import main
from kdrift.data.describe import describe
from kdrift.data.phantom import phantom_volume
from kdrift.mri.image_scale import ImageScale
from kdrift.networks import (
    DDPMConfig,
    EDMDenoiser,
    NCSNppConfig,
    NCSNv2Config,
    NetworkConfig,
    build_network,
)
from kdrift.prior.bundle import CARD, CONFIG, SUMS, WEIGHTS, Prior, load_prior
from kdrift.prior.checkpoint_file import read_checkpoint, unpack
from kdrift.prior.published import FAMILIES, ImportOptions, import_checkpoint, infer
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct
from kdrift.runs.files import file_sha256
from kdrift.sde import AttenuatedNoise, HighFrequencySDE
from kdrift.sde.score import denoise
from s3_helpers import Server

NCSNPP = NCSNppConfig(image_size=32, nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(16,), init_scale=1.0)
DDPM = DDPMConfig(nf=32, ch_mult=(1, 1), num_res_blocks=1)
CONFIGS = {
    "score-mri": NetworkConfig(NCSNPP),
    "hfs-sde": NetworkConfig(architecture="ddpm", ddpm=DDPM, conditioning="std"),
    "ncsnv2": NetworkConfig(
        architecture="ncsnv2", ncsnv2=NCSNv2Config(ngf=4, num_levels=60, sigma_max=50.0), conditioning="level"
    ),
    "ak-diffusion": NetworkConfig(replace(NCSNPP, channels=2), preconditioning="bare_residual"),
    "edm": NetworkConfig(
        NCSNppConfig(nf=8, ch_mult=(1, 2), num_res_blocks=1, centered=True, scale_by_sigma=False, init_scale=1.0),
        preconditioning="edm",
        sigma_data=0.5,
    ),
}


def published(family: str) -> tuple[Any, nn.Module]:
    """Return a checkpoint in the layout of a family, and the network of its moving average."""
    network, average = (build_network(CONFIGS[family]).eval() for _ in range(2))
    for parameter, source in zip(average.parameters(), network.parameters(), strict=True):
        if not parameter.requires_grad:
            parameter.data.copy_(source.data)
    model = {f"module.{key}": value for key, value in network.state_dict().items()}
    if family in ("ncsnv2", "ak-diffusion"):
        ema = {key: value.data for key, value in average.named_parameters()}
        return [model, {"state": {}, "param_groups": []}, 3, 100, ema], average
    if family == "edm":
        assert isinstance(network, EDMDenoiser)
        assert isinstance(average, EDMDenoiser)
        state = {f"model.{key}": value for key, value in network.network.state_dict().items()}
        ema = {f"model.{key}": value for key, value in average.network.state_dict().items()}
        return {"net": state, "ema": ema, "optimizer": {}, "scheduler": {}}, average
    model = {"module.sigmas": torch.linspace(40.0, 0.02, 5, dtype=torch.float64), **model}
    shadow = [parameter.data for parameter in average.parameters() if parameter.requires_grad]
    ema = {"decay": 0.999, "num_updates": 10, "shadow_params": shadow}
    return {"optimizer": {"state": {}, "param_groups": []}, "model": model, "ema": ema, "step": 95}, average


def saved(content: Any, folder: Path) -> Path:
    torch.save(content, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


def second_input(family: str) -> torch.Tensor:
    return torch.tensor([3, 40]) if family == "ncsnv2" else torch.tensor([0.1, 0.9])


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_bundle_is_the_published_network_with_its_moving_average(tmp_path: Path, family: str) -> None:
    content, average = published(family)
    file = saved(content, tmp_path)
    prior = kdrift.load_prior(import_checkpoint(file, tmp_path / "bundle"))
    assert prior.info.source is not None
    assert prior.info.source.family == family
    assert prior.info.source.sha256 == file_sha256(file)
    assert file_sha256(file) in (tmp_path / "bundle" / "README.md").read_text()
    config = CONFIGS[family]
    x = torch.randn(2, config.channels, 16, 16)
    torch.testing.assert_close(prior.network(x, second_input(family)), average(x, second_input(family)))
    again = import_checkpoint(file, tmp_path / "bundle", family, ImportOptions(weights="model"))
    other = load_prior(again)
    assert not torch.allclose(other.network(x, second_input(family)), average(x, second_input(family)))
    assert other.info.source is not None
    assert (other.info.source.weights, other.task) == ("model", FAMILIES[family].noise)


@pytest.mark.parametrize("name", ["score_mri_small", "hfs_small", "ncsnv2_small"])
def test_published_files_give_published_outputs(shared_reference: Path, tmp_path: Path, name: str) -> None:
    arrays = np.load(shared_reference / f"{name}_io.npz")
    second = next(torch.from_numpy(arrays[key]) for key in ("sigma", "t", "level") if key in arrays)
    for weights, expected in (("ema", arrays["ema"]), ("model", arrays["raw"])):
        options = ImportOptions(weights=weights)  # type: ignore[arg-type]
        prior = load_prior(import_checkpoint(shared_reference / f"{name}.pth", tmp_path / weights, options=options))
        with torch.no_grad():
            output = prior.network(torch.from_numpy(arrays["x"]), second).numpy()
        assert np.linalg.norm(output - expected) < 1e-5 * np.linalg.norm(expected)
    ranges = {"score_mri_small": (0.01, 378.0), "hfs_small": (0.0105, 152.0), "ncsnv2_small": (0.0066, 232.0)}
    assert prior.sigma_range == pytest.approx(ranges[name])
    assert isinstance(prior.sde(32, 32), HighFrequencySDE) == (name == "hfs_small")


@pytest.mark.parametrize("family", ["score-mri", "ncsnv2", "edm", "vp"])
def test_white_families_reconstruct(tmp_path: Path, family: str) -> None:
    options = ImportOptions(noise="white") if family == "vp" else ImportOptions()
    content, _ = published("hfs-sde" if family == "vp" else family)
    prior = load_prior(import_checkpoint(saved(content, tmp_path), tmp_path / "bundle", options=options))
    assert reconstructed(prior).shape == (1, 32, 32)


def reconstructed(prior: Prior, method: str = "annealed") -> torch.Tensor:
    kspace = torch.from_numpy(phantom_volume(1, 32, 32, 2, seed=1).kspace)
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[:, ::2] = mask[:, 12:20] = True
    plan = Plan(method=method, num_samples=1, settings={"num_steps": 4}, precision="float32")
    image = reconstruct(torch.where(mask, kspace, 0), mask, prior=prior, plan=plan).mean
    assert bool(torch.isfinite(image).all())
    return image


def test_the_order_of_the_moving_average_is_that_of_the_parameters(tmp_path: Path) -> None:
    content, _ = published("score-mri")
    shadow = content["ema"]["shadow_params"]
    trained = [key for key in content["model"] if key not in ("module.sigmas", "module.all_modules.0.W")]
    file = saved(content, tmp_path)
    network = load_prior(import_checkpoint(file, tmp_path / "bundle")).network
    state = network.state_dict()
    for key, value in zip(trained, shadow, strict=True):
        torch.testing.assert_close(state[key.removeprefix("module.")], value)
    torch.testing.assert_close(state["all_modules.0.W"], content["model"]["module.all_modules.0.W"])
    content["ema"]["shadow_params"] = shadow[::-1]
    with pytest.raises(ValueError, match=r"ema: key all_modules\.1\.weight has shape"):
        import_checkpoint(saved(content, tmp_path), tmp_path / "reversed")
    content["ema"]["shadow_params"] = shadow[:-1]
    with pytest.raises(
        ValueError, match=rf"ema\.shadow_params has {len(shadow) - 1} tensors, ncsnpp has {len(shadow)}"
    ):
        import_checkpoint(saved(content, tmp_path), tmp_path / "short")


def test_the_first_key_that_does_not_fit_is_named(tmp_path: Path) -> None:
    content, _ = published("hfs-sde")

    def refused(key: str, value: torch.Tensor | None) -> str:
        changed = copy.deepcopy(content)
        changed["model"].pop(key, None)
        if value is not None:
            changed["model"][key] = value
        with pytest.raises(ValueError, match=r"checkpoint\.pth: ") as error:
            import_checkpoint(saved(changed, tmp_path), tmp_path / "bundle")
        assert "\n" not in str(error.value)
        return str(error.value)

    first = "module.all_modules.3.Conv_0.weight"
    assert f"key {first[7:]} has shape (32, 32, 1, 1)" in refused(first, torch.zeros(32, 32, 1, 1))
    assert "needs (32, 32, 3, 3)" in refused(first, torch.zeros(32, 32, 1, 1))
    assert "key all_modules.3.Conv_0.bias of the inferred ddpm is missing" in refused(first[:-6] + "bias", None)
    assert "key all_modules.99.weight is left over" in refused("module.all_modules.99.weight", torch.zeros(1))
    assert "key all_modules.2.weight is missing" in refused("module.all_modules.2.weight", None)
    assert "belongs to no network that kdrift has" in refused("module.all_modules.0.weight", None)
    assert "3 channels" in refused("module.all_modules.2.weight", torch.zeros(32, 3, 3, 3))
    assert not (tmp_path / "bundle").exists()


def test_what_a_file_lacks_is_said(tmp_path: Path) -> None:
    content, _ = published("edm")
    broken = copy.deepcopy(content)
    broken["ema"]["model.all_modules.3.bias"][0] = torch.nan
    with pytest.raises(ValueError, match=r"key all_modules\.3\.bias holds values that are not finite"):
        import_checkpoint(saved(broken, tmp_path), tmp_path / "b")
    with pytest.raises(ValueError, match="no moving average"):
        import_checkpoint(saved({"net": content["net"]}, tmp_path), tmp_path / "b")
    assert import_checkpoint(saved({"net": content["net"]}, tmp_path), tmp_path / "b", None, ImportOptions("model"))
    with pytest.raises(ValueError, match=r"not a published layout.* got epoch"):
        import_checkpoint(saved({"epoch": 3}, tmp_path), tmp_path / "c")
    with pytest.raises(ValueError, match="is no mapping of names to tensors"):
        import_checkpoint(saved({"model": [1]}, tmp_path), tmp_path / "c")
    with pytest.raises(ValueError, match="family hfs-sde is of ddpm networks, key all_modules"):
        import_checkpoint(saved(content, tmp_path), tmp_path / "c", "hfs-sde")
    with pytest.raises(ValueError, match="no family 'score_mri', did you mean 'score-mri'"):
        import_checkpoint(saved(content, tmp_path), tmp_path / "c", "score_mri")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="exists and is no prior"):
        import_checkpoint(saved(content, tmp_path), tmp_path / "mine")


class Hostile:
    """Makes a folder when unpickled, as a hostile checkpoint might do worse."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


def test_hostile_and_broken_files_are_refused_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, _ = published("score-mri")
    file = saved(content, tmp_path)
    (tmp_path / "cut.pth").write_bytes(file.read_bytes()[:-2000])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Hostile(str(tmp_path / "trap"))))
    torch.save({**content, "config": Hostile(str(tmp_path / "trap"))}, tmp_path / "hostile.pth")
    for name in ("cut", "empty", "pickle", "hostile", "absent"):
        assert main(["import-checkpoint", str(tmp_path / f"{name}.pth"), "--out", str(tmp_path / "b")]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"{name}.pth" in error
    assert not (tmp_path / "trap").exists()
    assert not (tmp_path / "b").exists()


def test_the_verb_says_what_it_took_the_file_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, _ = published("hfs-sde")
    file, out = str(saved(content, tmp_path)), str(tmp_path / "vp")
    settings = ["noise=white", "sigma_max=100", "image_scale=4", "network.image_size=256"]
    assert main(["import-checkpoint", file, "--out", out, *(f"--set={text}" for text in settings)]) == 0
    text = capsys.readouterr().out
    assert "hfs-sde, ddpm of 2 channels" in text
    assert "noise white, sigma 0.002625 to 25" in text
    assert load_prior(out).network_config.ddpm.image_size == 256
    assert main(["info", file, out]) == 0
    text = capsys.readouterr().out
    assert "family: hfs-sde" in text
    assert "value: 4.0" in text
    for option, message in (("noise=blue", "noise"), ("low.size=3", "unknown key 'low.size'"),
                            ("network.nff=8", "unknown key 'ddpm.nff', did you mean 'nf'"),
                            ("sigma_min=200", "0 < sigma_min < sigma_max"),
                            ("scale=mean", "scale: Input should be"), ("quantile=2", "quantile is 2"),
                            ("network.image_size=x", "image_size is a whole number")):  # fmt: skip
        assert main(["import-checkpoint", file, "--out", out, "--set", option]) == 1
        assert message in capsys.readouterr().err


def test_the_scale_of_its_training_and_the_command_are_kept(tmp_path: Path) -> None:
    content, _ = published("score-mri")
    options = ImportOptions(scale="max", image_scale=2.0)
    prior = load_prior(import_checkpoint(saved(content, tmp_path), tmp_path / "mine", options=options))
    assert prior.info.scale == ImageScale("max", 0.99, 2.0)
    assert prior.info.command
    assert "the maximum of each image's magnitudes is 1 (of the network's own images it is 2)" in (
        (tmp_path / "mine" / "README.md").read_text()
    )
    with pytest.raises(ValueError, match="brain-hfs is the name of a prior that comes with kdrift"):
        import_checkpoint(saved(content, tmp_path), tmp_path / "brain-hfs")
    assert not (tmp_path / "brain-hfs").exists()


def test_info_recognises_published_files(tmp_path: Path) -> None:
    for family in FAMILIES:
        content, _ = published(family)
        found = describe(str(saved(content, tmp_path)))
        assert (found["what"], found["family"]) == ("checkpoint", family)
        assert infer(unpack(read_checkpoint(tmp_path / "checkpoint.pth")))[1].architecture in found["network"]


def test_a_named_family_is_not_told_from_the_layout(tmp_path: Path) -> None:
    content, _ = published("ak-diffusion")
    named = infer(unpack(read_checkpoint(saved(content, tmp_path))), "score-mri")
    assert (named[0], named[1].preconditioning) == ("score-mri", "none")


def test_a_network_of_ak_diffusion_restores_and_reconstructs(tmp_path: Path) -> None:
    content, average = published("ak-diffusion")
    prior = load_prior(import_checkpoint(saved(content, tmp_path), tmp_path / "ak", options=ImportOptions(b_max=20.0)))
    assert prior.info.process == AttenuatedNoise(0.01, 1.0, 0.5, 20.0)
    x = torch.randn(1, 16, 16, dtype=torch.complex64)
    residual = average(torch.view_as_real(x).permute(0, 3, 1, 2), torch.tensor([0.5])).permute(0, 2, 3, 1).contiguous()
    torch.testing.assert_close(denoise(prior.score(fast=False), x, 0.5), x + torch.view_as_complex(residual))
    assert reconstructed(prior, "ak_diffusion").shape == (1, 32, 32)


def test_ve_models_with_the_ddpm_network(tmp_path: Path) -> None:
    # HFS-SDE's VE models: the same network, asked with the noise level itself, of a table that the file has
    content, average = published("hfs-sde")
    options = ImportOptions(conditioning="sigma", noise="white")
    prior = load_prior(import_checkpoint(saved(content, tmp_path), tmp_path / "ve", options=options))
    assert prior.sigma_range == (0.02, 40.0)
    x, sigma = torch.randn(1, 16, 16, dtype=torch.complex64), torch.tensor([3.0])
    channels = torch.view_as_real(x).permute(0, 3, 1, 2)
    expected = torch.view_as_complex(average(channels, sigma).permute(0, 2, 3, 1).contiguous())
    torch.testing.assert_close(prior.score(fast=False)(x, 3.0), expected)


def test_checkpoints_and_bundles_at_urls(
    server: Server, url: str, elsewhere: Callable[[], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = saved(published("score-mri")[0], tmp_path)
    server.write(f"{url}/published.pth", checkpoint.read_bytes())
    place = f"{url}/prior"
    assert main(["import-checkpoint", f"{url}/published.pth", "--out", place]) == 0
    assert capsys.readouterr().out.startswith(f"{place}: score-mri")
    assert server.shown(place) == sorted([CARD, SUMS, CONFIG, WEIGHTS])
    assert server.read(f"{place}/{CARD}").startswith(b"# prior\n")
    assert load_prior(place).info.source.file == "published.pth"  # type: ignore[union-attr]
    elsewhere()
    assert main(["import-checkpoint", str(checkpoint), "--out", place, "--set", "scale=max"]) == 0, "it is replaced"
    assert load_prior(place).info.scale.rule == "max"
    server.write(f"{url}/bad.pth", b"not a checkpoint")
    assert main(["import-checkpoint", f"{url}/bad.pth", "--out", place]) == 1
    assert f"{url}/bad.pth: needs pickled code to be run" in capsys.readouterr().err
    assert main(["import-checkpoint", str(checkpoint), "--out", url]) == 1
    assert "and is no prior: name another place" in capsys.readouterr().err
    assert load_prior(place).info.scale.rule == "max"
    assert [name for name in server.names(url) if not name.startswith("prior/")] == ["bad.pth", "published.pth"]
