"""The tour: its commands parse, a failing step ends it, and (slow) it runs to the end and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from benchmarks import tour

from kdrift.cli import parse
from kdrift.runs.config import load_config
from kdrift.training.train_config import TrainConfig
from kdrift.tuning.tune_config import TuneConfig

REPOSITORY = Path(__file__).resolve().parents[2]


def run_tour(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m benchmarks.tour` as `make tour` does."""
    command = [sys.executable, "-m", "benchmarks.tour", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=1500)


def test_every_command_parses_and_its_configuration_is_valid() -> None:
    for step in tour.steps("tour"):
        if step.module != "kdrift":
            assert step.command.startswith("python -m benchmarks.over_http tour/source/phantom.h5 ")
            continue
        parsed = parse(step.arguments)
        assert parsed is not None
        args = parsed.options
        assert step.command.startswith(f"kdrift {step.arguments[0]} ")
        if step.arguments[0] == "train":
            load_config(TrainConfig, REPOSITORY / args.config, args.set)
        if step.arguments[0] == "tune":
            load_config(TuneConfig, REPOSITORY / args.config, args.set)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = run_tour("--out", str(tmp_path / "file"))
    assert done.returncode == 1
    assert "tour: cannot write to" in done.stderr


def test_a_failing_step_ends_the_tour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fails = tour.Step("no such file", ("info", str(tmp_path / "absent.h5")))
    after = tour.Step("never run", ("phantom", "--out", str(tmp_path / "after.h5")))
    monkeypatch.setattr(tour, "steps", lambda *_: [fails, after])
    assert tour.main(["--out", str(tmp_path / "tour")]) == 1
    assert not (tmp_path / "after.h5").exists()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_tour_runs_to_the_end_and_again(tmp_path: Path) -> None:
    out = tmp_path / "tour"
    before = ray_processes()
    for _ in range(2):
        done = run_tour("--out", str(out), "--images", "160")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert not ray_processes() - before
    for step in tour.steps(str(out), images=160):
        assert f"$ {step.command}" in done.stdout
    assert "Phantom (simulated), slice 4; equispaced 4x nominal" in done.stdout
    assert "mlflow ui --backend-store-uri sqlite:///" in done.stdout
    reports = {name: json.loads((out / name / "metrics.json").read_text()) for name in tour.SHOWN}
    assert all(report["simulated"] for report in reports.values())
    psnr = {name: report["metrics"]["psnr"] for name, report in reports.items()}
    assert psnr["posterior"] > psnr["cg_sense"] > psnr["zero_filled"]
    for name in ("posterior/panel.png", "posterior/reconstruction.h5", "train/prior/model.safetensors"):
        assert (out / name).stat().st_size > 0
    assert os.listdir(out / "train" / "previews")


def ray_processes() -> set[int]:
    """Return the processes of Ray clusters on this machine."""
    names = ("raylet", "gcs_server")
    return {process.pid for process in psutil.process_iter(["name"]) if process.info["name"] in names}
