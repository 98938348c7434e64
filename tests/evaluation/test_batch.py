"""Batches and evaluations on a real local Ray cluster: a killed actor, any number of actors, resuming, the table."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from batch_helpers import (
    MASK,
    PLAN,
    batch_values,
    check_against_reconstruct,
    make_inputs,
    reconstructed,
    write_config,
)
from kdrift.cli import main
from kdrift.data.store import open_store
from kdrift.data.store_write import write_volume
from kdrift.evaluation.batch import BatchConfig, reconstruct_batch
from kdrift.evaluation.partial import load_slice, slices_left
from kdrift.evaluation.work import volume_tasks
from kdrift.prior.bundle import load_prior
from kdrift.recon.plan import Plan
from kdrift.runs import tracking
from kdrift.runs.config import parse, to_dict

# MLflow and Ray call deprecated parts of their own dependencies
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
SLOWER = replace(PLAN, settings={"num_steps": 15}, batch_samples=1)  # rounding depends on what runs together


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@dataclass
class Killer:
    """Takes the lines of a batch and kills its first actor once a slice is done."""

    out: Path
    lines: list[str] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    killed: bool = False
    give_up: threading.Event = field(default_factory=threading.Event)

    def echo(self, line: str) -> None:
        self.lines.append(line)
        if "is up: process" in line:
            self.pids.append(int(line.rpartition(" ")[2]))

    def watch(self) -> None:
        while not self.give_up.wait(0.02):
            if self.pids and list(self.out.glob(".partial/*/*.npz")):
                time.sleep(0.1)
                os.kill(self.pids[0], signal.SIGKILL)
                self.killed = True
                return


@pytest.mark.slow
def test_a_killed_actor_changes_nothing(cluster: None, inputs: dict[str, str], tmp_path: Path) -> None:
    killer = Killer(tmp_path / "out")
    config = parse(BatchConfig, batch_values(inputs, tmp_path / "out", plan=to_dict(SLOWER), output="h5,bart"))
    thread = threading.Thread(target=killer.watch)
    thread.start()
    try:
        report = reconstruct_batch(config, echo=killer.echo)
    finally:
        killer.give_up.set()
        thread.join()
    assert killer.killed
    assert any("lost its actor: another one does it again" in line for line in killer.lines), killer.lines
    assert len(killer.pids) >= 2
    assert (report.volumes, report.slices, report.slices_before, report.failed) == (2, 5, 0, {})
    assert any("left" in line for line in killer.lines)
    check_against_reconstruct(inputs, tmp_path / "out", SLOWER)
    with h5py.File(tmp_path / "out" / "large" / "reconstruction.h5") as file:
        settings = json.loads(file.attrs["kdrift"])
    assert settings["slices"] == [0, 1, 2]
    assert settings["nfe"] == 15
    assert settings["config"]["prior"]["name"] == "prior"
    assert settings["seconds"] == pytest.approx(sum(settings["stages_seconds"].values()))
    assert (tmp_path / "out" / "large" / "panel.png").stat().st_size > 0
    dimensions = (tmp_path / "out" / "large" / "std.hdr").read_text().splitlines()[1].split()
    assert dimensions[13] == "3"
    # nothing is done twice, and nothing else goes into the folder
    again = reconstruct_batch(config, echo=killer.echo)
    assert (again.volumes, again.slices, again.slices_before) == (0, 0, 5)
    with pytest.raises(ValueError, match=r"plan\.seed was 5 and is now 6"):
        reconstruct_batch(replace(config, plan=replace(config.plan, seed=6)))


@pytest.mark.slow
def test_a_batch_that_was_stopped_gives_the_verdicts_of_one_that_was_not(
    cluster: None, inputs: dict[str, str], tmp_path: Path
) -> None:
    """A slice that is not trusted is said at once; one that is kept on the disk keeps its verdict, numbers and all."""
    plan, out, lines = replace(PLAN, on_mistrust="fallback"), tmp_path / "out", list[str]()
    config = parse(BatchConfig, batch_values(inputs, out, plan=to_dict(plan)))

    def stop(line: str) -> None:
        lines.append(line)
        if sum("not trusted: " in line for line in lines) == 2:
            raise KeyboardInterrupt

    expected = {
        (name, index): verdict
        for name, result in reconstructed(inputs, plan).items()
        for index, verdict in result.verdicts.items()
    }
    assert {verdict.given for verdict in expected.values()} == {"tv"}  # its prior is not trained
    with pytest.raises(KeyboardInterrupt):
        reconstruct_batch(config, echo=stop)
    prior = load_prior(inputs["prior"])
    tasks = volume_tasks(config.store, config.volumes, config, config.plan.resolve(prior), out)
    kept = {(task.out.name, index): load_slice(task, index) for task in tasks for index in task.slices
            if index not in slices_left(task)}  # fmt: skip
    assert len(kept) == 1
    report = reconstruct_batch(config, echo=lines.append)
    assert (report.slices, report.slices_before) == (4, 1)
    for (name, index), (_, slice_result) in kept.items():  # type: ignore[misc]
        verdict, other = slice_result.verdict, expected[name, index]
        assert verdict == replace(other, evidence=verdict.evidence)
        assert verdict.evidence.groups == other.evidence.groups
    said = {line for line in lines if "not trusted: " in line}
    assert said == {f"{name}: slice {index}: {verdict}" for (name, index), verdict in expected.items()}
    assert lines[-1].startswith("slices: 5 not trusted (")
    check_against_reconstruct(inputs, out, plan)
    for name in ("small", "large"):
        found = json.loads((out / name / "metrics.json").read_text())
        assert found["verdict"] == "not trusted"
        for index, told in found["verdicts"].items():
            verdict = expected[name, int(index)]
            assert (told["level"], told["given"], tuple(told["reasons"])) == ("not trusted", "tv", verdict.reasons)
            assert (told["factor"], told["predictions"]) == (verdict.factor, verdict.evidence.predictions)


@pytest.mark.slow
def test_split_slices_and_failed_volumes(
    cluster: None, inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One slice of each volume by a method with independent coils; one volume is empty there, and is named."""
    plan = Plan("score_mri_ssos", "paper", {"num_steps": 2}, num_samples=1, seed=1, precision="float32")
    broken = make_inputs(tmp_path)
    with open_store(broken["store"], "a") as store:
        volume = store.read_volume("small")
        kspace = volume.read_kspace(0, volume.info.num_slices)
        kspace[1] = 0
        write_volume(store, "small", replace(volume, load_kspace=lambda start, stop: kspace[start:stop]))
    values = batch_values(broken, tmp_path / "out", slices=[1, 2], plan=to_dict(plan))
    assert main(["reconstruct", "--config", str(write_config(tmp_path / "batch.yaml", values))]) == 1
    printed = capsys.readouterr()
    assert "2 slices of 2 volumes in 2 units on 2 actors" in printed.out
    assert "kdrift: failed: small: slice 1: kspace is zero everywhere" in printed.err
    single = [
        "reconstruct",
        f"{broken['store']}/large",
        "--out",
        str(tmp_path / "single"),
        "--method",
        "score_mri_ssos",
    ]
    mask = ["--mask", "equispaced", "--acceleration", "2", "--acs-lines", "12", "--slices", "1"]
    rest = ["--steps", "2", "--samples", "1", "--seed", "1", "--precision", "float32", "--prior", broken["prior"]]
    assert main([*single, *mask, *rest, "--preset", "paper"]) == 0
    # the volume that failed is tried again; split over two actors by its coils
    values["volumes"] = ["large"]
    assert (
        main(
            [
                "reconstruct",
                "--config",
                str(write_config(tmp_path / "batch.yaml", values)),
                "--out",
                str(tmp_path / "o2"),
            ]
        )
        == 0
    )
    assert "1 slices of 1 volumes in 2 units on 2 actors" in capsys.readouterr().out
    with (
        h5py.File(tmp_path / "o2" / "large" / "reconstruction.h5") as one,
        h5py.File(tmp_path / "single" / "reconstruction.h5") as two,
    ):
        assert (
            np.abs(one["reconstruction"][:] - two["reconstruction"][:]).max() <= 1e-5 * two["reconstruction"][:].max()
        )


