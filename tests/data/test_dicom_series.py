"""What a DICOM series is: one kind of image at one place each, in order, in true intensities; the rest is named."""

from __future__ import annotations

import gzip
import struct
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    generate_uid,
)

from formats_helpers import write_dicom
from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.volume import ReadOptions, Volume

AXIAL, SAGITTAL, CORONAL = [1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1]
TURN = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
"""A rotation: its columns are directions that no axis has."""


def image(value: float, rows: int = 6, cols: int = 7) -> np.ndarray:
    return np.full((rows, cols), value, dtype=np.uint16)


def put(folder: Path, number: int, value: float, z: float, **tags: Any) -> None:
    given = {"InstanceNumber": number, "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"], **tags}
    write_dicom(folder / f"{number:03d}.dcm", image(value), position=z, series="1.2", **given)


def opened(path: Path, **select: str) -> Volume:
    return open_volume(path, ReadOptions(select))


def levels(path: Path, **select: str) -> list[float]:
    """The first pixel of every slice."""
    with opened(path, **select) as volume:
        return [float(x[0, 0]) for x in volume.read_image(0, volume.info.num_slices)]


def notes(path: Path, **select: str) -> str:
    with opened(path, **select) as volume:
        return " | ".join(volume.info.notes)


def sequence(**tags: Any) -> list[Dataset]:
    item = Dataset()
    for name, value in tags.items():
        setattr(item, name, value)
    return [item]


def write_enhanced(path: Path, frames: Iterable[tuple[float, dict[str, list[Dataset]]]], **tags: Any) -> None:
    """One multi-frame file; each frame is a value and its functional groups."""
    frames, items = list(frames), []
    for _, groups in frames:
        item = Dataset()
        for name, value in groups.items():
            setattr(item, name, value)
        items.append(item)
    write_dicom(path, np.stack([image(value) for value, _ in frames]), position=0, series="1.2", **tags)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = EnhancedMRImageStorage
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing, dataset.SliceThickness
    shared = Dataset()
    shared.PlaneOrientationSequence = sequence(ImageOrientationPatient=AXIAL)
    shared.PixelMeasuresSequence = sequence(PixelSpacing=[0.5, 0.75], SliceThickness=3, SpacingBetweenSlices=4)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], items
    dataset.save_as(path, enforce_file_format=True)


def place(z: float) -> list[Dataset]:
    return sequence(ImagePositionPatient=[0, 0, z])


