"""Computed work is kept: what can be refused is refused before, what fails costs itself alone, and is named."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import kdrift
from kdrift.cli import main
from kdrift.data.formats import open_volume
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.phantom import phantom_volume
from kdrift.data.store import open_store
from kdrift.data.store_write import write_volume
from kdrift.evaluation.batch import BatchConfig, reconstruct_batch
from kdrift.evaluation.partial import slices_left
from kdrift.evaluation.pool_config import PoolConfig
from kdrift.evaluation.work import volume_tasks
from kdrift.recon import reconstruct as engine
from kdrift.recon import report as reporting
from kdrift.recon.acquisition import load_acquisition
from kdrift.recon.gather import residual_notes
from kdrift.recon.plan import Plan
from kdrift.recon.request import AcquisitionRequest, MaskRequest

SIZE, COILS = 40, 4
MASK = MaskRequest("equispaced", 2.0, acs_lines=12)
DRAWN = ["--method", "cg_sense", "--mask", "equispaced", "--acceleration", "2", "--acs-lines", "12"]


@pytest.fixture(scope="module")
def kspace() -> np.ndarray:
    return np.asarray(phantom_volume(4, SIZE, SIZE, COILS, seed=3).kspace)


def written(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, Any]]:
    with h5py.File(folder / "reconstruction.h5") as file:
        arrays, attrs = {name: node[()] for name, node in file.items()}, dict(file.attrs)
    return json.loads((folder / "metrics.json").read_text()), arrays, attrs


@pytest.mark.parametrize("empty", [[3], [0, 1], [1, 2, 3]])
def test_an_empty_slice_costs_itself_alone(
    empty: list[int], kspace: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holed = kspace.copy()
    holed[empty] = 0
    write_fastmri(tmp_path / "holed.h5", holed)
    write_fastmri(tmp_path / "whole.h5", kspace)
    for name in ("holed", "whole"):
        assert main(["reconstruct", str(tmp_path / f"{name}.h5"), "--out", str(tmp_path / name), *DRAWN]) == 0
        said = capsys.readouterr().err
        assert [f"slice {index}: kspace is zero everywhere" in said for index in range(4)] == [
            name == "holed" and index in empty for index in range(4)
        ]
    (report, found, attrs), (_, expected, _) = written(tmp_path / "holed"), written(tmp_path / "whole")
    done = [index for index in range(4) if index not in empty]
    np.testing.assert_array_equal(found["reconstruction"][done], expected["reconstruction"][done])
    assert not found["reconstruction"][empty].any()
    assert found["mask"].shape == (SIZE, SIZE)
    assert list(report["failed"]) == [str(index) for index in empty]
    assert attrs["failed_slices"].tolist() == empty
    assert all(f"slice {index}: " in attrs["notes"] for index in empty)
    assert report["metrics"]["psnr"] > 20


def test_all_slices_empty_is_an_error_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 20, 20), np.complex64))
    assert main(["reconstruct", str(tmp_path / "a.npy"), "--out", str(tmp_path / "r"), "--method", "cg_sense"]) == 1
    error = capsys.readouterr().err
    note, said = error.splitlines()
    assert note.startswith("note: 4 axes were taken as slice,coil,row,col")
    assert said == "kdrift: error: slice 0: kspace is zero everywhere: nothing to reconstruct"
    assert not (tmp_path / "r").exists()


def test_a_slice_that_fails_in_the_middle_of_the_work(
    kspace: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_chunk, faults = engine.run_chunk, [ValueError("all samples\n diverged"), torch.linalg.LinAlgError("singular")]

    def failing(plan: Any, prior: Any, data: Any, *rest: Any) -> Any:
        if data.index in (5, 7):
            raise faults[data.index == 7]
        return run_chunk(plan, prior, data, *rest)

    monkeypatch.setattr(engine, "run_chunk", failing)
    mask = torch.ones(SIZE, SIZE, dtype=torch.bool)
    data = torch.from_numpy(kspace)
    result = engine.reconstruct(data, mask, plan=Plan("cg_sense"), slice_indices=[4, 5, 6, 7])
    assert result.failed == {5: "slice 5: all samples diverged", 7: "slice 7: singular"}
    assert result.mean.flatten(1).any(1).tolist() == [True, False, True, False]
    assert result.smaps is not None
    assert result.smaps.shape == data.shape
    assert "2 slices failed" in repr(result)
    monkeypatch.setattr(engine, "run_chunk", lambda *_: 1 / 0)
    with pytest.raises(ValueError, match="slice 0: division by zero"):
        engine.reconstruct(data[:2], mask, plan=Plan("cg_sense"))
    monkeypatch.setattr(engine, "run_chunk", lambda *_: [][0])  # no fault of the data
    with pytest.raises(IndexError):
        engine.reconstruct(data[:2], mask, plan=Plan("cg_sense"))
    with pytest.raises(ValueError, match="a number of its own"):
        engine.reconstruct(data[:2], mask, plan=Plan("cg_sense"), slice_indices=[1, 1])


def test_a_batch_keeps_the_other_slices_and_tries_again(kspace: np.ndarray, tmp_path: Path) -> None:
    holed = kspace.copy()
    holed[2] = 0
    store = open_store(tmp_path / "s.zarr", "a")
    for name, data in (("holed", holed), ("empty", 0 * kspace), ("whole", kspace)):
        write_fastmri(tmp_path / f"{name}.h5", data)
        with open_volume(tmp_path / f"{name}.h5") as volume:
            write_volume(store, name, volume)
    config = BatchConfig(
        store=str(tmp_path / "s.zarr"), out=str(tmp_path / "out"), mask=MASK, plan=Plan("cg_sense"),
        pool=PoolConfig(actors=1),
    )  # fmt: skip
    said: list[str] = []
    report = reconstruct_batch(config, quiet=True, echo=said.append)
    assert {folder.name: why for folder, why in report.failed.items()} == {
        "empty": "slice 0: kspace is zero everywhere: nothing to reconstruct"
    }
    assert "holed: slice 2: kspace is zero everywhere: nothing to reconstruct" in said
    (holed_report, found, _), (_, expected, _) = written(tmp_path / "out/holed"), written(tmp_path / "out/whole")
    np.testing.assert_array_equal(found["reconstruction"][[0, 1, 3]], expected["reconstruction"][[0, 1, 3]])
    assert list(holed_report["failed"]) == ["2"]
    tasks = volume_tasks(config.store, ["empty"], config, Plan("cg_sense").resolve(None), tmp_path / "out")
    assert slices_left(tasks[0]) == [0, 1, 2, 3]


def test_pictures_and_figures_cost_themselves(
    kspace: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fastmri(tmp_path / "a.h5", kspace[:1])

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no\n font")

    monkeypatch.setattr(reporting, "save_panel", broken)
    assert main(["reconstruct", str(tmp_path / "a.h5"), "--out", str(tmp_path / "r"), *DRAWN]) == 0
    assert "warning: panel.png could not be written: no font" in capsys.readouterr().err
    report, _, _ = written(tmp_path / "r")
    assert "panel.png could not be written: no font" in report["notes"]
    monkeypatch.undo()
    small = np.asarray(phantom_volume(1, 8, 8, 2, seed=3).kspace)[..., 1:7, 1:7]
    write_fastmri(tmp_path / "small.h5", small)
    arguments = ["reconstruct", str(tmp_path / "small.h5"), "--out", str(tmp_path / "s"), "--method", "zero_filled"]
    assert main([*arguments, "--mask", "center", "--acceleration", "1.5"]) == 0
    report, _, _ = written(tmp_path / "s")
    assert "no SSIM: SSIM needs slices of at least 7 x 7, got (6, 6)" in report["notes"]
    assert set(report["metrics"]) == {"psnr", "nmse"}


def test_outputs_that_cannot_be_written_are_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "metrics.json").mkdir(parents=True)
    absent = str(tmp_path / "absent.h5")  # which is not looked at
    for out, sentence in (
        ("file", "is a file, expected a folder"), ("file/deeper", "is a file, expected a folder"),
        ("taken", "metrics.json in it is a folder"), ("x" * 300, "too long"), ("/proc/nothing", "cannot write into"),
    ):  # fmt: skip
        began = time.monotonic()
        assert main(["reconstruct", absent, "--out", str(tmp_path / out)]) == 1
        error = capsys.readouterr().err
        assert sentence in error, error
        assert len(error.splitlines()) == 1
        assert time.monotonic() - began < 5
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["reconstruct", absent, "--out", str(tmp_path / "new" / "r"), "--nifti"]) == 1
    assert "needs nibabel" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]


def test_an_image_that_does_not_explain_the_data_is_a_warning(kspace: np.ndarray) -> None:
    good = kdrift.reconstruct(kspace[:2], method="cg_sense")
    assert good.notes == ()
    moved = kspace[:2].copy()
    moved[1, :, :, ::2] *= np.exp(2j * np.pi * 5 * np.arange(SIZE) / SIZE)[:, None]  # of a head that moved
    (note,) = kdrift.reconstruct(moved, method="cg_sense").notes  # two sets of maps can explain it
    assert note.startswith("slice 1: two sets of coil maps")
    assert "motion between these lines" in note
    full, one = torch.ones(SIZE, SIZE, dtype=torch.bool), Plan("cg_sense", num_map_sets=1)
    (note,) = engine.reconstruct(torch.from_numpy(moved), full, plan=one).notes
    assert "does not explain the data of slice 1" in note
    assert "likely causes" in note
    wrong = np.roll(np.asarray(good.smaps), 9, axis=-1)
    assert any(
        "of every slice" in each for each in kdrift.reconstruct(kspace[:2], smaps=wrong, method="cg_sense").notes
    )
    assert not any("explain" in each for each in kdrift.reconstruct(moved, method="zero_filled").notes)
    assert residual_notes({}, "cg_sense") == ()


@pytest.mark.parametrize("shape", [(30, 24), (1, 24), (24, 1), (2, 2), (1, 1), (3, 1, 9), (2, 4, 4)])
@pytest.mark.parametrize("method", ["zero_filled", "cg_sense", "tv", "l1_wavelet"])
def test_odd_arrays_give_an_image_or_a_sentence(
    shape: tuple[int, ...], method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", rng.standard_normal(shape) + 1j * rng.standard_normal(shape))
    arguments = ["reconstruct", str(tmp_path / "a.npy"), "--out", str(tmp_path / "r"), "--method", method]
    status = main([*arguments, "--mask", "random", "--acceleration", "1.5", "--acs-lines", "1"])
    said = capsys.readouterr().err
    if status == 0:
        assert np.isfinite(written(tmp_path / "r")[1]["reconstruction"]).all()
    else:
        assert said.splitlines()[-1].startswith("kdrift: error: ")
        assert "Error:" not in said


def test_the_reading_is_told_of_its_notes(kspace: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.roll(kspace, 8, axis=-1))
    axes, note = load_acquisition(AcquisitionRequest(source=str(tmp_path / "a.npy"))).notes
    assert axes.startswith("4 axes were taken as slice,coil,row,col")
    assert "by +0 rows and +8 columns" in note
