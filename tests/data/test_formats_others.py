"""ISMRMRD raw data, NIfTI and DICOM: what headers mean."""

from __future__ import annotations

from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from formats_helpers import (
    bit,
    cartesian_lines,
    ifft,
    line,
    random_kspace,
    read,
    write_dicom,
    write_ismrmrd,
    xml,
)
from kdrift.data.discover import find_sources
from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.formats.bart import write_bart


class TestIsmrmrd:
    def test_order_repeats_reverse_and_noise(self, tmp_path: Path) -> None:
        kspace = random_kspace((2, 3, 8, 7))
        lines = cartesian_lines(kspace)
        lines += [line(2 * kspace[0, :, :, 2], slice=0, kspace_encode_step_1=2)]
        lines[4] = line(kspace[0, :, ::-1, 4], centre=3, flags=bit(22), slice=0, kspace_encode_step_1=4)
        lines += [line(random_kspace((3, 8), 9), flags=bit(flag), kspace_encode_step_1=1) for flag in (20, 23, 24, 27)]
        noise = random_kspace((3, 5000), 5) * np.array([[1], [2], [3]])
        noise[1] += noise[0]
        lines += [line(noise, flags=bit(19), sample_time_us=10.0)]
        lines += [line(9 * kspace[0, :, :, 1], kspace_encode_step_1=1, repetition=1)]
        order = np.random.default_rng(0).permutation(len(lines))
        write_ismrmrd(tmp_path / "a.h5", [lines[i] for i in order], xml(8, 7))
        kspace[0, :, :, 2] = (kspace[0, :, :, 2] + 2 * kspace[0, :, :, 2]) / 2
        np.testing.assert_allclose(read(tmp_path / "a.h5"), kspace, rtol=1e-6)
        with open_volume(tmp_path / "a.h5") as volume:
            assert volume.mask() is None
            assert volume.info.attrs["repetition_values"] == "0-1"
            expected = 2 * noise.astype(np.complex128) @ noise.conj().T / 5000  # twice the dwell time
            np.testing.assert_allclose(volume.noise_cov(), expected, rtol=1e-5)

    def test_no_noise_scan(self, tmp_path: Path) -> None:
        write_ismrmrd(tmp_path / "a.h5", cartesian_lines(random_kspace((1, 3, 8, 7))), xml(8, 7))
        with open_volume(tmp_path / "a.h5") as volume:
            assert volume.noise_cov() is None

    def test_missing_lines_make_the_mask(self, tmp_path: Path) -> None:
        kspace = random_kspace((2, 3, 8, 10))
        mask = np.isin(np.arange(10), [0, 2, 4, 5, 8])
        lines = [entry for entry in cartesian_lines(kspace) if mask[entry[0]["idx"]["kspace_encode_step_1"]]]
        write_ismrmrd(tmp_path / "a.h5", lines, xml(8, 10))
        np.testing.assert_array_equal(read(tmp_path / "a.h5"), kspace * mask)
        with open_volume(tmp_path / "a.h5") as volume:
            assert volume.info.has_mask
            np.testing.assert_array_equal(volume.mask(), mask)

    def test_padding_asymmetric_echo_and_discarded_samples(self, tmp_path: Path) -> None:
        kspace = random_kspace((1, 2, 12, 10))
        header = xml(12, 10).replace("<maximum>9</maximum><center>5</center>", "<maximum>5</maximum><center>3</center>")
        samples = np.concatenate([np.full((2, 1), 99), np.zeros((2, 9)), np.full((2, 2), 77)], axis=1) + 0j
        lines = []
        for step in range(6):  # centre 3 belongs at column 5; echo at sample 5 of 9 kept ones, which belongs at row 6
            samples[:, 1:10] = kspace[0, :, 2:11, step + 2]
            head = {"discard_pre": 1, "discard_post": 2, "kspace_encode_step_1": step}
            lines.append(line(samples.astype(np.complex64), centre=5, **head))
        write_ismrmrd(tmp_path / "a.h5", lines, header)
        expected = np.zeros_like(kspace)
        expected[:, :, 2:11, 2:8] = kspace[:, :, 2:11, 2:8]
        np.testing.assert_array_equal(read(tmp_path / "a.h5"), expected)
        with open_volume(tmp_path / "a.h5") as volume:
            np.testing.assert_array_equal(volume.mask(), expected[0, 0] != 0)

    def test_second_phase_encoding_becomes_slices(self, tmp_path: Path) -> None:
        volume3d = random_kspace((6, 2, 8, 5))  # (partition, coil, row, col)
        lines = [
            line(volume3d[z, :, :, y], kspace_encode_step_1=y, kspace_encode_step_2=z)
            for y in range(5)
            for z in range(6)
        ]
        write_ismrmrd(tmp_path / "a.h5", lines, xml(8, 5, 6))
        np.testing.assert_allclose(read(tmp_path / "a.h5"), ifft(volume3d, 0), atol=1e-6)
        write_bart(tmp_path / "b", volume3d)
        header = (tmp_path / "b.hdr").read_text().replace("8 5 1 2 1 1 1 1 1 1 1 1 1 6", "8 5 6 2 1 1 1 1 1 1 1 1 1 1")
        (tmp_path / "b.hdr").write_text(header)
        stored = volume3d.transpose(1, 0, 3, 2)  # column-major: read, phase, partition, coil
        (tmp_path / "b.cfl").write_bytes(np.ascontiguousarray(stored).tobytes())
        np.testing.assert_allclose(read(tmp_path / "b"), ifft(volume3d, 0), atol=1e-6)

    def test_undersampled_partitions_are_refused(self, tmp_path: Path) -> None:
        lines = [
            line(random_kspace((2, 8)), kspace_encode_step_1=y, kspace_encode_step_2=z)
            for y in range(16)
            for z in range(16)
            if (y + z) % 2 == 0
        ]
        write_ismrmrd(tmp_path / "a.h5", lines, xml(8, 16, 16))
        with pytest.raises(BadVolume, match="second phase encoding"):
            open_volume(tmp_path / "a.h5")

    def test_lengths_are_checked_before_they_are_believed(self, tmp_path: Path) -> None:
        kspace = random_kspace((1, 2, 8, 5))
        lines = cartesian_lines(kspace)
        lines[3][0]["number_of_samples"] = 4
        write_ismrmrd(tmp_path / "a.h5", lines, xml(8, 5))
        with pytest.raises(BadVolume, match="acquisition 3 holds 32 numbers of data, its header says 16"):
            open_volume(tmp_path / "a.h5")

    @pytest.mark.parametrize("chunks", [1, 3])
    def test_chunked_table(self, chunks: int, tmp_path: Path) -> None:
        kspace = random_kspace((2, 2, 8, 5))
        write_ismrmrd(tmp_path / "a.h5", cartesian_lines(kspace), xml(8, 5))
        with h5py.File(tmp_path / "a.h5", "a") as file:
            table = file["dataset/data"][()]
            dtype = file["dataset/data"].dtype
            del file["dataset/data"]
            file.create_dataset("dataset/data", data=table, dtype=dtype, chunks=(chunks,), maxshape=(None,))
        np.testing.assert_array_equal(read(tmp_path / "a.h5"), kspace)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"kspace_encode_step_1": 7}, "acquisition 0 .* lies outside of the encoded matrix 8 x 5 x 1"),
            ({"slice": 4}, "slice 2 of 5 has no acquisitions"),
            ({"center_sample": 7}, "outside of the encoded matrix"),
            ({"discard_pre": 9}, "outside of the encoded matrix"),
        ],
    )
    def test_bad_acquisitions(self, change: dict[str, int], reason: str, tmp_path: Path) -> None:
        lines = cartesian_lines(random_kspace((2, 2, 8, 5)))
        lines[0] = line(random_kspace((2, 8)), **change)
        write_ismrmrd(tmp_path / "a.h5", lines, xml(8, 5))
        with pytest.raises(BadVolume, match=reason):
            open_volume(tmp_path / "a.h5")