class TestChoices:
    def test_echoes_and_times_of_one_series(self, tmp_path: Path) -> None:
        number = 0
        for z in (8.0, 0.0, 4.0):
            for echo, ms in enumerate((4.6, 9.2, 13.8)):
                for time in range(2):
                    number += 1
                    value = 100 * (echo + 1) + 10 * time + z
                    put(
                        tmp_path,
                        number,
                        value,
                        z,
                        EchoTime=ms,
                        EchoNumbers=echo + 1,
                        TemporalPositionIdentifier=time + 1,
                    )
        assert levels(tmp_path) == [100, 104, 108]
        assert levels(tmp_path, echo="2", time="1") == [310, 314, 318]
        said = notes(tmp_path, echo="1")
        assert "echo 1 of 3 (9.2 2 ms) was taken" in said
        assert "time 0 of 2" in said
        with opened(tmp_path, echo="2") as volume:
            assert volume.info.attrs["echo_time_ms"] == 13.8
        with pytest.raises(BadVolume, match="select echo=3: there are 3, numbers 0 to 2"):
            opened(tmp_path, echo="3")
        with pytest.raises(
            BadVolume, match="cannot select contrast here, expected one of image_type, modality, stack, echo"
        ):
            opened(tmp_path, contrast="0")

    def test_cardiac_times_differ_from_slice_to_slice(self, tmp_path: Path) -> None:
        for number in range(12):
            z, phase = number // 4, number % 4
            put(tmp_path, number, 10 * z + phase + 1, 5.0 * z, TriggerTime=20.0 + 30 * phase + 3 * z)
        assert levels(tmp_path) == [1, 11, 21]
        assert levels(tmp_path, time="3") == [4, 14, 24]

    def test_water_and_fat(self, tmp_path: Path) -> None:
        for number, (kind, value) in enumerate([("WATER", 7), ("FAT", 9)] * 3):
            put(tmp_path, number, value, 3.0 * (number // 2), ImageType=["DERIVED", "PRIMARY", "DIXON", kind])
        assert levels(tmp_path) == [7, 7, 7]
        assert levels(tmp_path, image_type="fat") == [9, 9, 9]
        assert "image_type DERIVED\\PRIMARY\\DIXON\\WATER of 2 (" in notes(tmp_path)

    def test_diffusion_weightings_inversions_and_flips(self, tmp_path: Path) -> None:
        for name, tags in [("b", "DiffusionBValue"), ("i", "InversionTime"), ("f", "FlipAngle")]:
            (tmp_path / name).mkdir()
            for number in range(6):
                put(tmp_path / name, number, 1 + number, 3.0 * (number % 3), **{tags: 1000.0 - 900.0 * (number // 3)})
        assert levels(tmp_path / "b") == levels(tmp_path / "i") == levels(tmp_path / "f") == [4, 5, 6]
        assert levels(tmp_path / "b", diffusion="1") == levels(tmp_path / "i", inversion="1") == [1, 2, 3]
        assert "flip 0 of 2 (100 degrees) was taken; --select flip=N takes another" in notes(tmp_path / "f")

    def test_what_nothing_tells_apart_and_copies(self, tmp_path: Path) -> None:
        for number in range(4):
            put(tmp_path, number, 1 + number, 3.0 * (number % 2))
        assert levels(tmp_path) == [1, 2]
        assert levels(tmp_path, repeat="1") == [3, 4]
        assert "repeat 0 of 2 (nothing in their headers tells them apart) was taken; --select repeat=N" in notes(
            tmp_path
        )
        (tmp_path / "copies").mkdir()
        for name in ("000.dcm", "001.dcm"):
            content = (tmp_path / name).read_bytes()
            for copy in ("a", "b"):
                (tmp_path / "copies" / f"{copy}{name}").write_bytes(content)
        assert levels(tmp_path / "copies") == [1, 2]
        assert "may be missing" not in notes(tmp_path / "copies")
        assert "2 images are there twice (same UID)" in notes(tmp_path / "copies")

    def test_acquisition_numbers_of_slices_are_no_times(self, tmp_path: Path) -> None:
        for number in range(5):
            put(tmp_path, number, 1 + number, 3.0 * number, AcquisitionNumber=number + 1)
        assert levels(tmp_path) == [1, 2, 3, 4, 5]
        assert notes(tmp_path) == ""


class TestKinds:
    def test_private_type_of_one_vendor(self, tmp_path: Path) -> None:
        for number in range(8):
            put(
                tmp_path,
                number,
                10 * (number // 2) + number % 2,
                3.0 * (number % 2),
                ImageType=["ORIGINAL", "PRIMARY", "OTHER"],
            )
            dataset = pydicom.dcmread(tmp_path / f"{number:03d}.dcm")
            block = dataset.private_block(0x0043, "GEMS_PARM_01", create=True)
            block.add_new(0x2F, "SS", number // 2)
            dataset.save_as(tmp_path / f"{number:03d}.dcm", enforce_file_format=True)
        assert levels(tmp_path) == [0, 1]
        assert levels(tmp_path, image_type="I") == [30, 31]
        assert "2 phase" in notes(tmp_path)
        assert "these are real images as asked for, no magnitudes" in notes(tmp_path, image_type="R")

    @pytest.mark.parametrize(
        ("words", "kind"),
        [
            (["PHASE MAP", "P", "FFE"], "phase"), (["ADC", "ND"], "derived map"), (["T1 MAP"], "derived map"),
            (["FIELD MAP"], "field map"), (["VELOCITY MAP", "PCA"], "phase"), (["I_SE"], "imaginary"),
            (["PROJECTION IMAGE", "MIP"], "projection"),
        ],
    )  # fmt: skip
    def test_what_is_no_magnitude_is_refused_unless_asked_for(
        self, words: list[str], kind: str, tmp_path: Path
    ) -> None:
        for number in range(3):
            put(tmp_path, number, 5, 3.0 * number, ImageType=["DERIVED", "PRIMARY", *words], RescaleIntercept=-4096)
        with pytest.raises(
            BadVolume, match=rf"there is no magnitude image, but 3 {kind} .*--select image_type="
        ) as told:
            open_volume(tmp_path)
        word = str(told.value).partition("image_type=")[2].partition(" reads")[0].strip("'")
        assert levels(tmp_path, image_type=word) == [-4091] * 3
        assert f"these are {kind} images" in notes(tmp_path, image_type=word)

    @pytest.mark.parametrize(
        "words", [["M", "ND"], ["M_FFE"], ["IN_PHASE"], ["DIFFUSION", "NONE"], ["OTHER"], ["OPP_PHASE"]]
    )
    def test_what_is_one(self, words: list[str], tmp_path: Path) -> None:
        put(tmp_path, 1, 5, 0, ImageType=["ORIGINAL", "PRIMARY", *words])
        assert levels(tmp_path) == [5]

    def test_other_modalities(self, tmp_path: Path) -> None:
        put(tmp_path, 1, 5, 0, Modality="CT", RescaleIntercept=-1024, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
        with pytest.raises(
            BadVolume, match=r"of modality CT, expected MR; --select modality=CT reads them all the same"
        ):
            open_volume(tmp_path)
        assert levels(tmp_path, modality="CT") == [-1019]
        put(tmp_path, 1, 1, 0, Modality="SEG", SOPClassUID=SegmentationStorage)
        with pytest.raises(BadVolume, match="modality SEG"):
            open_volume(tmp_path)
        put(tmp_path, 1, 5, 0, Modality="")
        assert "its modality is not stated: it is read as MR" in notes(tmp_path)

    def test_a_picture_in_colour_beside_the_images(self, tmp_path: Path) -> None:
        for number in range(3):
            put(tmp_path, number, 5, 3.0 * number)
        path = tmp_path / "screen.dcm"
        colour = {
            "SamplesPerPixel": 3,
            "PhotometricInterpretation": "RGB",
            "PlanarConfiguration": 0,
            "BitsAllocated": 8,
        }
        write_dicom(path, image(1, 6, 21), position=0, series="1.2", SOPClassUID=SecondaryCaptureImageStorage)
        dataset = pydicom.dcmread(path)
        for name, value in {**colour, "Columns": 7, "BitsStored": 8, "HighBit": 7}.items():
            setattr(dataset, name, value)
        dataset.PixelData = b"\1" * (6 * 7 * 3)
        dataset.save_as(path, enforce_file_format=True)
        assert levels(tmp_path) == [5, 5, 5]
        assert "1 images in colour are left out" in notes(tmp_path)
        with pytest.raises(BadVolume, match="in colour, expected 1 sample"):
            open_volume(path)

    def test_a_localizer_is_refused_and_a_stack_of_it_is_read(self, tmp_path: Path) -> None:
        for number, plane in enumerate([AXIAL, SAGITTAL, CORONAL] * 2):
            put(tmp_path, number, number, 0, ImagePositionPatient=[3 * number] * 3, ImageOrientationPatient=plane)
        with pytest.raises(BadVolume, match=r"3 sizes or directions .*stack 1 has 2 sagittal of 6x7"):
            open_volume(tmp_path)
        assert len(levels(tmp_path, stack="1")) == 2


class TestWhose:
    @pytest.mark.parametrize(("name", "tag"), [("patient", "PatientID"), ("study", "StudyInstanceUID")])
    def test_a_series_of_two_is_refused_and_one_of_them_is_read(self, name: str, tag: str, tmp_path: Path) -> None:
        for number in range(5):
            put(tmp_path, number, number, 3.0 * number, **{tag: "1.5" if number < 3 else "1.4"})
        expected = rf"2 {tag}, expected one: {name} 0 \(1.4\) has 2; {name} 1 \(1.5\) has 3; .*--select {name}=N"
        with pytest.raises(BadVolume, match=expected):
            open_volume(tmp_path)
        assert levels(tmp_path, **{name: "1"}) == [0, 1, 2]
        assert levels(tmp_path, **{name: "0"}) == [3, 4]
        assert f"{name} 1 of 2 was taken; --select {name}=N takes another" in notes(tmp_path, **{name: "1"})
        with pytest.raises(BadVolume, match=f"select {name}=2: there are 2"):
            open_volume(tmp_path, ReadOptions({name: "2"}))

    def test_files_that_do_not_say_go_with_the_others(self, tmp_path: Path) -> None:
        for number in range(3):
            put(tmp_path, number, number, 3.0 * number, PatientID="a" if number else "")
        assert levels(tmp_path) == [0, 1, 2]

    def test_frames_of_reference(self, tmp_path: Path) -> None:
        for number in range(4):
            put(tmp_path, number, number, 3.0 * number, FrameOfReferenceUID=f"1.{number // 2}")
        assert "its files have 2 frames of reference" in notes(tmp_path)


class TestPlaces:
    def test_gaps_and_uneven_slices(self, tmp_path: Path) -> None:
        for number, z in enumerate((0, 4, 8, 16, 20)):
            put(tmp_path, number, 5, z)
        assert "4 mm apart, but 1 are missing after slice 2" in notes(tmp_path)
        put(tmp_path, 9, 5, 12.9)
        assert "unevenly apart" in notes(tmp_path)

    def test_one_uid_for_all_files(self, tmp_path: Path) -> None:
        """Some programs write it: slices at places of their own are no copies of each other."""
        for number in range(4):
            put(tmp_path, number, 10 + number, 3.0 * number, SOPInstanceUID="1.2.9")
        assert levels(tmp_path) == [10, 11, 12, 13]
        assert "3 images have the UID of another, but not its place, number or kind: all are read" in notes(tmp_path)

    def test_files_that_are_missing_by_their_numbers(self, tmp_path: Path) -> None:
        for number in range(1, 11):
            put(tmp_path, number, number, 3.0 * number)
        assert "missing" not in notes(tmp_path)
        for number in (1, 2, 6):
            (tmp_path / f"{number:03d}.dcm").unlink()
        said = notes(tmp_path)
        assert "images number 1-2, 6 of the series are not among these 7: files may be missing" in said
        assert "3 mm apart, but 1 are missing after slice 2" in said

    def test_every_second_file_is_missing(self, tmp_path: Path) -> None:
        """The distances of the slices are even all the same."""
        for number in range(2, 12, 2):
            put(tmp_path, number, number, 3.0 * number)
        assert notes(tmp_path) == (
            "images number 1, 3, 5, 7, 9 of the series are not among these 5: files may be missing"
        )

    def test_files_of_a_later_part_are_missing(self, tmp_path: Path) -> None:
        for number in (80, 81, 83, 84):
            put(tmp_path, number, number, 3.0 * number)
        assert "images number 82 of the series are not among these 4: files may be missing" in notes(tmp_path)

    @pytest.mark.parametrize("first", [0, 1, 501])
    def test_numbers_that_begin_elsewhere_or_are_scattered(self, first: int, tmp_path: Path) -> None:
        for number in range(4):
            put(tmp_path, number, number, 3.0 * number, InstanceNumber=first + number * (100 if first > 1 else 1))
        assert notes(tmp_path) == ""

    def test_without_positions(self, tmp_path: Path) -> None:
        for number in range(6):
            put(tmp_path, 20 - number, number, 0, EchoTime=10.0 * (1 + number % 2))
            dataset = pydicom.dcmread(tmp_path / f"{20 - number:03d}.dcm")
            del dataset.ImagePositionPatient
            dataset.save_as(tmp_path / f"{20 - number:03d}.dcm", enforce_file_format=True)
        assert levels(tmp_path) == [4, 2, 0]
        assert levels(tmp_path, echo="1") == [5, 3, 1]
        said = notes(tmp_path)
        assert "state no position: they are ordered by their numbers" in said
        put(tmp_path, 30, 9, 3.0)
        assert levels(tmp_path) == [9]
        assert "6 images state no position and are left out" in notes(tmp_path)

    def test_slice_location_stands_in(self, tmp_path: Path) -> None:
        for number in range(4):
            put(tmp_path, number, number, 0, SliceLocation=-5.0 * number)
            dataset = pydicom.dcmread(tmp_path / f"{number:03d}.dcm")
            del dataset.ImagePositionPatient
            dataset.save_as(tmp_path / f"{number:03d}.dcm", enforce_file_format=True)
        assert levels(tmp_path) == [3, 2, 1, 0]
        with open_volume(tmp_path) as volume:
            assert volume.info.geometry is not None
            assert not volume.info.geometry.stated

    def test_oblique_geometry(self, tmp_path: Path) -> None:
        col, row, normal = TURN.T
        first = np.array([10.5, -20.25, 30.125])
        orientation = [float(x) for x in (*col, *row)]
        for number in (2, 0, 1, 3):
            position = [float(x) for x in first + 2.5 * number * normal]
            put(tmp_path, number, number, 0, ImagePositionPatient=position, ImageOrientationPatient=orientation)
        with open_volume(tmp_path) as volume:
            geometry = volume.info.geometry
            assert geometry is not None
            assert geometry.stated
            assert volume.info.attrs["fov_mm"] == "3 x 5.25 x 3"
        np.testing.assert_allclose(geometry.voxel_mm, (0.5, 0.75, 2.5))
        pixel = np.array([4, 5, 2, 1])  # row, column, slice
        expected = first + 4 * 0.5 * row + 5 * 0.75 * col + 2 * 2.5 * normal
        np.testing.assert_allclose((geometry.affine_lps(6, 7) @ pixel)[:3], expected, atol=1e-6)
        np.testing.assert_allclose((geometry.affine_lps(4, 5, 1) @ (3, 4, 1, 1))[:3], expected, atol=1e-6)

    def test_padding_is_zero(self, tmp_path: Path) -> None:
        put(tmp_path, 1, 5, 0, PixelPaddingValue=5, RescaleSlope=2, RescaleIntercept=100)
        put(tmp_path, 2, 6, 3, PixelPaddingValue=5, RescaleSlope=2, RescaleIntercept=100)
        assert levels(tmp_path) == [0, 112]
        assert "padding are read as 0" in notes(tmp_path)


class TestEnhanced:
    def test_magnitude_and_phase_frames_with_scales_of_their_own(self, tmp_path: Path) -> None:
        frames = []
        for z, slope in [(8, 4.0), (0, 1.0), (4, 0.5)]:
            for component in ("PHASE", "MAGNITUDE"):
                groups = {
                    "PlanePositionSequence": place(z),
                    "PixelValueTransformationSequence": sequence(
                        RescaleSlope=slope, RescaleIntercept=0, RescaleType="US"
                    ),
                    "MRImageFrameTypeSequence": sequence(
                        FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], ComplexImageComponent=component
                    ),
                }
                frames.append((8 + z if component == "MAGNITUDE" else 77, groups))
        write_enhanced(tmp_path / "a.dcm", frames)
        assert levels(tmp_path / "a.dcm") == [8, 6, 64]
        assert levels(tmp_path / "a.dcm", image_type="phase") == [77, 38.5, 308]
        with open_volume(tmp_path / "a.dcm") as volume:
            assert volume.info.geometry is not None
            assert volume.info.geometry.voxel_mm == (0.5, 0.75, 4.0)
            assert "left out: 3 phase" in volume.info.notes[0]

    def test_echoes_times_and_a_scale_of_all_frames(self, tmp_path: Path) -> None:
        frames = [
            (
                10 * time + echo + z,
                {
                    "PlanePositionSequence": place(z),
                    "MREchoSequence": sequence(EffectiveEchoTime=5.0 * (2 - echo)),
                    "FrameContentSequence": sequence(TemporalPositionIndex=time + 1, StackID="1"),
                },
            )
            for time in range(3)
            for echo in range(2)
            for z in (3, 0)
        ]
        write_enhanced(tmp_path / "a.dcm", frames, RescaleSlope=2)
        assert levels(tmp_path / "a.dcm") == [2, 8]
        assert levels(tmp_path / "a.dcm", echo="1", time="2") == [40, 46]

    def test_diffusion_is_found_below_its_sequence(self, tmp_path: Path) -> None:
        frames = []
        for number, direction in enumerate(([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])):
            diffusion = sequence(
                DiffusionBValue=1000.0,
                DiffusionGradientDirectionSequence=sequence(DiffusionGradientOrientation=direction),
            )
            frames += [(number, {"PlanePositionSequence": place(z), "MRDiffusionSequence": diffusion}) for z in (0, 4)]
        write_enhanced(tmp_path / "a.dcm", frames)
        assert levels(tmp_path / "a.dcm") == [2, 2]
        assert "diffusion 0 of 3 (1000 0 0 1)" in notes(tmp_path / "a.dcm")

    def test_one_compressed_frame_is_decoded_at_a_time(self, tmp_path: Path) -> None:
        write_enhanced(tmp_path / "a.dcm", [(10 + z, {"PlanePositionSequence": place(z)}) for z in (2, 0, 1)])
        dataset = pydicom.dcmread(tmp_path / "a.dcm")
        dataset.compress(RLELossless)
        dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
        assert levels(tmp_path / "a.dcm") == [10, 11, 12]

    def test_descriptions_that_are_missing(self, tmp_path: Path) -> None:
        write_enhanced(tmp_path / "a.dcm", [(1, {"PlanePositionSequence": place(0)})] * 2)
        dataset = pydicom.dcmread(tmp_path / "a.dcm")
        del dataset.PerFrameFunctionalGroupsSequence[1]
        dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
        with pytest.raises(BadVolume, match="2 frames are declared, 1 are described"):
            open_volume(tmp_path / "a.dcm")


def csa(**items: list[str]) -> bytes:
    """A Siemens CSA2 header, as its scanners write it."""
    content = b"SV10\4\3\2\1" + struct.pack("<2I", len(items), 77)
    for name, values in items.items():
        content += (
            name.encode().ljust(64, b"\0") + struct.pack("<i", len(values)) + b"FD\0\0" + struct.pack("<3i", 6, 6, 77)
        )
        for value in [*values, *[""] * (6 - len(values))]:
            text = value.encode() + b"\0" if value else b""
            content += struct.pack("<4i", len(text), len(text), 77, len(text)) + text.ljust(
                -len(text) % 4 + len(text), b"\0"
            )
    return content


class TestMosaic:
    def write(self, folder: Path, time: int, private: Callable[[Dataset], None]) -> None:
        tiles = np.zeros((3 * 4, 3 * 5), dtype=np.uint16)
        for index in range(7):
            row, col = divmod(index, 3)
            tiles[4 * row : 4 * row + 4, 5 * col : 5 * col + 5] = 100 * time + index + 1
        path = folder / f"m{time}.dcm"
        kinds = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
        write_dicom(
            path, tiles, position=-20.0, series="1.2", ImageType=kinds, SpacingBetweenSlices=2.0,
            AcquisitionNumber=time, PixelSpacing=[3, 3],
        )  # fmt: skip
        dataset = pydicom.dcmread(path)
        private(dataset)
        dataset.save_as(path, enforce_file_format=True)

    def test_is_divided(self, tmp_path: Path) -> None:
        def private(dataset: Dataset) -> None:
            block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
            header = csa(NumberOfImagesInMosaic=["7"], SliceNormalVector=["0.0", "0.0", "1.0"])
            block.add_new(0x10, "OB", header)

        for time in (1, 2):
            self.write(tmp_path, time, private)
        assert levels(tmp_path) == [101, 102, 103, 104, 105, 106, 107]
        assert levels(tmp_path, time="1") == [201, 202, 203, 204, 205, 206, 207]
        with open_volume(tmp_path) as volume:
            assert (volume.info.rows, volume.info.cols) == (4, 5)
            geometry = volume.info.geometry
        assert geometry is not None
        # the position in the header is the corner of the whole mosaic about the middle of the slice
        corner = (geometry.affine_lps(4, 5) @ (0, 0, 6, 1))[:3]
        np.testing.assert_allclose(corner, [3 * (15 - 5) / 2, 3 * (12 - 4) / 2, -20 + 12])

    def test_by_the_other_private_tag(self, tmp_path: Path) -> None:
        self.write(
            tmp_path, 1, lambda d: d.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 7)
        )
        assert levels(tmp_path) == [101, 102, 103, 104, 105, 106, 107]

    def test_without_the_number_is_refused(self, tmp_path: Path) -> None:
        self.write(tmp_path, 1, lambda dataset: None)
        with pytest.raises(BadVolume, match="Siemens mosaic, and its header does not say of how many images"):
            open_volume(tmp_path)


@pytest.mark.parametrize(
    ("name", "slices", "voxel_mm"), [("siemens_dwi_0", 48, (1.797, 1.797, 3.0)), ("philips_mprage", 176, (1, 1, 1))]
)
def test_files_of_scanners_lie_where_nibabel_has_them(
    name: str, slices: int, voxel_mm: tuple[float, ...], tmp_path: Path
) -> None:
    packed = Path(nibabel.__file__).parent / "nicom" / "tests" / "data" / f"{name}.dcm.gz"
    if not packed.is_file():
        pytest.skip("nibabel was installed without its test files")
    path = tmp_path / f"{name}.dcm"
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    with open_volume(path) as volume:
        info = volume.info
        assert info.geometry is not None
        found = info.geometry.affine_lps(info.rows, info.cols)
    assert info.num_slices == slices
    np.testing.assert_allclose(info.geometry.voxel_mm, voxel_mm, atol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nibabel.nicom import dicomwrappers  # warns where it is imported

        theirs = dicomwrappers.wrapper_from_file(path).affine
    ends = [(found @ (0, 0, index, 1)).round(2).tolist() for index in (0, slices - 1)]
    expected = [(theirs @ (0, 0, index, 1)).round(2).tolist() for index in (0, slices - 1)]
    np.testing.assert_allclose(sorted(ends), sorted(expected), atol=0.02)


def test_directories_and_reports_are_no_series(tmp_path: Path) -> None:
    put(tmp_path, 1, 5, 0)
    write_dicom(tmp_path / "report.dcm", image(1), position=0, series="9.9", SOPClassUID=MRImageStorage)
    report = pydicom.dcmread(tmp_path / "report.dcm")
    for name in ("PixelData", "Rows", "Columns"):
        delattr(report, name)
    report.SOPInstanceUID = generate_uid()
    report.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    assert levels(tmp_path) == [5]
