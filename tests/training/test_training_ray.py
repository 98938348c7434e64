"""Training on a real local Ray cluster with a real MLflow store: a killed worker, its run, its prior."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from kdrift.data.convert import ConvertConfig, convert
from kdrift.data.dataset import TrainingImages
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.phantom import phantom_volume
from kdrift.prior.bundle import load_prior
from kdrift.runs import registry, tracking
from kdrift.runs.config import to_dict
from kdrift.runs.files import file_sha256, read_json
from kdrift.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from kdrift.training.loop import Hooks, fit, new_state
from kdrift.training.train_config import TrainConfig
from kdrift.training.trainer import TrainResult, train
from training_helpers import tiny_config, write_images

# MLflow and Ray call deprecated parts of their own dependencies
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@dataclass(frozen=True)
class Killed:
    """A run of two workers of which one was killed."""

    config: TrainConfig
    result: TrainResult
    out: Path
    killed_after: int
    lines: list[str]


def kill_when(progress: Path, images: int, seen: list[int], give_up: threading.Event) -> None:
    """Kill rank 0 with SIGKILL once it has come beyond `images`."""
    while not give_up.wait(0.05):
        values = read_json(progress)
        if values.get("images", 0) > images:
            os.kill(values["pid"], signal.SIGKILL)
            seen.append(values["images"])
            return


@pytest.fixture(scope="module")
def killed(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    config = tiny_config(
        write_images(folder / "images.npz"),
        total_images=1600,
        optimisation={"learning_rate": 1e-4, "warmup_images": 160, "ema_halflife_images": 160},
        monitoring={
            "log_every_images": 80, "validate_every_images": 800, "validation_images": 4,
            "validation_sigmas": [0.1, 1.0], "num_samples": 2, "sample_steps": 4,
        },
        checkpoint={"every_images": 160, "keep": 100},
        hardware={"precision": "float32"},
    )  # fmt: skip
    seen: list[int] = []
    lines: list[str] = []
    give_up = threading.Event()
    out = folder / "out"
    killer = threading.Thread(target=kill_when, args=(out / "progress.json", 400, seen, give_up))
    killer.start()
    try:
        result = train(config, out, workers=2, echo=lines.append)
    finally:
        give_up.set()
        killer.join()
    assert seen, "training was over before the worker could be killed"
    return Killed(config, result, out, seen[0], lines)


def test_run_completes_after_sigkill(killed: Killed) -> None:
    assert killed.result.images == 1600
    assert killed.killed_after < 1600
    assert any("a worker was lost: training goes on from image" in line for line in killed.lines)
    names = [path.name for path in list_checkpoints(killed.out / "checkpoints")]
    assert names == [f"images_{count:012d}" for count in range(160, 1601, 160)]


def test_one_mlflow_run_and_losses_continue(killed: Killed) -> None:
    client = tracking.client(killed.result.tracking_uri)
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id])
    assert [(run.info.run_id, run.info.status) for run in runs] == [(killed.result.run_id, "FINISHED")]
    assert runs[0].data.params["network.ncsnpp.nf"] == "8"
    history = client.get_metric_history(killed.result.run_id, "train/loss")
    assert sorted({point.step for point in history}) == list(range(80, 1601, 80))
    replayed = {}
    for point in history:  # a step that was trained again has the same loss again
        assert point.value == pytest.approx(replayed.setdefault(point.step, point.value), rel=1e-3)
    left = client.get_metric_history(killed.result.run_id, "validation/noise_left_sigma_1")
    assert {point.step for point in left} == {800, 1600}
    previews = {item.path for item in client.list_artifacts(killed.result.run_id, "previews")}
    assert {"previews/samples_000000001600.png", "previews/denoised_000000001600.png"} <= previews


def test_one_worker_equals_two(killed: Killed) -> None:
    """The same global batch without Ray, in one process: only the order of summation differs."""
    config = killed.config
    found: dict[int, list[torch.Tensor]] = {}

    def keep(state: object) -> None:
        found[reference.images] = [value.clone() for value in reference.network.state_dict().values()]

    reference = new_state(config, torch.device("cpu"))
    data = TrainingImages(config.data, "train", config.seed)
    fit(replace(config, total_images=800), reference, data, Hooks(checkpoint=keep), device=torch.device("cpu"))
    for count, tolerance in ((160, 1e-5), (800, 1e-3)):
        saved = load_checkpoint(killed.out / "checkpoints" / f"images_{count:012d}")["network"]
        for ours, theirs in zip(found[count], saved.values(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_registry_round_trip(killed: Killed, tmp_path: Path) -> None:
    client = tracking.client(killed.result.tracking_uri)
    version = client.get_model_version_by_alias("tiny", registry.CANDIDATE)
    assert killed.result.registered == f"models:/tiny/{version.version}"
    assert version.run_id == killed.result.run_id
    fetched, found = registry.download_prior(killed.result.tracking_uri, "tiny", tmp_path, str(version.version))
    assert found == str(version.version)
    digest = file_sha256(killed.out / "prior" / "model.safetensors")
    assert file_sha256(fetched / "model.safetensors") == version.tags["sha256"] == digest
    assert (fetched / "README.md").read_text().startswith("# tiny")
    prior = load_prior(fetched)
    assert prior.sha256 == digest
    assert prior.sigma_range == (0.01, 20.0)
    saved = load_checkpoint(killed.out / "checkpoints" / "images_000000001600")["ema"]
    for name, value in prior.network.state_dict().items():
        assert torch.equal(value, saved[name])


def test_an_output_folder_holds_one_run(killed: Killed) -> None:
    with pytest.raises(ValueError, match="already holds a run: pass --resume"):
        train(killed.config, killed.out)
    with pytest.raises(ValueError, match="seed was 3 and is now 4"):
        train(replace(killed.config, seed=4), killed.out, resume=True)


@pytest.mark.slow
def test_training_from_a_store_in_half_precision(cluster: None, tmp_path: Path) -> None:
    """Scans to complex images in half precision to a prior, on Ray; it names the store's volumes as its data."""
    for number in range(2):
        volume = phantom_volume(3, 32, 32, 4, seed=number)
        write_fastmri(tmp_path / "scans" / f"v{number}.h5", volume.kspace, attrs=volume.attrs)
    store = str(tmp_path / "x.zarr")
    made = convert(ConvertConfig([str(tmp_path / "scans")], store, complex_images=True, precision="float16"))
    assert (made.converted, made.failed, made.num_bytes) == (("v0", "v1"), {}, 2 * 3 * 32 * 32 * 4)
    data = {"stores": [store], "validation": ["v1"], "crop": 16, "augment_phase": "measured"}
    result = train(tiny_config(tmp_path, data=data), tmp_path / "out", workers=1, echo=lambda line: None)
    prior = load_prior(tmp_path / "out" / "prior")
    assert (result.images, prior.info.images) == (64, 64)
    (source,) = prior.info.data
    assert [volume.name for volume in (*source.train, *source.validation)] == ["v0", "v1"]


