"""MLflow run life and registry on a real SQLite store."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdrift import __version__
from kdrift.cli import main
from kdrift.prior.bundle import load_prior
from kdrift.runs import registry, tracking
from kdrift.runs.files import file_sha256

# MLflow calls deprecated parts of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("tracking")
    return tracking.default_uri(folder), folder


def test_run_is_resumed_not_doubled(store: tuple[str, Path]) -> None:
    uri, folder = store
    run_id = tracking.start_run(uri, "run", {"a.b": 1, "long": "x" * 9000}, folder / "artifacts")
    tracking.log_metrics(uri, run_id, {"train/loss": 2.0}, step=10)
    tracking.finish_run(uri, run_id, "KILLED", "interrupted")
    client = tracking.client(uri)
    assert client.get_run(run_id).info.status == "KILLED"
    assert client.get_run(run_id).data.tags["stopped"] == "interrupted"
    tracking.resume_run(uri, run_id)
    tracking.log_metrics(uri, run_id, {"train/loss": 2.0}, step=10)  # a replay
    tracking.log_metrics(uri, run_id, {"train/loss": 1.0}, step=20)
    assert client.get_run(run_id).info.status == "RUNNING"
    tracking.finish_run(uri, run_id, "FINISHED")
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert "stopped" not in run.data.tags
    assert run.data.params["a.b"] == "1"
    assert run.data.metrics["train/loss"] == 1.0
    assert len(client.search_runs([run.info.experiment_id])) == 1
    assert {point.step for point in client.get_metric_history(run_id, "train/loss")} == {10, 20}
    with pytest.raises(ValueError, match="cannot resume MLflow run 0123"):
        tracking.resume_run(uri, "0123")


def test_a_run_says_what_made_it(store: tuple[str, Path]) -> None:
    """Command, user, version and commit, and the data; its experiment is opened in the pages for models."""
    uri, folder = store
    run_id = tracking.start_run(uri, "run", {}, folder / "artifacts")
    tracking.log_dataset(uri, run_id, "images.zarr", "0123456789abcdef" * 4, "training")
    client = tracking.client(uri)
    run = client.get_run(run_id)
    assert run.data.tags["kdrift"] == __version__
    assert run.data.tags["mlflow.source.type"] == "LOCAL"
    assert run.data.tags["mlflow.source.name"]
    assert len(run.data.tags.get("mlflow.source.git.commit", 40 * "0")) == 40
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("images.zarr", ("0123456789abcdef" * 4)[:36])
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "training")]
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    tracking.finish_run(uri, run_id, "FINISHED")


def test_any_name_and_any_number_of_parameters_is_taken(store: tuple[str, Path]) -> None:
    uri, folder = store
    names = {f"resolved.calibrations.brain, lines at {number}x, centre 4 to 20 %": number for number in range(120)}
    run_id = tracking.start_run(uri, "run", names | {"ä" * 300: 1}, folder / "artifacts")
    params = tracking.client(uri).get_run(run_id).data.params
    assert len(params) == 121
    assert params["resolved.calibrations.brain_ lines at 119x_ centre 4 to 20 _"] == "119"
    tracking.finish_run(uri, run_id, "FINISHED")


def test_the_candidate_is_the_newest_version_and_the_champion_the_chosen_one(
    store: tuple[str, Path], tmp_path: Path
) -> None:
    uri, folder = store
    bundle = tmp_path / "prior"
    bundle.mkdir()
    for weights in (b"first", b"second"):
        (bundle / "model.safetensors").write_bytes(weights)
        (bundle / "README.md").write_text("# card")
        run_id = tracking.start_run(uri, "run", {}, folder / "artifacts")
        version = registry.register_prior(uri, run_id, bundle, "brain")
        tracking.finish_run(uri, run_id, "FINISHED")
    assert version == "2"
    with pytest.raises(ValueError, match=r"no prior brain \(version champion\).*kdrift promote brain chooses one"):
        registry.download_prior(uri, "brain", tmp_path / "c")
    registry.set_alias(uri, "brain", registry.CHAMPION, version, {})
    newest, found = registry.download_prior(uri, "brain", tmp_path / "a")
    oldest, _ = registry.download_prior(uri, "brain", tmp_path / "b", version="1")
    assert found == version
    assert (newest / "model.safetensors").read_bytes() == b"second"
    assert (oldest / "model.safetensors").read_bytes() == b"first"
    resolved = tracking.client(uri).get_model_version_by_alias("brain", registry.CANDIDATE)
    assert str(resolved.version) == version
    newest_sha256, oldest_sha256 = (file_sha256(bundle / "model.safetensors") for bundle in (newest, oldest))
    assert resolved.tags["sha256"] == newest_sha256 != oldest_sha256
    with pytest.raises(ValueError, match=r"no prior heart \(version champion\)"):
        registry.download_prior(uri, "heart", tmp_path / "c")


def test_a_prior_whose_files_are_not_those_that_were_registered_is_not_kept(
    store: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, folder = store
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (tmp_path / "prior").mkdir()
    (tmp_path / "prior" / "model.safetensors").write_bytes(b"weights")
    run_id = tracking.start_run(uri, "run", {}, folder / "artifacts")
    registry.register_prior(uri, run_id, tmp_path / "prior", "liver")
    tracking.finish_run(uri, run_id, "FINISHED")
    (stored,) = (folder / "artifacts" / run_id).rglob("model.safetensors")
    stored.write_bytes(b"other weights")
    with pytest.raises(ValueError, match=r"models:/liver/1: the files of version 1 hold weights .*, the registry at"):
        registry.fetch_prior("models:/liver/1")
    stored.write_bytes(b"weights")
    assert (registry.fetch_prior("models:/liver/1") / "model.safetensors").read_bytes() == b"weights"


def test_ui_command() -> None:
    assert tracking.ui_command("sqlite:////x/mlflow.db").endswith(
        "mlflow ui --backend-store-uri sqlite:////x/mlflow.db"
    )
    assert tracking.ui_command("http://mlflow:5000") == "open http://mlflow:5000"


def test_register_verb_puts_a_shipped_prior_into_the_registry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = tracking.default_uri(tmp_path)
    for version in ("1", "2"):
        assert main(["register", "brain-magnitude", "--tracking-uri", uri]) == 0
        assert f"brain-magnitude version {version} (alias candidate)" in capsys.readouterr().out
    bundle, _ = registry.download_prior(uri, "brain-magnitude", tmp_path / "downloaded", "2")
    assert load_prior(bundle).sha256 == load_prior("brain-magnitude").sha256
    assert main(["register", "brain-magnitud", "--tracking-uri", uri]) == 1
    assert "did you mean 'brain-magnitude'" in capsys.readouterr().err