class TestNifti:
    def test_axial_orientation_and_scaling(self, tmp_path: Path) -> None:
        data = np.random.default_rng(0).integers(0, 4000, (5, 6, 4)).astype(np.int16)
        for signs in [(-1, -1, 1), (1, -1, 1), (-1, 1, 1), (1, 1, -1)]:
            affine = np.diag([0.9 * signs[0], 0.9 * signs[1], 3.0 * signs[2], 1.0])
            image = nibabel.Nifti1Image(data, affine)
            image.header.set_slope_inter(2.0, 1.0)
            nibabel.save(image, tmp_path / "sub-7_T2w.nii.gz")
            with open_volume(tmp_path / "sub-7_T2w.nii.gz") as volume:
                info = volume.info
                assert (info.num_slices, info.rows, info.cols, info.kind) == (4, 6, 5, "image")
                assert info.attrs["fov_mm"] == "5.4 x 4.5 x 3"
                assert (info.attrs["acquisition"], info.attrs["patient_id"]) == ("T2", "sub-7")
                stored = nibabel.load(tmp_path / "sub-7_T2w.nii.gz").get_fdata()
                # stored is right, anterior, superior for positive signs: rows to posterior, columns to left
                expected = stored[:: -signs[0], :: -signs[1], :: signs[2]].transpose(2, 1, 0)
                np.testing.assert_array_equal(volume.read_image(0, 4), expected.astype(np.float32))
                np.testing.assert_array_equal(volume.read_image(2, 3)[0], expected[2].astype(np.float32))

    def test_sagittal_and_coronal(self, tmp_path: Path) -> None:
        data = np.random.default_rng(0).random((5, 6, 4)).astype(np.float32)  # right, anterior, superior
        nibabel.save(nibabel.Nifti1Image(data, np.diag([4.0, 1.0, 1.0, 1.0])), tmp_path / "s.nii")
        with open_volume(tmp_path / "s.nii") as volume:  # rows superior to inferior, columns anterior to posterior
            np.testing.assert_array_equal(volume.read_image(0, 5), data[::-1, ::-1, ::-1].transpose(0, 2, 1))
        nibabel.save(nibabel.Nifti1Image(data, np.diag([1.0, 4.0, 1.0, 1.0])), tmp_path / "c.nii")
        with open_volume(tmp_path / "c.nii") as volume:
            np.testing.assert_array_equal(volume.read_image(1, 2)[0], data[::-1, ::-1, ::-1][:, 1].T)

    def test_declared_size(self, tmp_path: Path) -> None:
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "a.nii")
        content = bytearray((tmp_path / "a.nii").read_bytes())
        content[42:48] = np.array([3000, 1000, 30000], dtype="<i2").tobytes()
        (tmp_path / "a.nii").write_bytes(content)
        with pytest.raises(BadVolume, match="declares 180000000000 bytes of data, the file holds"):
            open_volume(tmp_path / "a.nii")
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), np.eye(4)), tmp_path / "t.nii")
        with pytest.raises(BadVolume, match="expected 3 dimensions"):
            open_volume(tmp_path / "t.nii")