def test_unusable_data_is_named_before_anything_starts(tmp_path: Path) -> None:
    config = tiny_config(write_images(tmp_path / "images.npz"))
    with pytest.raises(ValueError, match="no volume for the validation split"):
        train(replace(config, data=replace(config.data, validation=["v7"])), tmp_path / "out")
    with pytest.raises(OSError, match="absent"):
        train(
            replace(config, data=replace(config.data, stores=[str(tmp_path / "absent.npz")])),
            tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_non_finite_loss_fails_the_run_and_keeps_what_was_there(cluster: None, tmp_path: Path) -> None:
    """Resume a run whose data has turned bad: one sentence, no retry, everything as it was."""
    path = write_images(tmp_path / "images.npz")
    config = tiny_config(path)
    out = tmp_path / "out"
    state = new_state(config, torch.device("cpu"))
    state.images = 16
    good = save_checkpoint(out / "checkpoints", {**state.state_dict(), "metrics": {}}, images=16, keep=2)
    uri = tracking.default_uri(out)
    run_id = tracking.start_run(uri, "tiny", {}, out / "artifacts")
    (out / "run.json").write_text(json.dumps({"tracking_uri": uri, "run_id": run_id}))
    (out / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    with np.load(path) as archive:
        volumes = dict(archive)
    for volume in volumes.values():
        volume[:, 12, 12] = np.inf  # too few to change the scale
    np.savez(path, **volumes)
    before = (good / "state.pt").read_bytes()
    started = time.monotonic()
    with pytest.raises(ValueError, match="at image 16: stopped before the step"):
        train(config, out, resume=True)
    assert time.monotonic() - started < 60
    assert [path.name for path in list_checkpoints(out / "checkpoints")] == [good.name]
    assert (good / "state.pt").read_bytes() == before
    assert not (out / "prior").exists()
    run = tracking.client(uri).get_run(run_id)
    assert run.info.status == "FAILED"
    assert "stopped before the step" in run.data.tags["stopped"]
