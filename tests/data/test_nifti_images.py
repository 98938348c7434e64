"""What a NIfTI or Analyze image is: pairs, several volumes, units, orientation, and values that are no magnitudes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.analyze import AnalyzeImage
from nibabel.nifti1 import Nifti1Image, Nifti1Pair
from nibabel.nifti2 import Nifti2Image, Nifti2Pair
from nibabel.spm99analyze import Spm99AnalyzeImage

from kdrift.data.discover import find_sources
from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.formats.bart import write_bart
from kdrift.data.volume import ReadOptions

SPACING = np.diag([1.0, 1.5, 4.0, 1.0])


def head(shape: tuple[int, ...] = (32, 40, 6)) -> np.ndarray:
    return np.random.default_rng(0).gamma(2.0, 100.0, shape).astype(np.float32)


def save(image: Any, path: Path) -> Path:
    nibabel.save(image, path)
    return path


def slices(path: Path, **select: str) -> np.ndarray:
    with open_volume(path, ReadOptions(select)) as volume:
        return volume.read_image(0, volume.info.num_slices)


def notes(path: Path, **select: str) -> str:
    with open_volume(path, ReadOptions(select)) as volume:
        return " | ".join(volume.info.notes)


class TestPairs:
    @pytest.mark.parametrize("kind", [Nifti1Pair, Nifti2Pair, AnalyzeImage, Spm99AnalyzeImage])
    @pytest.mark.parametrize("name", ["a.hdr", "a.img"])
    def test_by_either_name(self, kind: Any, name: str, tmp_path: Path) -> None:
        data = head()
        save(kind(data, SPACING), tmp_path / "a.img")
        found = slices(tmp_path / name)
        expected = nibabel.load(tmp_path / "a.img").get_fdata(dtype=np.float32)
        codes = nibabel.aff2axcodes(nibabel.load(tmp_path / "a.img").affine)
        turned = expected[:: -1 if codes[0] == "R" else 1, ::-1].transpose(2, 1, 0)
        np.testing.assert_array_equal(found, turned)
        assert find_sources(tmp_path) == [str(tmp_path / "a.hdr")]

    def test_beside_bart(self, tmp_path: Path) -> None:
        save(Nifti1Pair(head(), SPACING), tmp_path / "a.img")
        write_bart(tmp_path / "b", np.ones((1, 2, 8, 8), np.complex64))
        assert find_sources(tmp_path) == [str(tmp_path / "a.hdr"), str(tmp_path / "b.cfl")]
        with open_volume(tmp_path / "b.hdr") as volume:
            assert volume.info.kind == "kspace"

    def test_big_endian_and_compressed(self, tmp_path: Path) -> None:
        data = head().astype(">i2")
        save(AnalyzeImage(data, SPACING, AnalyzeImage.header_class(endianness=">")), tmp_path / "a.img")
        np.testing.assert_array_equal(slices(tmp_path / "a.hdr"), data[:, ::-1].transpose(2, 1, 0))
        assert "states no orientation" in notes(tmp_path / "a.hdr")
        with open_volume(tmp_path / "a.hdr") as volume:
            assert volume.info.geometry is not None
            assert not volume.info.geometry.stated
            assert volume.info.geometry.voxel_mm == (1.5, 1.0, 4.0)
        save(Nifti1Pair(head(), SPACING), tmp_path / "b.img.gz")
        assert slices(tmp_path / "b.hdr.gz").shape == (6, 40, 32)

    def test_half_a_pair(self, tmp_path: Path) -> None:
        save(Nifti1Pair(head(), SPACING), tmp_path / "a.img")
        (tmp_path / "a.img").rename(tmp_path / "c.img")
        with pytest.raises(BadVolume, match=r"a\.img is missing: a pair of NIfTI or Analyze is \.hdr and \.img"):
            open_volume(tmp_path / "a.hdr")
        with pytest.raises(BadVolume, match=r"c\.hdr is missing"):
            open_volume(tmp_path / "c.img")


class TestVolumes:
    def test_four_dimensions(self, tmp_path: Path) -> None:
        data = head((16, 20, 6, 3))
        path = save(Nifti1Image(data, SPACING), tmp_path / "a.nii.gz")
        with pytest.raises(BadVolume, match=r"it holds 3 volumes .*--select volume=N, N from 0 to 2"):
            open_volume(path)
        np.testing.assert_array_equal(slices(path, volume="2"), data[::-1, ::-1, :, 2].transpose(2, 1, 0))
        assert "volume 2 of 3 was taken; --select volume=N takes another" in notes(path, volume="2")
        with pytest.raises(BadVolume, match="select volume=3: there are 3, numbers 0 to 2"):
            open_volume(path, ReadOptions({"volume": "3"}))
        with pytest.raises(BadVolume, match="cannot select echo here, expected one of volume, values"):
            open_volume(path, ReadOptions({"echo": "1"}))

    def test_one_volume_has_number_0(self, tmp_path: Path) -> None:
        path = save(Nifti1Image(head((16, 20, 6, 1)), SPACING), tmp_path / "a.nii")
        assert slices(path).shape == slices(path, volume="0").shape == (6, 20, 16)
        with pytest.raises(BadVolume, match="select volume=1: there is 1, number 0"):
            open_volume(path, ReadOptions({"volume": "1"}))

    def test_a_single_slice(self, tmp_path: Path) -> None:
        image = Nifti1Image(head((16, 20)), SPACING)
        image.set_qform(SPACING, 1)
        found = slices(save(image, tmp_path / "a.nii.gz"))
        np.testing.assert_array_equal(found, head((16, 20))[None, ::-1, ::-1].transpose(0, 2, 1))

    def test_vectors_and_colours(self, tmp_path: Path) -> None:
        with pytest.raises(BadVolume, match="expected 3 dimensions"):
            open_volume(save(Nifti1Image(head((8, 8, 4, 2, 3)), SPACING), tmp_path / "v.nii"))
        colours = np.zeros((8, 8, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
        with pytest.raises(BadVolume, match="expected numbers"):
            open_volume(save(Nifti1Image(colours, SPACING), tmp_path / "c.nii"))

    def test_complex(self, tmp_path: Path) -> None:
        data = (head() * np.exp(1j * head())).astype(np.complex64)
        path = save(Nifti1Image(data, SPACING), tmp_path / "a.nii.gz")
        np.testing.assert_array_equal(slices(path), np.abs(data)[::-1, ::-1].transpose(2, 1, 0))
        with open_volume(path) as volume:
            assert volume.info.has_phase


class TestSpace:
    @pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
    def test_every_voxel_lies_where_nibabel_has_it(self, order: tuple[int, int, int], tmp_path: Path) -> None:
        rng = np.random.default_rng(sum(order) + order[0])
        turn, _ = np.linalg.qr(np.eye(3)[list(order)] + 0.15 * rng.normal(size=(3, 3)))
        affine = np.eye(4)
        affine[:3, :3] = turn * rng.choice([-1, 1], 3) * (1.0, 1.3, 5.0)
        affine[:3, 3] = rng.normal(size=3) * 30
        index = np.stack(np.meshgrid(*map(np.arange, (7, 8, 5)), indexing="ij"), -1)
        where = index @ affine[:3, :3].T + affine[:3, 3]  # RAS, mm
        weights = (1.0, 20.0, 400.0)
        data = (where @ weights + 1e5).astype(np.float64)
        path = save(Nifti1Image(data, affine), tmp_path / "a.nii")
        with open_volume(path) as volume:
            found = volume.read_image(0, volume.info.num_slices)
            geometry = volume.info.geometry
        assert geometry is not None
        assert geometry.stated
        lps = geometry.affine_lps(*found.shape[1:])
        for row, col, number in ((0, 0, 0), (3, 1, 2), (found.shape[1] - 1, found.shape[2] - 1, len(found) - 1)):
            ras = (lps @ (row, col, number, 1))[:3] * (-1, -1, 1)
            assert found[number, row, col] == pytest.approx(ras @ weights + 1e5, rel=1e-6)

    def test_forms_that_disagree(self, tmp_path: Path) -> None:
        image = Nifti1Image(head(), SPACING)
        moved = SPACING.copy()
        moved[0, 3] = 12.0
        image.set_qform(moved, 1)
        image.set_sform(SPACING, 1)
        assert "qform and sform lie up to 12 mm apart: the sform is taken" in notes(save(image, tmp_path / "a.nii"))
        image.set_qform(SPACING, 1)
        image.set_sform(SPACING, 4)
        said = notes(save(image, tmp_path / "b.nii"))
        assert "apart" not in said
        assert "standard space (MNI)" in said

    def test_units(self, tmp_path: Path) -> None:
        image = Nifti1Image(head(), np.diag([1e-3, 1e-3, 4e-3, 1.0]))
        image.header.set_xyzt_units("meter")
        path = save(image, tmp_path / "a.nii")
        with open_volume(path) as volume:
            assert volume.info.geometry is not None
            np.testing.assert_allclose(volume.info.geometry.voxel_mm, (1, 1, 4))
            assert volume.info.attrs["fov_mm"] == "40 x 32 x 4"
        assert "its unit of length is meter" in notes(path)

    def test_shear(self, tmp_path: Path) -> None:
        affine = SPACING.copy()
        affine[0, 1] = 0.8
        image = Nifti2Image(head(), None)
        image.set_sform(affine, 1)
        assert "its axes meet at 62 degrees" in notes(save(image, tmp_path / "a.nii"))


class TestSliceAxis:
    """Slices run through the plane that was imaged, whatever the voxels are."""

    @pytest.mark.parametrize("voxel", [(2, 3, 1), (3, 2, 1), (1, 1, 1), (1, 1.3, 5)])
    @pytest.mark.parametrize("single", [0, 1, 2])
    def test_never_through_the_plane_of_a_single_slice(
        self, single: int, voxel: tuple[float, ...], tmp_path: Path
    ) -> None:
        shape, sizes = [24, 30], list(voxel[:2])
        shape.insert(single, 1)
        sizes.insert(single, voxel[2])
        path = save(Nifti1Image(head(tuple(shape)), np.diag([*sizes, 1.0])), tmp_path / "a.nii")
        assert slices(path).shape == ((1, 30, 24))
        assert "slices are taken" not in notes(path)

    def test_two_dimensions(self, tmp_path: Path) -> None:
        path = save(Nifti1Image(head((24, 30)), np.diag([2.0, 3.0, 1.0, 1.0])), tmp_path / "a.nii")
        assert slices(path).shape == (1, 30, 24)
        path = save(Nifti1Image(head((24, 30, 1, 3)), np.diag([2.0, 3.0, 1.0, 1.0])), tmp_path / "b.nii")
        assert slices(path, volume="1").shape == (1, 30, 24)

    def test_few_slices(self, tmp_path: Path) -> None:
        path = save(Nifti1Image(head((40, 48, 9)), np.diag([1.0, 1.3, 1.0, 1.0])), tmp_path / "a.nii")
        assert slices(path).shape == (9, 48, 40)
        assert (
            "slices are taken along axis 2, which has 9 of 40 x 48 x 9 samples; by its voxels (1 x 1.3 x 1 mm) it would"
            " be axis 1"
        ) in notes(path)
        coronal = np.array([[2.5, 0, 0, 0], [0, 0, 2.5, 0], [0, 2.5, 0, 0], [0, 0, 0, 1]])
        path = save(Nifti1Image(head((40, 48, 9)), coronal), tmp_path / "b.nii")
        assert slices(path).shape == (9, 48, 40)
        assert "slices are taken along axis 2" in notes(path)

    def test_many_slices_go_by_voxels(self, tmp_path: Path) -> None:
        path = save(Nifti1Image(head((40, 20, 48)), np.diag([1.0, 3.0, 1.0, 1.0])), tmp_path / "a.nii")
        assert slices(path).shape == (20, 48, 40)
        assert "slices are taken" not in notes(path)


class TestValues:
    def test_negative_values(self, tmp_path: Path) -> None:
        data = head() - 200
        path = save(Nifti1Image(data, SPACING), tmp_path / "a.nii.gz")
        with pytest.raises(
            BadVolume, match=r"of the values are negative, down to -\d+.*which no magnitude is.*values=any"
        ):
            open_volume(path)
        np.testing.assert_array_equal(slices(path, values="any"), data[::-1, ::-1].transpose(2, 1, 0))

    def test_values_left_by_interpolation(self, tmp_path: Path) -> None:
        data = head()
        data[:3, :3] = -0.01
        path = save(Nifti1Image(data, SPACING), tmp_path / "a.nii.gz")
        np.testing.assert_array_equal(slices(path), np.maximum(data, 0)[::-1, ::-1].transpose(2, 1, 0))
        assert "negative values down to -0.01, as interpolation leaves them, are read as 0" in notes(path)

    def test_one_bad_slice_is_found_when_it_is_read(self, tmp_path: Path) -> None:
        data = head((32, 40, 20))
        data[:, :, 7] = -3000
        path = save(Nifti1Image(data, SPACING), tmp_path / "a.nii")
        with open_volume(path) as volume:
            volume.read_image(0, 7)
            with pytest.raises(BadVolume, match="negative, down to -3000"):
                volume.read_image(6, 8)

    def test_scaled_integers(self, tmp_path: Path) -> None:
        image = Nifti1Image(np.arange(32 * 40 * 6, dtype=np.int16).reshape(32, 40, 6), SPACING)
        image.header.set_slope_inter(0.5, -2000.0)
        with pytest.raises(BadVolume, match="negative, down to"):
            open_volume(save(image, tmp_path / "a.nii"))

    def test_labels_statistics_and_names(self, tmp_path: Path) -> None:
        labels = np.random.default_rng(0).integers(0, 5, (32, 40, 6)).astype(np.uint8)
        assert "5 different values, all whole (0 to 4): labels" in notes(
            save(Nifti1Image(labels, SPACING), tmp_path / "a.nii")
        )
        image = Nifti1Image(head(), SPACING)
        for code, what in [("z score", "a statistic"), ("label", "labels"), ("t test", "a statistic")]:
            image.header.set_intent(code, () if code != "t test" else (10,))
            path = save(image, tmp_path / "b.nii")
            with pytest.raises(BadVolume, match=f"its header says that it holds {what}"):
                open_volume(path)
            assert f"holds {what}" in notes(path, values="any")
        for name, word in [("sub-1_part-phase_bold", "part-phase"), ("gre_ph", "ph"), ("sub-2_dseg", "dseg")]:
            path = save(Nifti1Image(head(), SPACING), tmp_path / f"{name}.nii")
            assert f"its name says '{word}'" in notes(path)
        assert notes(save(Nifti1Image(head(), SPACING), tmp_path / "graph_T1w.nii")) == ""

    def test_nan(self, tmp_path: Path) -> None:
        data = head()
        data[4, 4, 2] = np.nan
        with open_volume(save(Nifti1Image(data, SPACING), tmp_path / "a.nii")) as volume:
            volume.read_image(0, 2)
            with pytest.raises(BadVolume, match="slice 2 holds NaN"):
                volume.read_image(0, 6)
