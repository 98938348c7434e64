"""Inputs that were once read wrongly in silence."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from kdrift.cli import main
from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.phantom import phantom_volume
from kdrift.data.same_scans import same_content
from kdrift.data.volume import ReadOptions

SCAN = phantom_volume(2, 32, 32, 3, seed=1)


def write(path: Path, **arrays: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return path


def test_a_result_never_takes_the_place_of_its_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "reconstruction.h5", kspace=SCAN.kspace)
    before = path.read_bytes()
    assert main(["reconstruct", str(path), "--out", str(tmp_path), "--method", "zero_filled"]) == 1
    assert "results would be written over it" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_the_reference_follows_the_axes(tmp_path: Path) -> None:
    turned = write(
        tmp_path / "a.h5", kspace=np.swapaxes(SCAN.kspace, 2, 3), reconstruction_rss=np.swapaxes(SCAN.reference, 1, 2)
    )
    with open_volume(turned, ReadOptions.of(axes="slice,coil,col,row")) as volume:
        np.testing.assert_array_equal(volume.read_image(0, 2), SCAN.reference)


def test_a_complex_reference_is_its_magnitude(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", kspace=SCAN.kspace, reconstruction_rss=SCAN.reference * np.complex64(1j))
    with open_volume(path) as volume:
        np.testing.assert_allclose(volume.read_image(0, 2), SCAN.reference, rtol=1e-6)


def test_a_larger_reference_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", kspace=SCAN.kspace, reconstruction_rss=np.ones((2, 48, 48), np.float32))
    with open_volume(path) as volume:
        assert "the stored reference is 48 x 48, larger than the 32 x 32 of k-space" in volume.info.notes[0]


def test_nothing_is_selected_where_there_is_nothing_to_choose(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", SCAN.kspace)
    for path in (tmp_path / "a.npy", write(tmp_path / "a.h5", kspace=SCAN.kspace)):
        with pytest.raises(BadVolume, match="cannot select echo here"):
            open_volume(path, ReadOptions.of(select="echo=1"))


def test_series_of_one_folder_are_not_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    assert same_content([f"{tmp_path}#1.1", f"{tmp_path}#1.2"]) == []