def test_evaluation_writes_one_table_and_grows(
    cluster: None, inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {
        "name": "small", "store": inputs["store"], "out": str(tmp_path / "out"), "prior": inputs["prior"],
        "slices": [0, 1], "masks": {"eq2": to_dict(MASK)}, "pool": {"actors": 2},
        "methods": {"zero": {"method": "zero_filled"}, "annealed": to_dict(PLAN)},
    }  # fmt: skip
    path = write_config(tmp_path / "evaluate.yaml", values)
    assert main(["evaluate", "--config", str(path)]) == 0
    first = capsys.readouterr().out
    assert "4 slices of 4 volumes" in first
    values["methods"] |= {"cg": {"method": "cg_sense", "settings": {"weight": 0.01}}}
    assert main(["evaluate", "--config", str(write_config(path, values))]) == 0
    assert "4 of 6 slices are done already" in capsys.readouterr().out
    table = (tmp_path / "out" / "table.md").read_text()
    rows = [line.split(" | ")[:4] for line in table.splitlines()[2:]]
    assert rows == [["| eq2", method, "simulated", "2"] for method in ("zero", "annealed", "cg")]
    assert "±" in table
    assert len((tmp_path / "out" / "table.csv").read_text().splitlines()) == 4
    found = json.loads((tmp_path / "out" / "table.json").read_text())
    assert len(found["volumes"]) == 6
    zero, annealed, _ = found["rows"]
    assert sum(annealed[level] for level in ("trusted", "caution", "not_trusted", "not_checked")) == 2
    assert (annealed["not_trusted"], annealed["given"]) == (2, 0)  # its prior is not trained
    assert [zero[name] for name in ("not_trusted", "not_checked", "coverage_mean")] == [0, 0, None]
    assert all(annealed[f"{name}_mean"] > 0 for name in ("coverage", "std_error_ratio", "ause"))
    assert "| 2 not trusted | - |" in table
    own = json.loads((tmp_path / "out" / "cells" / "eq2" / "annealed" / "large" / "metrics.json").read_text())
    assert own["metrics"]["psnr"] in [volume["metrics"]["psnr"] for volume in found["volumes"]]
    uri = tracking.default_uri(tmp_path / "out")
    client = tracking.client(uri)
    runs = client.search_runs([client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert runs[0].data.metrics["psnr/eq2 cg simulated"] == pytest.approx(found["rows"][2]["psnr_mean"])
    assert runs[0].data.metrics["coverage/eq2 annealed simulated"] == annealed["coverage_mean"]
    assert runs[0].data.metrics["not_trusted/eq2 annealed simulated"] == 2
    assert "coverage/eq2 cg simulated" not in runs[0].data.metrics
    assert (runs[0].data.tags["verdict"], runs[0].data.tags["kind"]) == ("not trusted", "evaluation")
    assert runs[0].data.tags["mlflow.note.content"].startswith("| mask |")
    assert [(each.dataset.name, each.tags[0].value) for each in runs[0].inputs.dataset_inputs] == [
        ("store.zarr", "evaluation")
    ]
    assert {item.path for item in client.list_artifacts(runs[0].info.run_id, "panels/eq2")} == {
        f"panels/eq2/{method}" for method in ("zero", "annealed", "cg")
    }
    values["methods"]["cg"]["settings"]["weight"] = 0.02
    assert main(["evaluate", "--config", str(write_config(path, values))]) == 1
    assert "methods.cg.settings.weight was 0.01 and is now 0.02" in capsys.readouterr().err


def test_options_beside_a_configuration_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reconstruct", "--config", "x.yaml", "--samples", "3"]) == 2
    assert "leave --samples out, or change the value with --set" in capsys.readouterr().err
    assert main(["reconstruct", "s.zarr/v", "--config", "x.yaml"]) == 2
    assert "leave INPUT out" in capsys.readouterr().err
    assert main(["convert", "--config", "x.yaml", "--smaps"]) == 2
    assert "leave --smaps out" in capsys.readouterr().err
    assert main(["reconstruct"]) == 2
    assert "give INPUT and --out DIR, or --config FILE" in capsys.readouterr().err


@pytest.mark.slow
def test_slices_without_a_sample_left(cluster: None, inputs: dict[str, str], tmp_path: Path) -> None:
    """By the pool as by `reconstruct`: the volume fails and says why, or has CG-SENSE there."""
    silly = Plan("score_mri_ssos", "paper", {"num_steps": 20, "snr": 50.0}, num_samples=1, precision="float32")
    lines: list[str] = []
    for on_divergence in ("error", "fallback"):
        chosen = replace(silly, on_divergence=on_divergence)
        values = batch_values(inputs, tmp_path / on_divergence, slices=[0, 1], volumes=["small"], plan=to_dict(chosen))
        report = reconstruct_batch(parse(BatchConfig, values), echo=lines.append)
        if on_divergence == "error":
            (reason,) = report.failed.values()
            assert reason.startswith("slice 0: the sample diverged, sample 0 at step ")
        else:
            assert report.failed == {}
    assert any(line.startswith("small: slice 0: samples diverged: 0 (0 at step") for line in lines), lines
    found = json.loads((tmp_path / "fallback" / "small" / "metrics.json").read_text())
    assert (found["fallback"], list(found["diverged"]["0"])) == ([0], ["0"])
