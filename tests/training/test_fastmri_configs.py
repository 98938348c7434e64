"""The fastMRI configurations: the papers' numbers, their networks, and from files of that layout to an image."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from benchmarks.knee_scan import write_scan

from kdrift.data.convert import ConvertConfig
from kdrift.data.store import open_store
from kdrift.methods import METHODS
from kdrift.networks import build_network
from kdrift.prior.bundle import load_prior
from kdrift.runs.config import load_config
from kdrift.runs.config_names import config_names, find_config
from kdrift.training.cost import training_cost
from kdrift.training.loop import Hooks, fit, new_state
from kdrift.training.train_config import TrainConfig

ORGANS = ("knee", "brain")
PRIORS = ("score_mri", "vp", "hfs", "ak", "edm")
NAMES = [f"fastmri_{organ}_{prior}" for organ in ORGANS for prior in PRIORS]
METHOD = {"score_mri": "score_mri", "vp": "pc_vp", "hfs": "hfs_sde", "ak": "ak_diffusion", "edm": "annealed"}
"""What each prior is for."""
SMALL = {
    "ncsnpp": ["nf=8", "ch_mult=[1,2]", "num_res_blocks=1", "middle_attention=false"],
    "ddpm": ["nf=32", "ch_mult=[1,1]", "num_res_blocks=1"],
}


def kdrift(*words: str) -> None:
    """Run a command as a user does, in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "kdrift", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def config_of(name: str, *overrides: str) -> TrainConfig:
    return load_config(TrainConfig, find_config("train", name), overrides)


def test_every_organ_has_every_prior() -> None:
    assert {name for name in config_names("train") if name.startswith("fastmri")} == set(NAMES)
    for organ in ORGANS:
        made = load_config(ConvertConfig, find_config("convert", f"fastmri_{organ}"))
        assert made.complex_images
        for prior in PRIORS:
            config = config_of(f"fastmri_{organ}_{prior}")
            assert config.data.stores == [made.store]
            assert config.data.crop == 320
            assert config.data.validation


@pytest.mark.parametrize("name", NAMES)
def test_networks_build_at_full_size(name: str) -> None:
    config = config_of(name)
    with torch.device("meta"):
        network = build_network(config.network)
        images = torch.empty(2, config.network.channels, 320, 320)
        assert network(images, torch.empty(2)).shape == images.shape
    published = {"score_mri": 61_433_601, "ak": 61_437_058, "vp": 34_425_602, "hfs": 34_425_602, "edm": 19_246_082}
    assert sum(p.numel() for p in network.parameters()) == published[name.split("_", 2)[2]]


@pytest.mark.parametrize("organ", ORGANS)
def test_settings_are_those_of_the_papers(organ: str) -> None:
    score_mri, vp, hfs, ak = (config_of(f"fastmri_{organ}_{prior}") for prior in PRIORS[:4])
    assert score_mri.data.images == "real"
    assert score_mri.noise.sde == "ve"
    assert (score_mri.noise.sigma_min, score_mri.noise.sigma_max, score_mri.noise.t_min) == (0.01, 378, 1e-5)
    assert score_mri.total_images == 100 * 25_000
    for config in (vp, hfs):
        assert (config.noise.sde, config.noise.beta_min, config.noise.beta_max) == ("vp", 0.1, 20)
        assert (config.data.scale, config.data.normalise) == ("std", "slice")
        assert config.total_images == 500 * 1002
    assert int(hfs.noise.low.mask(320, 320).sum()) == 24**2
    assert (ak.noise.sigma_min, ak.noise.sigma_max, ak.total_images) == (0.01, 1, 100 * 1002)
    assert ak.noise.attenuated.loss_under_attenuation
    for config, rate in ((score_mri, 0.999), (vp, 0.9999), (hfs, 0.9999), (ak, 0.999)):
        halflife = config.batch_size * math.log(2) / -math.log(rate)
        assert config.optimisation.ema_halflife_images == pytest.approx(halflife, rel=1e-3)
        assert config.optimisation.warmup_images == 5000 * config.batch_size


@pytest.mark.parametrize("organ", ORGANS)
def test_ak_is_conditioned_on_level_and_attenuation(organ: str) -> None:
    """With one sigma_N the level names the time, and so b: one second input says both."""
    config = config_of(f"fastmri_{organ}_ak")
    process = config.noise.process
    drawn = process.draw(config.noise, "residual", 0, range(40), (2, 8, 8))
    sigma, b = drawn[0].double(), drawn[2].double()
    time = (sigma / 0.01).log() / math.log(100)
    assert torch.allclose(b, 0.5 * 48**time, rtol=1e-5)
    assert drawn[4].shape[1] == config.noise.attenuated.num_coils >= 15


def test_costs_are_counted() -> None:
    """A 3x3 convolution of 2 x 32 channels costs as many FLOPs as its definition says, three times with gradients."""
    small = [f"network.ddpm.{each}" for each in SMALL["ddpm"]]
    config = config_of("fastmri_knee_vp", *small, "data.crop=16")
    wide = training_cost(config_of("fastmri_knee_vp", *small, "data.crop=32"))
    one = training_cost(config)
    assert wide.activation_bytes / one.activation_bytes == pytest.approx(4, rel=0.1)
    assert 3.9 < wide.flop / one.flop < 4.1 + 1  # attention in the middle grows faster
    full = training_cost(config_of("fastmri_knee_score_mri"))
    assert full.flop == pytest.approx(6.226e12, rel=1e-3)
    coils = training_cost(config_of("fastmri_knee_ak"))
    assert coils.flop == pytest.approx(15 * full.flop, rel=1e-3)