class TestDicom:
    def test_series_is_sorted_and_rescaled(self, tmp_path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 4000, (5, 6, 7)).astype(np.uint16)
        for number, place in enumerate([3, 0, 4, 1, 2]):
            tags = {"RescaleSlope": 2, "RescaleIntercept": -10, "InstanceNumber": 9 - number}
            write_dicom(tmp_path / f"{number}.dcm", pixels[place], position=2.5 * place, series="1.2", **tags)
        (tmp_path / "LICENSE.txt").write_text("text")
        with open_volume(tmp_path) as volume:
            info = volume.info
            assert (info.num_slices, info.rows, info.cols) == (5, 6, 7)
            assert info.attrs["fov_mm"] == "3 x 5.25 x 3"
            assert (info.attrs["patient_id"], info.attrs["field_T"]) == ("someone", 3.0)
            expected = pixels.astype(np.float32) * 2 - 10
            np.testing.assert_array_equal(volume.read_image(0, 5), expected)
            np.testing.assert_array_equal(volume.read_image(3, 4)[0], expected[3])
        assert find_sources(tmp_path) == [str(tmp_path)]

    def test_single_and_multi_frame_files(self, tmp_path: Path) -> None:
        frames = np.random.default_rng(0).integers(0, 4000, (3, 6, 7)).astype(np.uint16)
        write_dicom(tmp_path / "a.dcm", frames, position=0, series="1.2")
        write_dicom(tmp_path / "b.dcm", frames[0], position=0, series="1.2")
        with open_volume(tmp_path / "a.dcm") as volume:
            np.testing.assert_array_equal(volume.read_image(1, 3), frames[1:])
        with open_volume(tmp_path / "b.dcm") as volume:
            np.testing.assert_array_equal(volume.read_image(0, 1)[0], frames[0])

    def test_several_series(self, tmp_path: Path) -> None:
        for series in ("1.2", "1.3"):
            write_dicom(tmp_path / f"{series}.dcm", np.full((4, 4), int(series[-1])), position=0, series=series)
        with pytest.raises(BadVolume, match="holds 2 series: choose one as"):
            open_volume(tmp_path)
        assert find_sources(tmp_path) == [f"{tmp_path}#1.2", f"{tmp_path}#1.3"]
        with open_volume(f"{tmp_path}#1.3") as volume:
            assert volume.read_image(0, 1).max() == 3
        with pytest.raises(BadVolume, match="no series 9"):
            open_volume(f"{tmp_path}#9")

    def test_bad_series(self, tmp_path: Path) -> None:
        with pytest.raises(BadVolume, match="holds no DICOM files"):
            open_volume(tmp_path)
        write_dicom(tmp_path / "a.dcm", np.zeros((4, 4)), position=0, series="1")
        write_dicom(tmp_path / "b.dcm", np.zeros((4, 5)), position=1, series="1")
        with pytest.raises(
            BadVolume, match=r"2 sizes or directions .* stack 0 has 1 axial of 4x4; stack 1 has 1 axial of 4x5"
        ):
            open_volume(tmp_path)
        (tmp_path / "b.dcm").write_bytes(b"short")
        with pytest.raises(BadVolume, match=r"b\.dcm: not a DICOM file"):
            open_volume(tmp_path)
        write_dicom(tmp_path / "b.dcm", np.zeros((4, 4)), position=1, series="1", Rows=20000, Columns=20000)
        with pytest.raises(BadVolume, match="declares 800000000 bytes"):
            open_volume(tmp_path / "b.dcm")
        write_dicom(tmp_path / "b.dcm", np.zeros((4, 4)), position=1, series="1", SamplesPerPixel=3)
        with pytest.raises(BadVolume, match="in colour, expected 1 sample a pixel"):
            open_volume(tmp_path / "b.dcm")
