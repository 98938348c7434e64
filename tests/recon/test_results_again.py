"""Results over those of an earlier run in the same folder: none of these stays as if it were of the new run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kdrift.cli import main
from kdrift.data.phantom import phantom_volume
from kdrift.evaluation.partial import is_finished, mark_finished
from kdrift.evaluation.work import VolumeTask, volume_tasks
from kdrift.recon.plan import Plan
from kdrift.recon.request import AcquisitionOptions

ALL = "nifti,dicom,ismrmrd,bart"


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "a.npy"
    np.save(path, phantom_volume(3, 32, 32, 2, seed=1).kspace)
    return path


def run(scan: Path, out: Path, *options: str) -> int:
    return main(["reconstruct", str(scan), "--out", str(out), "--method", "cg_sense", "--quiet", *options])


def names(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


def test_what_the_new_run_does_not_write_is_removed_and_named(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r"
    assert run(scan, out, "--output", ALL) == 0
    mine = ("notes.txt", "other.nii.gz", "mean_mine.cfl", "dicom/mine.txt", "dicom/mine/0000.dcm")
    for name in mine:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
    capsys.readouterr()
    assert run(scan, out, "--slices", "1", "--output", "bart") == 0
    said = capsys.readouterr().out
    assert "removed, since an earlier run wrote it and this one does not: mean.nii.gz dicom/mean images.h5" in said
    assert names(out) == {*mine, "reconstruction.h5", "metrics.json", "panel.png", "mean.cfl", "mean.hdr"}
    assert json.loads((out / "metrics.json").read_text())["removed"] == ["mean.nii.gz", "dicom/mean", "images.h5"]
    assert run(scan, out) == 0
    said = capsys.readouterr().out
    assert "removed, since an earlier run wrote it and this one does not: mean.cfl mean.hdr\n" in said
    assert names(out) == {*mine, "reconstruction.h5", "metrics.json", "panel.png"}
    assert run(scan, out) == 0
    assert "removed" not in capsys.readouterr().out


def test_a_series_of_fewer_slices_keeps_none_of_the_old(scan: Path, tmp_path: Path) -> None:
    assert run(scan, tmp_path, "--output", "dicom") == 0
    (tmp_path / "dicom" / "mine.txt").write_text("mine")
    assert run(scan, tmp_path, "--output", "dicom", "--slices", "0:2") == 0
    assert {"dicom/mean/0000.dcm", "dicom/mean/0001.dcm", "dicom/mine.txt"} < names(tmp_path)
    assert "dicom/mean/0002.dcm" not in names(tmp_path)


def test_a_run_that_fails_at_its_start_changes_nothing(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    assert run(scan, out, "--output", "nifti,bart") == 0
    before = {name: (out / name).read_bytes() for name in names(out)}
    assert run(scan, out, "--slices", "7") == 1
    assert run(scan, out, "--set", "no_such=1") == 1
    assert run(scan.with_name("none.npy"), out) == 1
    assert {name: (out / name).read_bytes() for name in names(out)} == before


@pytest.mark.parametrize("ours", [{}, {"config": {}, "versions": {"kdrift": "1"}}])
@pytest.mark.parametrize("listed", [["../mine.txt"], ["no.txt"], [], None])
def test_what_is_no_list_of_ours_removes_nothing(
    listed: object, ours: dict[str, object], scan: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r"
    out.mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    (out / "metrics.json").write_text(json.dumps({"outputs": listed, **ours}))
    (out / "mean.nii.gz").write_text("mine")
    (out / "batch.json").write_text("{}")
    assert run(scan, out) == 0
    assert {"mean.nii.gz", "batch.json"} < names(out)
    assert (tmp_path / "mine.txt").is_file()


def test_an_older_picture_does_not_pass_for_the_new_one(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(scan, tmp_path) == 0

    def failing(*_: object, **__: object) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr("kdrift.recon.report.save_panel", failing)
    assert run(scan, tmp_path) == 0
    assert not (tmp_path / "panel.png").exists()


def test_a_batch_takes_no_other_results_for_its_own(scan: Path, tmp_path: Path) -> None:
    assert main(["convert", str(scan), "--store", str(tmp_path / "x.zarr"), "--quiet"]) == 0
    plan = Plan("cg_sense").resolve()
    task: VolumeTask
    (task,) = volume_tasks(str(tmp_path / "x.zarr"), ["*"], AcquisitionOptions(), plan, tmp_path / "out")
    assert run(scan, task.out) == 0
    mark_finished(task)
    assert is_finished(task)
    assert run(scan, task.out, "--slices", "0") == 0
    assert not is_finished(task)
