"""Images whose axes, units or values are doubtful, whatever format they are in."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import scipy.io
from nibabel.nifti1 import Nifti1Image

from formats_helpers import cartesian_lines, random_kspace, write_dicom, write_ismrmrd
from kdrift.cli import main
from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.formats.header import write_header
from kdrift.data.geometry import Geometry, unit_doubts
from kdrift.data.volume import ReadOptions

SCAN = np.random.default_rng(0).gamma(2.0, 100.0, (64, 56, 12)).astype(np.float32)
"""(row, col, slice)."""


def read(path: Path, **how: Any) -> tuple[np.ndarray, str]:
    """Values and notes."""
    with open_volume(path, ReadOptions.of(**how)) as volume:
        return volume.read_image(0, volume.info.num_slices), " | ".join(volume.info.notes)


def write(path: Path, values: np.ndarray) -> Path:
    """Write an array in the format of the suffix, with its axes as they are."""
    if path.suffix == ".npz":
        np.savez(path, values)
    elif path.suffix == ".mat":
        scipy.io.savemat(path, {"img": values})
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["reconstruction_rss"] = values
    else:
        np.save(path, values)
    return path


def nifti(path: Path, values: np.ndarray = SCAN, voxel: tuple[float, ...] = (2, 2, 5)) -> Path:
    nibabel.save(Nifti1Image(values, np.diag([*voxel, 1.0])), path)
    return path


class TestAxes:
    @pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5", "a.mat"])
    def test_slices_where_pixels_are_expected(self, name: str, tmp_path: Path) -> None:
        first, last = SCAN.transpose(2, 0, 1), SCAN
        right, wrong, order = (last, first, "slice,row,col") if name == "a.mat" else (first, last, "row,col,slice")
        assert "axis of" not in read(write(tmp_path / name, right))[1]
        path = write(tmp_path / name, wrong)
        assert "is the axis of 12 that of slices or channels? --axes states the order, such as" in read(path)[1]
        found, notes = read(path, axes=order)
        np.testing.assert_array_equal(found, first)
        assert "axis of" not in notes

    @pytest.mark.parametrize("shape", [(64, 56, 20), (64, 56, 1), (256, 200, 20), (20, 256, 200)])
    def test_every_thin_image(self, shape: tuple[int, ...], tmp_path: Path) -> None:
        _, notes = read(write(tmp_path / "a.npy", np.ones(shape, np.float32)))
        assert ("axis of" in notes) == (shape in ((64, 56, 1), (256, 200, 20)))

    @pytest.mark.parametrize("channels", [3, 4])
    def test_colours(self, channels: int, tmp_path: Path) -> None:
        colours = np.full((64, 56, channels), 7, np.uint8)
        for name in ("a.npy", "a.npz", "a.h5"):
            with pytest.raises(BadVolume, match=rf"a last axis of {channels} is a colour image .*--axes row,col,slice"):
                open_volume(write(tmp_path / name, colours))
        assert read(tmp_path / "a.npy", axes="row,col,slice")[0].shape == (channels, 64, 56)
        assert "or is it one colour image" in read(write(tmp_path / "a.mat", colours))[1]
        assert "colour" not in read(write(tmp_path / "b.npy", colours.astype(np.uint16).transpose(2, 0, 1)))[1]

    def test_complex_images_follow_the_axes(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.h5", (SCAN * 1j).astype(np.complex64))
        assert "axis of 12" in read(path)[1]
        np.testing.assert_array_equal(read(path, axes="row,col,slice")[0], SCAN.transpose(2, 0, 1))


class TestFragments:
    def test_of_a_file(self, tmp_path: Path) -> None:
        write(tmp_path / "a.npy", SCAN.transpose(2, 0, 1))
        write_dicom(tmp_path / "d.dcm", np.ones((20, 20)), position=0, series="1.2")
        for path in (f"{tmp_path}/a.npy#echo=1", f"{tmp_path}/d.dcm#1.2", f"file://{tmp_path}/a.npy#1"):
            with pytest.raises(BadVolume, match=r"names a DICOM series in a folder.*--select chooses"):
                open_volume(path)
        with h5py.File(tmp_path / "k.h5", "w") as file:
            file["kspace"] = random_kspace((1, 2, 16, 16))
        with pytest.raises(BadVolume, match="names a DICOM series in a folder"):
            open_volume(f"file://{tmp_path}/k.h5#set=1")
        with pytest.raises(BadVolume, match="no such file"):
            open_volume(tmp_path / "b.npy#1")

    def test_at_the_command(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write(tmp_path / "a.npy", SCAN.transpose(2, 0, 1))
        assert main(["info", f"{tmp_path}/a.npy#1"]) == 1
        assert "names a DICOM series" in capsys.readouterr().err


class TestUnits:
    @pytest.mark.parametrize(
        ("voxel", "said"),
        [(2.5, ""), (0.0025, "metres"), (0.25, "centimetres, or is it of a small animal"), (2500.0, "micrometres")],
    )
    def test_of_nifti_and_ismrmrd(self, voxel: float, said: str, tmp_path: Path) -> None:
        _, notes = read(nifti(tmp_path / "a.nii", voxel=(voxel, voxel, 2 * voxel)))
        assert (f"was it in {said}" in notes) if said else ("field of view" not in notes)
        fov = (24 * 4 * voxel, 20 * 4 * voxel, 5 * voxel)
        write_ismrmrd(
            tmp_path / "a.h5", cartesian_lines(random_kspace((1, 2, 24, 20))), write_header((24, 20), (24, 20), fov, {})
        )
        if voxel < 100:  # such a large one is refused
            with open_volume(tmp_path / "a.h5") as volume:
                notes = " | ".join(volume.info.notes)
            assert (f"was it in {said}" in notes) if said else ("field of view" not in notes)

    def test_of_dicom_small_ones_are_no_doubt(self, tmp_path: Path) -> None:
        write_dicom(tmp_path / "a.dcm", np.ones((20, 20)), position=0, series="1", PixelSpacing=[0.2, 0.2])
        assert "field of view" not in read(tmp_path / "a.dcm")[1]
        write_dicom(tmp_path / "a.dcm", np.ones((20, 20)), position=0, series="1", PixelSpacing=[0.002, 0.002])
        assert "was it in metres?" in read(tmp_path / "a.dcm")[1]

    def test_fine_pixels(self) -> None:
        assert unit_doubts(Geometry((0.04, 0.04, 1)), 512, 512)
        assert not unit_doubts(Geometry((0.5, 0.04, 1)), 512, 512)


class TestValues:
    def test_nothing_but_zero(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = nifti(tmp_path / "a.nii", 0 * SCAN)
        assert "holds nothing but 0 where it was looked at (slices 3, 6, 9 of 12)" in read(path)[1]
        assert main(["simulate", str(path), "--out", str(tmp_path / "k.h5"), "--coils", "2"]) == 1
        assert "slices 0:12 hold nothing but 0, expected images" in capsys.readouterr().err

    def test_holes(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        values = SCAN.copy()
        values[:8, :, 6] = np.nan
        path = nifti(tmp_path / "a.nii", values)
        assert main(["info", str(path)]) == 0
        assert (
            "NaN or infinite values in slices 6: these cannot be read, set the values to 0 first"
            in capsys.readouterr().out
        )


class TestNifti:
    def test_an_empty_sform(self, tmp_path: Path) -> None:
        for fill, name in ((b"\0" * 48, "zero.nii"), (np.full(12, np.nan, "<f4").tobytes(), "nan.nii")):
            image = Nifti1Image(SCAN, np.diag([2.0, 3.0, 5.0, 1.0]))
            image.set_qform(image.affine, 1)
            image.set_sform(image.affine, 1)
            nibabel.save(image, tmp_path / name)
            header = bytearray((tmp_path / name).read_bytes())
            header[280:328] = fill
            (tmp_path / name).write_bytes(header)
            with open_volume(tmp_path / name) as volume:
                assert "its sform is singular or not finite: the qform is taken" in volume.info.notes
                assert volume.info.geometry is not None
                assert volume.info.geometry.voxel_mm == (3, 2, 5)
                assert volume.info.geometry.stated

    def test_compression_goes_by_content(self, tmp_path: Path) -> None:
        plain = nifti(tmp_path / "a.nii")
        content, expected = plain.read_bytes(), read(plain)[0]
        (tmp_path / "b.nii.gz").write_bytes(content)
        (tmp_path / "c.nii").write_bytes(gzip.compress(content))
        for name in ("b.nii.gz", "c.nii"):
            np.testing.assert_array_equal(read(tmp_path / name)[0], expected)
