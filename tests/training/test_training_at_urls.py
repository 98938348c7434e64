"""Trainings whose output is at a URL: checkpoints come and go there, a run goes on on another machine, nodes apart."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from kdrift.prior.bundle import find_prior, load_prior
from kdrift.runs.config import to_dict
from kdrift.runs.home import working_folder
from kdrift.training.train_config import TrainConfig
from kdrift.training.trainer import TrainResult, train
from node_helpers import node_apart, switch_off
from s3_helpers import Server
from training_helpers import tiny_config, write_images

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return tiny_config(write_images(tmp_path_factory.mktemp("images") / "images.npz"))


def trained(config: TrainConfig, url: str, resume: bool = False) -> TrainResult:
    return train(config, url, resume=resume, echo=lambda line: None, quiet=True)


def checkpoints(server: Server, url: str) -> list[str]:
    names = [name.split("/") for name in server.shown(url) if name.startswith("checkpoints/")]
    assert all(file in ("state.pt", "SHA256SUMS") for _, _, file in names)
    return sorted({folder for _, folder, _ in names})


def check_trained(server: Server, url: str, result: TrainResult, images: int, folder: Path) -> None:
    assert result.images == images
    newest = [f"images_{count:012d}" for count in (images - 16, images)]
    assert checkpoints(server, url) == newest, "the two newest, and no more"
    names = set(server.shown(url))
    assert {"config.yaml", "run.json", "mlflow.db", "log.jsonl", "workers.json", "prior/SHA256SUMS"} < names
    assert f"previews/samples_{images:012d}.png" in names
    assert not [name for name in names if name.startswith("ray/") or name == "progress.json"]
    for name in names:
        if name.startswith("prior/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(server.read(f"{url}/{name}"))
    digest = load_prior(result.prior).sha256
    assert load_prior(folder / "prior").sha256 == load_prior(f"{url}/prior").sha256 == digest
    assert find_prior(f"{url}/prior") == find_prior(f"{url}/prior/")


def test_a_training_goes_on_on_another_machine(
    cluster: None, server: Server, url: str, config: TrainConfig, tmp_path: Path, elsewhere: Callable[[], None]
) -> None:
    first = trained(config, url)
    check_trained(server, url, first, 64, tmp_path / "first")
    elsewhere()
    with pytest.raises(ValueError, match="already holds a run: pass --resume"):
        trained(config, url)
    second = trained(replace(config, total_images=96), url, resume=True)
    check_trained(server, url, second, 96, tmp_path / "second")
    assert server.read_json(f"{url}/workers.json")["from_image"] == 64
    assert second.run_id == first.run_id
    assert str(working_folder(url)) in second.tracking_uri
    assert second.registered == "models:/tiny/2"


def test_a_training_whose_driver_was_killed_goes_on_on_another_machine(
    server: Server, url: str, config: TrainConfig, tmp_path: Path, elsewhere: Callable[[], None]
) -> None:
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(to_dict(replace(config, total_images=100000))))
    command = [sys.executable, "-m", "kdrift", "train", "--quiet", "--config", str(tmp_path / "train.yaml")]
    driver = subprocess.Popen([*command, "--out", url], start_new_session=True, stdout=subprocess.DEVNULL)
    while not (found := [name for name in server.shown(url) if name.endswith("SHA256SUMS")]):
        assert driver.poll() is None
        time.sleep(0.5)
    switch_off(driver)
    newest = max(int(name.split("/")[1].removeprefix("images_")) for name in found)
    elsewhere()
    result = trained(replace(config, total_images=newest + 48), url, resume=True)
    start = server.read_json(f"{url}/workers.json")["from_image"]
    assert newest <= start <= result.images


def test_a_training_on_a_node_that_does_not_see_the_working_folder(
    server: Server, url: str, config: TrainConfig, tmp_path: Path
) -> None:
    """Its checkpoints are written, and read again, where the driver is."""
    with node_apart(tmp_path / "cache"):
        first = trained(config, url)
        check_trained(server, url, first, 64, tmp_path / "first")
        second = trained(replace(config, total_images=96), url, resume=True)
    check_trained(server, url, second, 96, tmp_path / "second")
    assert server.read_json(f"{url}/workers.json")["from_image"] == 64
