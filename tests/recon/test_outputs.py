"""A known length and a known marker keep length and side in every output, read by each format's own library."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
import torch
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from kdrift.cli import main
from kdrift.data.describe import describe, to_text
from kdrift.data.formats import open_volume
from kdrift.data.geometry import Geometry
from kdrift.data.simulate import SimulationConfig, simulated
from kdrift.data.store import open_store
from kdrift.data.store_write import write_volume
from kdrift.data.volume import BadVolume, ReadOptions, VolumeInfo
from kdrift.notice import RESEARCH_ONLY
from kdrift.recon.acquisition import AcquisitionFacts
from kdrift.recon.outputs import read_outputs
from kdrift.recon.report import save_result
from kdrift.recon.result import ReconstructionResult

ismrmrd = pytest.importorskip("ismrmrd")

COL, ROW, NORMAL = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]]).T
CORNER = np.array([12.5, -81.25, 40.0])
ROWS, COLS, SLICES = 48, 40, 6
ROW_MM, COL_MM, SLICE_MM = 1.25, 2.0, 4.5
MARKER = (7, 29, 3)
"""Row, column, slice of the brightest pixel: in no symmetric place."""
BAR_MM = 32 * ROW_MM
"""Length of a bar along the rows."""
STUDY, FRAME = generate_uid(), generate_uid()


def world(row: float, col: float, number: float) -> np.ndarray:
    """Where a pixel of the source lies, LPS in mm."""
    return CORNER + row * ROW_MM * ROW + col * COL_MM * COL + number * SLICE_MM * NORMAL


def phantom() -> np.ndarray:
    images = np.zeros((SLICES, ROWS, COLS), dtype=np.uint16)
    images[:, 8:40, 10:13] = 1000
    images[MARKER[2], MARKER[0], MARKER[1]] = 4000
    return images


def write_source(folder: Path) -> None:
    """A scanner's oblique series of the phantom."""
    folder.mkdir()
    for number, pixels in enumerate(phantom()):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        tags: dict[str, Any] = {
            "SOPClassUID": MRImageStorage, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID, "Modality": "MR",
            "StudyInstanceUID": STUDY, "FrameOfReferenceUID": FRAME, "SeriesInstanceUID": "1.2.3",
            "PatientID": "phantom-7", "ImageType": ["ORIGINAL", "PRIMARY", "M"], "Rows": ROWS, "Columns": COLS,
            "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16,
            "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0, "InstanceNumber": number,
            "PixelSpacing": [ROW_MM, COL_MM], "SliceThickness": 4, "EchoTime": 96.0,
            "ImageOrientationPatient": [float(x) for x in (*COL, *ROW)],
            "ImagePositionPatient": [float(x) for x in world(0, 0, number)],
        }  # fmt: skip
        for name, value in tags.items():
            setattr(dataset, name, value)
        dataset.PixelData = pixels.tobytes()
        dataset.save_as(folder / f"{number}.dcm", enforce_file_format=True)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs of slices 2 to 4 of simulated k-space of the series, by the command."""
    folder = tmp_path_factory.mktemp("outputs")
    write_source(folder / "source")
    store = open_store(str(folder / "s.zarr"), "a")
    config = SimulationConfig(num_coils=4, snr_db=50.0)
    with open_volume(folder / "source") as source, simulated(source, config) as volume:
        write_volume(store, "scan", volume)
    arguments = ["reconstruct", str(folder / "s.zarr" / "scan"), "--out", str(folder / "r"), "--method", "zero_filled"]
    assert main([*arguments, "--slices", "2:5", "--output", "h5,nifti,dicom,ismrmrd,bart"]) == 0
    return folder / "r"


def bart_files(kinds: list[str]) -> list[str]:
    return [f"{kind}.{suffix}" for kind in kinds for suffix in ("cfl", "hdr")]


def from_nifti(out: Path) -> tuple[np.ndarray, np.ndarray]:
    image: Any = nibabel.load(out / "mean.nii.gz")
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-3)
    lps = np.diag([-1, -1, 1, 1]) @ image.affine
    return image.get_fdata().transpose(2, 1, 0), lps[:, [1, 0, 2, 3]]


def from_dicom(out: Path) -> tuple[np.ndarray, np.ndarray]:
    files = [pydicom.dcmread(path) for path in sorted((out / "dicom" / "mean").iterdir())]
    images = np.stack([f.pixel_array * float(f.RescaleSlope) + float(f.RescaleIntercept) for f in files])
    affine = np.eye(4)
    col, row = (np.array(files[0].ImageOrientationPatient, dtype=float)[part] for part in (slice(3), slice(3, 6)))
    places = [np.array(f.ImagePositionPatient, dtype=float) for f in files]
    affine[:3, 0], affine[:3, 1] = row * float(files[0].PixelSpacing[0]), col * float(files[0].PixelSpacing[1])
    affine[:3, 2], affine[:3, 3] = (places[-1] - places[0]) / (len(places) - 1), places[0]
    return images, affine


def from_ismrmrd(out: Path) -> tuple[np.ndarray, np.ndarray]:
    with ismrmrd.Dataset(str(out / "images.h5"), "dataset", mode="r") as file:
        found = [file.read_image("image_0", index) for index in range(3)]
        assert b"reconSpace" in file.read_xml_header()
    assert [image.slice for image in found] == [2, 3, 4]
    images = np.stack([image.data[0, 0].T for image in found])  # data are (channel, z, y, x), x along the rows
    first, affine = found[0].getHead(), np.eye(4)
    size = np.array(first.field_of_view[:2]) / first.matrix_size[:2]
    affine[:3, 0], affine[:3, 1] = np.array(first.read_dir) * size[0], np.array(first.phase_dir) * size[1]
    affine[:3, 2] = np.array(first.slice_dir) * first.field_of_view[2]
    rows, cols = images.shape[1:]
    affine[:3, 3] = np.array(first.position) - affine[:3, :2] @ (rows // 2, cols // 2)
    second = np.array(found[1].getHead().position) - np.array(first.position)
    np.testing.assert_allclose(second, affine[:3, 2], atol=1e-3)
    assert RESEARCH_ONLY in str(found[0].meta["ImageComment"])
    return images, affine


def from_h5(out: Path) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(out / "reconstruction.h5") as file:
        return file["reconstruction"][()], np.array(file.attrs["affine_lps"])


READERS = [from_nifti, from_dicom, from_ismrmrd, from_h5]


@pytest.mark.parametrize("read", READERS)
def test_marker_and_length(read: Callable[[Path], tuple[np.ndarray, np.ndarray]], out: Path) -> None:
    images, affine = read(out)
    assert images.shape == (3, ROWS, COLS)
    number, row, col = np.unravel_index(np.argmax(images), images.shape)
    np.testing.assert_allclose((affine @ (row, col, number, 1))[:3], world(*MARKER), atol=0.01)
    bar = np.flatnonzero(images[0][:, 11] > 0.5 * images[0].max())
    ends = [(affine @ (end, 11, 0, 1))[:3] for end in (bar[0], bar[-1] + 1)]
    assert np.linalg.norm(ends[1] - ends[0]) == pytest.approx(BAR_MM, abs=ROW_MM)


def test_all_outputs_hold_the_same_values(out: Path) -> None:
    expected = from_h5(out)[0]
    np.testing.assert_array_equal(from_nifti(out)[0], expected)
    np.testing.assert_array_equal(from_ismrmrd(out)[0], expected)
    np.testing.assert_allclose(from_dicom(out)[0], expected, atol=0.51 * expected.max() / 65535)
    words = (out / "mean.hdr").read_text().splitlines()[1].split()
    dims = [int(word) for word in words]
    assert dims == [ROWS, COLS, *(1,) * 11, 3, 1, 1]
    stored = np.fromfile(out / "mean.cfl", np.complex64).reshape(dims, order="F")
    np.testing.assert_array_equal(stored[:, :, *(0,) * 11].transpose(2, 0, 1, 3, 4)[..., 0, 0], expected)
    report = json.loads((out / "metrics.json").read_text())
    assert report["outputs"] == ["mean.nii.gz", "dicom/mean", "images.h5", "mean.cfl", "mean.hdr"]
    assert report["geometry"]["voxel_mm"] == pytest.approx([ROW_MM, COL_MM, SLICE_MM])
    assert report["geometry"]["stated"]


def test_info_describes_the_file_with_its_geometry(out: Path) -> None:
    found = describe(str(out / "reconstruction.h5"))
    assert found["what"] == "reconstruction"
    assert np.shape(found["attributes"]["affine_lps"]) == (4, 4)
    assert "affine_lps" in to_text(found)


@pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not installed")
def test_bart_reads_its_own(out: Path) -> None:
    shown = subprocess.run(["bart", "show", "-m", str(out / "mean")], capture_output=True, text=True, check=True).stdout
    assert f"{ROWS}" in shown
    assert f"{COLS}" in shown


def test_dicom_lies_beside_the_scanners_own(out: Path) -> None:
    files = [pydicom.dcmread(path) for path in sorted((out / "dicom" / "mean").iterdir())]
    first = files[0]
    assert (first.StudyInstanceUID, first.FrameOfReferenceUID, first.PatientID) == (STUDY, FRAME, "phantom-7")
    assert len({f.SeriesInstanceUID for f in files}) == 1
    assert len({f.SOPInstanceUID for f in files}) == 3
    assert all(f.file_meta.MediaStorageSOPInstanceUID == f.SOPInstanceUID for f in files)
    assert first.SeriesInstanceUID != "1.2.3"
    assert RESEARCH_ONLY in first.SeriesDescription
    assert RESEARCH_ONLY in first.ImageComments
    assert first.ImageType[0] == "DERIVED"
    assert first.EchoTime == 96
    axes = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-9)
    distances = [
        np.linalg.norm(np.subtract(b.ImagePositionPatient, a.ImagePositionPatient))
        for a, b in itertools.pairwise(files)
    ]
    np.testing.assert_allclose(distances, float(first.SpacingBetweenSlices), atol=1e-6)
    assert len({str(f.RescaleSlope) for f in files}) == 1
    assert float(first.WindowWidth) == pytest.approx(from_h5(out)[0].max(), rel=1e-6)
    with open_volume(out / "dicom" / "mean") as volume:
        assert volume.info.geometry is not None
        np.testing.assert_allclose(
            (volume.info.geometry.affine_lps(ROWS, COLS) @ (MARKER[0], MARKER[1], MARKER[2] - 2, 1))[:3],
            world(*MARKER),
            atol=0.01,
        )


def result_of(slices: int, rows: int, cols: int) -> ReconstructionResult:
    rng = torch.Generator().manual_seed(1)
    mean = 1e-5 * torch.rand((slices, rows, cols), generator=rng)
    config = {"method": "annealed", "preset": "fast", "num_samples": 4, "seed": 0, "level": 0.9}
    return ReconstructionResult(
        mean, 0.1 * mean, None, mean, torch.ones(rows, cols, dtype=torch.bool), None, 8, 32, 1.0, {}, config, 1.0, 0.0,
        [1.0] * slices,
    )  # fmt: skip


def acquisition_of(
    result: ReconstructionResult, shape: tuple[int, int], geometry: Geometry | None, **attrs: Any
) -> AcquisitionFacts:
    slices, rows, cols = result.mean.shape
    info = VolumeInfo("scan", "kspace", slices, 1, rows, cols, *shape, attrs=attrs, geometry=geometry)
    return AcquisitionFacts(info, list(range(slices)), result.mask, "as measured", 1.0, None, "", shape)


def test_uncertainty_is_a_series_of_its_own(tmp_path: Path) -> None:
    result = result_of(2, 12, 14)
    place = Geometry((1.0, 1.5, 5.0), stated=True)
    report = save_result(
        tmp_path, acquisition_of(result, (12, 14), place), result, outputs=read_outputs("dicom,ismrmrd,bart")
    )
    kinds = ("mean", "std", "lower", "upper")
    assert report["outputs"] == [*(f"dicom/{kind}" for kind in kinds), "images.h5", *bart_files(kinds)]
    mean, std = (pydicom.dcmread(tmp_path / "dicom" / kind / "0000.dcm") for kind in ("mean", "std"))
    assert mean.SeriesInstanceUID != std.SeriesInstanceUID
    assert mean.StudyInstanceUID == std.StudyInstanceUID
    assert mean.FrameOfReferenceUID == std.FrameOfReferenceUID
    assert std.ImageType[-1] == "STD"
    assert (int(mean.SeriesNumber), int(std.SeriesNumber)) == (9001, 9002)
    np.testing.assert_allclose(std.pixel_array * float(std.RescaleSlope), result.std[0], atol=1e-6 / 65535)
    with h5py.File(tmp_path / "images.h5") as file:
        np.testing.assert_array_equal(file["dataset/image_1/data"][1, 0, 0].T, result.std[1])
    with pytest.raises(BadVolume, match="no magnitude image, but 2 derived map"):
        open_volume(tmp_path / "dicom" / "std")
    with open_volume(tmp_path / "dicom" / "std", ReadOptions({"image_type": "STD"})) as volume:
        assert volume.info.num_slices == 2


def test_cropping_keeps_the_middle(tmp_path: Path) -> None:
    result = result_of(2, 12, 15)
    place = Geometry((1.0, 1.5, 5.0), centre_mm=(3.0, 4.0, 5.0), stated=True)
    save_result(tmp_path / "whole", acquisition_of(result, (12, 15), place), result, outputs=("nifti",))
    save_result(tmp_path / "part", acquisition_of(result, (7, 8), place), result, outputs=("nifti",))
    whole, part = (nibabel.load(tmp_path / name / "mean.nii.gz") for name in ("whole", "part"))
    assert part.shape == (8, 7, 2)
    for col, row in ((0, 0), (7, 6)):
        there = (np.linalg.inv(whole.affine) @ part.affine @ (col, row, 1, 1)).round(6).astype(int)
        assert part.get_fdata()[col, row, 1] == whole.get_fdata()[there[0], there[1], there[2]]


def test_what_the_source_does_not_state_is_said(tmp_path: Path) -> None:
    result = result_of(1, 12, 14)
    report = save_result(tmp_path, acquisition_of(result, (12, 14), None), result, outputs=("nifti", "dicom"))
    assert any("states no voxel size" in note for note in report["notes"])
    assert any("left and right are not to be taken" in note for note in report["notes"])
    image: Any = nibabel.load(tmp_path / "mean.nii.gz")
    assert int(image.header["qform_code"]) == 2
    said = image.header.extensions[0].get_content()
    assert "states no voxel size" in (said.decode() if isinstance(said, bytes) else said)
    assert "left and right are not" in pydicom.dcmread(tmp_path / "dicom" / "mean" / "0000.dcm").DerivationDescription
    assert report["geometry"]["notes"] == report["notes"][-2:]
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    given = acquisition_of(
        result, (12, 14), None, fov_mm="24 x 42 x 6", frame_of_reference_uid=FRAME, study_uid="not a UID"
    )
    report = save_result(tmp_path, given, result, outputs=("dicom",))
    assert not any("voxel" in note for note in report["notes"])
    written = pydicom.dcmread(tmp_path / "dicom" / "mean" / "0000.dcm")
    assert [float(x) for x in written.PixelSpacing] == [2, 3]
    assert written.FrameOfReferenceUID != FRAME
    assert written.StudyInstanceUID.is_valid


def test_names_are_checked_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_outputs("h5, dicom,nifti,dicom") == ("dicom", "nifti")
    assert main(["reconstruct", str(tmp_path / "absent.h5"), "--out", str(tmp_path / "r"), "--output", "niftii"]) == 1
    assert "no output 'niftii', did you mean 'nifti'?" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"output dicom needs pydicom: pip install 'kdrift\[dicom\]'"):
        read_outputs("dicom")


def test_an_output_that_fails_costs_itself_alone(tmp_path: Path) -> None:
    result = result_of(1, 12, 14)
    (tmp_path / "mean.nii.gz").mkdir()
    report = save_result(tmp_path, acquisition_of(result, (12, 14), None), result, outputs=("nifti", "bart"))
    assert report["outputs"] == bart_files(["mean", "std", "lower", "upper"])
    assert any(note.startswith("output nifti was not written: ") for note in report["notes"])
