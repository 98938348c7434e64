"""What a DICOM header says that changes values or distances: inversion, bits, shear, pixel sizes, stacks, positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from formats_helpers import write_dicom
from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.geometry import Geometry
from kdrift.data.volume import ReadOptions

IMAGES = np.random.default_rng(0).integers(0, 900, (4, 24, 20)).astype(np.uint16)


def write(folder: Path, number: int, pixels: np.ndarray, place: list[float], **tags: Any) -> None:
    given = {"InstanceNumber": number + 1, "ImageType": ["ORIGINAL", "PRIMARY", "M"], "ImagePositionPatient": place}
    write_dicom(folder / f"{number:03d}.dcm", pixels, position=0, series="1.2", **(given | tags))


def write_all(folder: Path, images: np.ndarray = IMAGES, shift: float = 0.0, **tags: Any) -> None:
    for number, pixels in enumerate(images):
        write(folder, number, pixels, [0, shift * number, 4.0 * number], **tags)


def read(path: Path, **select: str) -> tuple[np.ndarray, str, Geometry | None]:
    """Values, notes and geometry."""
    with open_volume(path, ReadOptions(select)) as volume:
        values = volume.read_image(0, volume.info.num_slices)
        return values, " | ".join(volume.info.notes), volume.info.geometry


class TestInversion:
    @pytest.mark.parametrize("most", [899, 4095])
    @pytest.mark.parametrize(
        "tags", [{"PhotometricInterpretation": "MONOCHROME1"}, {"PresentationLUTShape": "INVERSE"}]
    )
    def test_values_are_turned(self, most: int, tags: dict[str, str], tmp_path: Path) -> None:
        images = IMAGES.copy()
        images[2, 0, 0] = 0
        write_all(tmp_path, most - images, RescaleSlope=2, RescaleIntercept=0, **tags)
        values, notes, _ = read(tmp_path)
        np.testing.assert_array_equal(values, 2.0 * images)
        assert f"stored inverted (MONOCHROME1 or INVERSE): they are read as {most}, the largest one" in notes

    def test_padding_and_compression(self, tmp_path: Path) -> None:
        images = 2000 - IMAGES
        images[:, :3] = 65535
        write_all(tmp_path, images, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=65535)
        for path in tmp_path.iterdir():
            dataset = pydicom.dcmread(path)
            dataset.compress(RLELossless)
            dataset.save_as(path, enforce_file_format=True)
        values, _, _ = read(tmp_path)
        assert not values[:, :3].any()
        np.testing.assert_array_equal(values[:, 3:], IMAGES[:, 3:] - IMAGES[:, 3:].min())

    def test_others_are_not(self, tmp_path: Path) -> None:
        write_all(tmp_path, PresentationLUTShape="IDENTITY")
        values, notes, _ = read(tmp_path)
        np.testing.assert_array_equal(values, IMAGES)
        assert "inverted" not in notes


def test_values_at_the_upper_end_of_their_words_are_refused(tmp_path: Path) -> None:
    write_all(tmp_path, IMAGES << 4, BitsStored=12, HighBit=15)
    with pytest.raises(BadVolume, match="HighBit is 15, BitsStored 12, expected HighBit 11"):
        open_volume(tmp_path)


def test_what_is_deflated_may_be_larger_than_the_file(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", np.tile(np.arange(64), (64, 1)), position=0, series="1")
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert (tmp_path / "a.dcm").stat().st_size < 64 * 64 * 2
    np.testing.assert_array_equal(read(tmp_path / "a.dcm")[0][0], np.tile(np.arange(64), (64, 1)))


class TestNumberOfFrames:
    @pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    @pytest.mark.parametrize("stated", [1, 3, None])
    def test_fewer_than_there_are(self, stated: int | None, syntax: Any, tmp_path: Path) -> None:
        write_dicom(tmp_path / "a.dcm", IMAGES, position=0, series="1")
        dataset = pydicom.dcmread(tmp_path / "a.dcm")
        dataset.NumberOfFrames = stated
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(tmp_path / "a.dcm", implicit_vr=syntax.is_implicit_VR, little_endian=True)
        with pytest.raises(BadVolume, match=f"{stated or 1} frames are declared, pixel data are those of 4"):
            open_volume(tmp_path / "a.dcm")

    def test_padding_of_odd_data_is_no_frame(self, tmp_path: Path) -> None:
        write_dicom(tmp_path / "a.dcm", np.ones((1, 1)), position=0, series="1")
        dataset = pydicom.dcmread(tmp_path / "a.dcm")
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit, dataset.PixelData = 7, b"\1\0"
        dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
        assert read(tmp_path / "a.dcm")[0].shape == (1, 1, 1)


class TestPlaces:
    def test_shifted_slices(self, tmp_path: Path) -> None:
        write_all(tmp_path, shift=3.0)
        _, notes, geometry = read(tmp_path)
        assert "its axes meet at 53 degrees, not at right angles: slices are sheared" in notes
        assert geometry is not None
        assert geometry.slice_distance_mm == pytest.approx(4)
        assert geometry.fov_text == "0.5 x 0.75 x 4 mm (row x col x slice)"
        corner = (geometry.affine_lps(24, 20) @ (0, 0, 3, 1))[:3]
        np.testing.assert_allclose(corner, (0, 9, 12), atol=1e-9)

    def test_pixels_of_several_sizes(self, tmp_path: Path) -> None:
        for number, pixels in enumerate(IMAGES):
            write(tmp_path, number, pixels, [0, 0, 4.0 * number], PixelSpacing=[0.5, 0.5] if number else [1, 1])
        with pytest.raises(BadVolume, match=r"2 sizes or directions.*stack 1 has 3 axial of 24x20 \(0.5 x 0.5 mm\)"):
            open_volume(tmp_path)
        np.testing.assert_array_equal(read(tmp_path, stack="1")[0], IMAGES[1:])

    def test_pixels_that_are_rounded_otherwise(self, tmp_path: Path) -> None:
        for number, pixels in enumerate(IMAGES):
            spacing = [0.46875, 0.46875] if number else [0.4688, 0.4688]
            write(tmp_path, number, pixels, [0, 0, 4.0 * number], PixelSpacing=spacing)
        np.testing.assert_array_equal(read(tmp_path)[0], IMAGES)

    def test_one_position_and_several_locations(self, tmp_path: Path) -> None:
        for number, pixels in enumerate(IMAGES):
            write(tmp_path, number, pixels, [0, 0, 7], SliceLocation=20 - 5 * number, InstanceNumber=number + 1)
        values, notes, geometry = read(tmp_path)
        np.testing.assert_array_equal(values, IMAGES[::-1])
        assert "all images state one position, but several SliceLocations: these are taken" in notes
        assert geometry is not None
        assert not geometry.stated


class TestEnhanced:
    def write(self, path: Path, stacks: list[tuple[str, float]], **tags: Any) -> None:
        """One file of a frame for each stack and place."""
        write_dicom(path, IMAGES[: len(stacks)], position=0, series="1.2", **tags)
        dataset = pydicom.dcmread(path)
        del dataset.ImagePositionPatient
        dataset.PerFrameFunctionalGroupsSequence = []
        for stack, z in stacks:
            frame, plane, content = Dataset(), Dataset(), Dataset()
            plane.ImagePositionPatient, content.StackID = [0, 0, z], stack
            frame.PlanePositionSequence, frame.FrameContentSequence = [plane], [content]
            dataset.PerFrameFunctionalGroupsSequence.append(frame)
        dataset.save_as(path, enforce_file_format=True)

    def test_stacks_of_one_direction(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a.dcm", [("1", 0), ("2", 2), ("1", 4), ("2", 6)])
        values, notes, _ = read(tmp_path / "a.dcm")
        np.testing.assert_array_equal(values, IMAGES[::2])
        assert "stack 0 of 2 (StackID 1: 2, 2: 2 images) was taken; --select stack=N takes another" in notes
        np.testing.assert_array_equal(read(tmp_path / "a.dcm", stack="1")[0], IMAGES[1::2])

    def test_a_stack_for_each_frame_is_one(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a.dcm", [("1", 0), ("2", 2), ("3", 4), ("4", 6)])
        np.testing.assert_array_equal(read(tmp_path / "a.dcm")[0], IMAGES)

    def test_fewer_frames_than_are_described(self, tmp_path: Path) -> None:
        self.write(tmp_path / "a.dcm", [("1", 0), ("1", 2), ("1", 4), ("1", 6)])
        dataset = pydicom.dcmread(tmp_path / "a.dcm")
        dataset.NumberOfFrames = 3
        dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
        with pytest.raises(BadVolume, match="3 frames are declared, 4 are described: expected as many"):
            open_volume(tmp_path / "a.dcm")