class OneImage:
    """A smooth image of any number of channels."""

    def __init__(self, channels: int, side: int) -> None:
        y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
        self.image = torch.exp(-2 * (x**2 + y**2)).expand(channels, side, side)

    def batch(self, indices: range) -> torch.Tensor:
        return self.image.expand(len(indices), *self.image.shape).clone()


@pytest.mark.slow
@pytest.mark.parametrize("prior", PRIORS)
def test_full_network_takes_a_step(prior: str) -> None:
    """The network of the configuration, on 48 x 48 pixels and one or two coils so that it fits 3 GB."""
    config = config_of(
        f"fastmri_knee_{prior}", "data.crop=48", "batch_size=1", "total_images=1", "noise.attenuated.num_coils=2",
        "monitoring.validation_images=0", "monitoring.num_samples=0",
    )  # fmt: skip
    state = new_state(config, torch.device("cpu"))
    before = [parameter.detach().clone() for parameter in state.network.parameters()]
    losses: list[float] = []
    hooks = Hooks(metrics=lambda _, values: losses.append(values.get("train/loss", math.nan)))
    fit(config, state, OneImage(config.network.channels, 48), hooks, device=torch.device("cpu"))
    assert math.isfinite(losses[0])
    moved = [not torch.equal(a, b) for a, b in zip(before, state.network.parameters(), strict=True)]
    assert any(moved)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two volumes of each organ, converted by its configuration: `multicoil_train` and `multicoil_val`."""
    root = tmp_path_factory.mktemp("fastmri")
    made = {}
    for organ, coils, cols in (("knee", 15, 368), ("brain", 20, 320)):
        for seed, folder in enumerate(("multicoil_train", "multicoil_val")):
            write_scan(root / organ / folder / f"file100000{seed}.h5", coils=coils, cols=cols, seed=seed)
        made[organ] = root / f"{organ}.zarr"
        changes = [f"sources=[{root / organ}]", f"store={made[organ]}", "workers=2"]
        kdrift("convert", "--config", f"fastmri_{organ}", "--quiet", *(w for c in changes for w in ("--set", c)))
    return made


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("organ", ORGANS)
def test_conversion_keeps_the_images(organ: str, stores: dict[str, Path]) -> None:
    store = open_store(str(stores[organ]))
    assert sorted(store.list_volumes()) == ["multicoil_train_file1000000", "multicoil_val_file1000001"]
    volume = store.read_volume("multicoil_train_file1000000")
    assert (volume.info.num_slices, volume.info.rows, volume.info.cols) == (8, 320, 320)
    scan = stores[organ].parent / organ / "multicoil_train" / "file1000000.h5"
    with h5py.File(scan) as file:
        reference = file["reconstruction_rss"][()]
    image = np.abs(volume.read_complex_image(0, 8))
    assert np.linalg.norm(image - reference) < 0.05 * np.linalg.norm(reference)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("name", NAMES)
def test_from_files_to_an_image(name: str, stores: dict[str, Path], tmp_path: Path) -> None:
    organ, prior = name.split("_", 2)[1:]
    store = stores[organ]
    network = config_of(name).network.architecture
    batch = 2 if prior in ("vp", "hfs") else 1
    changes = [
        f"data.stores=[{store}]", "data.drop_first=1", "data.drop_last=1", "data.cache_mib=64",
        *(f"network.{network}.{each}" for each in SMALL[network]),
        f"total_images={50 * batch}", f"batch_size={batch}", "optimisation.warmup_images=10",
        "monitoring.validation_images=2", "monitoring.num_samples=0", "hardware.compile=false",
        "optimisation.learning_rate=1e-3", "data.crop=128", "hardware.precision=float32",
    ]  # fmt: skip
    out = tmp_path / "run"
    words = [word for each in changes for word in ("--set", each)]
    kdrift("train", "--config", name, "--out", str(out), "--quiet", *words)
    made = load_prior(out / "prior")
    assert made.info.images == 50 * batch
    assert [volume.name for volume in made.info.data[0].validation] == ["multicoil_val_file1000001"]
    assert not METHODS[METHOD[prior]].refusal("it", made.task, made.network_config.images)
    scan = store.parent / organ / "multicoil_val" / "file1000001.h5"
    words = ["reconstruct", str(scan), "--slices", "4", "--mask", "equispaced", "--acceleration", "4", "--no-check"]
    words += ["--prior", str(out / "prior"), "--method", METHOD[prior], "--samples", "1", "--out", str(tmp_path / "r")]
    steps = ["num_steps=24" if prior in ("vp", "hfs") else "num_steps=4"]  # VP needs more than beta_max
    steps += ["sigma_max=0.1"] if prior == "score_mri" else []  # what a prior of 50 steps can remove
    kdrift(*words, *(word for each in steps for word in ("--set", each)))
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert math.isfinite(metrics["data_residual"])
