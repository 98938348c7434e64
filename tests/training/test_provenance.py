"""What a finished prior says of its training is what happened: its own data, parent, scale and command."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdrift.cli import main
from kdrift.data.dataset import TrainingImages
from kdrift.data.formats import open_volume
from kdrift.data.store import open_store
from kdrift.data.store_write import write_volume
from kdrift.prior.bundle import load_prior, save_prior
from kdrift.prior.prior_info import CardText, ImageScale, NoiseLeft, Parent, PriorInfo
from kdrift.runs.config import load_config, to_dict
from kdrift.runs.files import file_sha256
from kdrift.sde import WhiteNoise
from kdrift.training.checkpoint import save_checkpoint
from kdrift.training.loop import Hooks, fit, new_state
from kdrift.training.provenance import describe_data, read_noise_left, run_info
from kdrift.training.train_config import TrainConfig
from kdrift.training.trainer import export_prior, train
from training_helpers import tiny_config, write_images

CPU = torch.device("cpu")
TEMPLATES = sorted(
    path
    for path in (Path(__file__).resolve().parents[2] / "configs" / "train").glob("*.yaml")
    if not path.name.startswith("fastmri_")  # of data that each names, with their terms
)


def write_store(folder: Path) -> Path:
    """Write `phantoms.zarr` with k-space volumes knee_a, knee_b (train) and knee_held."""
    store = open_store(folder / "phantoms.zarr", "a")
    for seed, name in enumerate(("knee_a", "knee_b", "knee_held")):
        scan = folder / f"{name}.h5"
        given = ["--slices", str(3 + seed), "--size", "24", "--coils", "2", "--seed", str(seed)]
        assert main(["phantom", "--out", str(scan), *given]) == 0
        with open_volume(scan) as volume:
            write_volume(store, name, volume)
    return folder / "phantoms.zarr"


def trained(config: TrainConfig, out: Path) -> Path:
    """Train in this process, as a worker does, and export as the driver does."""
    info = run_info(config)
    state, latest = new_state(config, CPU), {}
    held = TrainingImages(config.data, "validation", config.seed).validation_batch(2)
    data = TrainingImages(config.data, "train", config.seed)
    fit(config, state, data, Hooks(metrics=lambda _, values: latest.update(values)), validation=held, device=CPU)
    content = {**state.state_dict(), "config": to_dict(config), "metrics": latest}
    save_checkpoint(out / "checkpoints", content, images=state.images, keep=1)
    return export_prior(config, out, replace(info, mlflow_run="r1"))


def test_the_card_is_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write_store(tmp_path)
    more = write_images(tmp_path / "more.npz", 2)  # v0 and v1
    base = tiny_config(more)
    parent = save_prior(tmp_path / "first" / "prior", new_state(base, CPU).network, base.network, PriorInfo(_white()))
    monkeypatch.setattr(sys, "argv", ["/usr/bin/kdrift", "train", "--config", str(tmp_path / "knees.yaml")])
    data = replace(base.data, stores=[str(store), str(more)], validation=["knee_held"], quantile=0.9, drop_first=1)
    text = CardText("Knees of phantoms.", data_licence="my own")
    config = replace(base, name="knees", data=data, card=text, init_from=str(parent), total_images=16)
    folder = trained(config, tmp_path / "out")
    info, card = load_prior(folder).info, (folder / "README.md").read_text()

    assert info.process == config.noise.process
    assert info.scale == ImageScale("quantile", 0.9)  # carried: reconstructions scale alike
    assert info.images == 16
    assert [row.sigma for row in info.noise_left] == [0.1, 1.0]
    assert info.parents == (Parent("first/prior", file_sha256(parent / "model.safetensors")),)
    (phantoms, arrays) = info.data
    assert [(v.name, v.num_slices) for v in phantoms.train] == [("knee_a", 2), ("knee_b", 3)]
    assert [(v.name, v.num_slices) for v in phantoms.validation] == [("knee_held", 4)]
    assert (phantoms.name, phantoms.sha256) == ("phantoms.zarr", "")
    assert len({v.checksum for v in (*phantoms.train, *phantoms.validation)}) == 3
    assert (arrays.name, arrays.sha256) == ("more.npz", file_sha256(more))
    assert [v.name for v in arrays.train] == ["v0", "v1"]

    assert card.startswith("# knees\n\nKnees of phantoms.\n")
    for said in (
        "licence of the data: my own",
        "citation of the data: not stated",
        "training: 2 volumes with 5 slices: knee_a",
        "validation: 1 volume with 4 slices: knee_held",
        f"more.npz, sha256 {file_sha256(more)}",
        "starts from the weights of first/prior",
        "kdrift train --config knees.yaml\n",
        "the 0.9 quantile of each volume's magnitudes is 1",
        "16 training images of 16 x 16",
        f"| 0.1 | {info.noise_left[0].fraction:.4f} |",
    ):
        assert said in card
    for other in ("CC-BY", "patient", "Lesjak", "brain"):
        assert other not in card
    for file in ("README.md", "config.yaml"):  # folders of this machine are nobody's business
        assert str(tmp_path) not in (folder / file).read_text()


def _white() -> WhiteNoise:
    return WhiteNoise(0.01, 5.0)


def test_checksums_follow_the_data(tmp_path: Path) -> None:
    store = write_store(tmp_path)
    config = replace(tiny_config(tmp_path).data, stores=[str(store)], validation=["knee_held"])
    before = describe_data(config)
    assert describe_data(config) == before
    with open_volume(tmp_path / "knee_b.h5") as volume:  # other data under the same name
        write_volume(open_store(store, "a"), "knee_a", volume)
    (after,) = describe_data(config)
    assert after.train[0].checksum == before[0].train[1].checksum != before[0].train[0].checksum
    assert after.train[1] == before[0].train[1]
    path = tmp_path / "one.npy"
    np.save(path, np.ones((3, 24, 24), np.float32))
    (arrays,) = describe_data(replace(config, stores=[str(path)], validation=[]))
    assert (arrays.sha256, arrays.train[0].name) == (file_sha256(path), "one")


def test_the_scale_is_the_configured_rule(tmp_path: Path) -> None:
    path = write_images(tmp_path / "images.npz")
    config = tiny_config(path).data
    with np.load(path) as archive:
        volume = archive["v0"]
    for rule, divisor in (("std", volume.std()), ("max", volume.max()), ("quantile", np.quantile(volume, 0.9))):
        data = replace(config, scale=rule, quantile=0.9)
        assert data.image_scale == ImageScale(rule, 0.9)  # type: ignore[arg-type]
        for cache in (4096, 0):
            found = TrainingImages(replace(data, cache_mib=cache)).slice(0)
            np.testing.assert_allclose(found, volume[0] / divisor, rtol=2e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"quantile is 0\.0"):
        replace(config, quantile=0.0)


def test_rows_of_the_validation_are_read_from_the_metrics() -> None:
    metrics = {"train/loss": 1.0, "validation/noise_left_sigma_0.02": 0.5, "validation/noise_left_sigma_1": 0.25}
    assert read_noise_left(metrics) == (NoiseLeft(0.02, 0.5), NoiseLeft(1.0, 0.25))


def test_names_of_shipped_priors_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(write_images(tmp_path / "images.npz"), name="brain-complex-small")
    with pytest.raises(ValueError, match="brain-complex-small is the name of a prior that comes with kdrift"):
        train(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    prior = save_prior(tmp_path / "p", new_state(config, CPU).network, config.network, PriorInfo(_white()))
    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    given = ["register", str(prior), "--tracking-uri", database, "--name", "brain-hfs"]
    assert main(given) == 1
    assert "give yours another name" in capsys.readouterr().err
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_templates_say_nothing_of_data_and_take_no_shipped_name(path: Path) -> None:
    config = load_config(TrainConfig, path)
    assert config.name.startswith("my-") or config.name == "tiny"
    assert (config.card.data_licence, config.card.data_citation) == ("", "")
    assert "CC-BY" not in path.read_text()
    assert config.data.exclude == config.data.validation == []
