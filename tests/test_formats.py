"""Readers and writers: bit-exact round trips, what headers mean, and bad files by name."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path

import fsspec
import h5py
import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats_helpers import (
    VALID,
    bit,
    cartesian_lines,
    line,
    random_kspace,
    write_dicom,
    write_ismrmrd,
)
from kdrift.data.formats import BadVolume, find_sources, open_volume, volume_name
from kdrift.data.formats.bart import write_bart
from kdrift.data.formats.fastmri import remove_readout_oversampling, write_fastmri
from kdrift.data.formats.header import read_header, write_header
from kdrift.data.volume import centre_crop

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 32), st.integers(1, 17), st.integers(1, 17))
FOV = (200.0, 200.0, 5.0)


def xml(rows: int, cols: int, slices: int = 1) -> str:
    return write_header((rows, cols), (rows, cols), FOV, {}, slices)


def read(path: Path | str) -> np.ndarray:
    with open_volume(path) as volume:
        slices = [volume.read_kspace(i, i + 1) for i in range(volume.info.num_slices)]
        whole = volume.read_kspace(0, volume.info.num_slices)
    assert whole.dtype == np.complex64
    np.testing.assert_array_equal(np.concatenate(slices), whole)
    return whole


def read_all(path: Path) -> None:
    with open_volume(path) as volume:
        if volume.info.kind == "kspace":
            volume.read_kspace(0, volume.info.num_slices)
        volume.read_image(0, volume.info.num_slices)


def ifft(x: np.ndarray, axis: int) -> np.ndarray:
    return np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(x, axis), axis=axis, norm="ortho"), axis)


class TestRoundTrips:
    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(SHAPES)
    def test_kspace_is_bit_exact(self, tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...]) -> None:
        folder = tmp_path_factory.mktemp("trip")
        kspace = random_kspace(shape)
        write_fastmri(folder / "a.h5", kspace)
        write_bart(folder / "b", kspace)
        np.save(folder / "c.npy", kspace)
        np.save(folder / "d.npy", np.asfortranarray(kspace))
        np.savez_compressed(folder / "e.npz", kspace=kspace)
        np.savez(folder / "f.npz", np.asfortranarray(kspace))
        write_ismrmrd(folder / "g.h5", cartesian_lines(kspace)[::-1], xml(*shape[2:]))
        for name in ("a.h5", "b.cfl", "b.hdr", "b", "c.npy", "d.npy", "e.npz", "f.npz", "g.h5"):
            np.testing.assert_array_equal(read(folder / name), kspace, err_msg=name)
            with open_volume(folder / name) as volume:
                assert not volume.info.has_mask
                assert volume.mask() is None

    @settings(max_examples=15, deadline=None, derandomize=True)
    @given(SHAPES, st.booleans())
    def test_fastmri_with_everything(
        self, tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], single: bool
    ) -> None:
        path = tmp_path_factory.mktemp("trip") / "a.h5"
        kspace = random_kspace(shape)[:, :1] if single else random_kspace(shape)
        reference = np.abs(kspace[:, 0, : (shape[2] + 1) // 2, : (shape[3] + 1) // 2])
        mask = np.arange(shape[3]) % 2 == 0
        stored = kspace[:, 0] if single else kspace
        attrs = {"acquisition": "AXT2", "field_T": 1.5, "simulated": True}
        write_fastmri(path, stored, reference=reference, mask=mask, attrs=attrs)
        with open_volume(path) as volume:
            info = volume.info
            assert (info.num_slices, info.num_coils, info.rows, info.cols) == kspace.shape
            assert (info.recon_rows, info.recon_cols) == reference.shape[1:]
            np.testing.assert_array_equal(volume.read_image(0, shape[0]), reference)
            np.testing.assert_array_equal(volume.mask(), mask)
            assert info.attrs["simulated"] is True
            assert info.attrs["field_T"] == 1.5
            assert info.attrs["max"] == pytest.approx(reference.max())
            assert info.attrs["padding_left"] == 0
            assert info.attrs["padding_right"] == shape[3]
        np.testing.assert_array_equal(read(path), kspace)
        with h5py.File(path) as file:
            assert ("reconstruction_esc" in file) == single

    def test_images(self, tmp_path: Path) -> None:
        images = np.random.default_rng(0).random((3, 7, 5)).astype(np.float32)
        np.save(tmp_path / "a.npy", images)
        np.savez(tmp_path / "b.npz", images=images)
        with h5py.File(tmp_path / "c.h5", "w") as file:
            file["reconstruction"] = images
        for name in ("a.npy", "b.npz", "c.h5"):
            with open_volume(tmp_path / name) as volume:
                assert volume.info.kind == "image"
                np.testing.assert_array_equal(volume.read_image(1, 3), images[1:])
                with pytest.raises(ValueError, match="holds images, not k-space"):
                    volume.read_kspace(0, 1)
                with pytest.raises(ValueError, match=r"has 3 slices, asked for 2:4"):
                    volume.read_image(2, 4)

    @pytest.mark.parametrize("shape", [(9, 6), (4, 9, 6), (2, 4, 9, 6)])
    def test_numpy_shapes(self, shape: tuple[int, ...], tmp_path: Path) -> None:
        kspace = random_kspace(shape)
        np.save(tmp_path / "a.npy", kspace)
        np.testing.assert_array_equal(read(tmp_path / "a.npy"), kspace.reshape((1,) * (4 - len(shape)) + shape))


class TestMasks:
    @pytest.mark.parametrize("two_d", [False, True])
    def test_zeros_are_unsampled(self, two_d: bool, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        mask = rng.random((20, 16)) < 0.3 if two_d else np.arange(16) % 3 == 0
        kspace = random_kspace((3, 4, 20, 16)) * mask
        np.save(tmp_path / "a.npy", kspace)
        np.savez(tmp_path / "b.npz", kspace=kspace)
        write_bart(tmp_path / "c", kspace)
        for name in ("a.npy", "b.npz", "c"):
            with open_volume(tmp_path / name) as volume:
                assert volume.info.has_mask
                np.testing.assert_array_equal(volume.mask(), mask)

    def test_a_few_measured_zeros_are_no_mask(self, tmp_path: Path) -> None:
        kspace = random_kspace((1, 1, 32, 32))
        kspace[..., 3, 5] = 0
        np.save(tmp_path / "a.npy", kspace)
        with open_volume(tmp_path / "a.npy") as volume:
            assert volume.mask() is None

    def test_slices_sampled_differently_are_refused(self, tmp_path: Path) -> None:
        kspace = random_kspace((2, 1, 8, 8))
        kspace[0, ..., ::2] = 0
        kspace[1, ..., [1, 2, 3]] = 0
        np.save(tmp_path / "a.npy", kspace)
        with open_volume(tmp_path / "a.npy") as volume, pytest.raises(BadVolume, match="expected one mask"):
            volume.mask()

    def test_fastmri_two_dimensional_mask(self, tmp_path: Path) -> None:
        mask = np.random.default_rng(0).random((8, 6)) < 0.5
        write_fastmri(tmp_path / "a.h5", random_kspace((1, 2, 8, 6)), mask=mask)
        with open_volume(tmp_path / "a.h5") as volume:
            np.testing.assert_array_equal(volume.mask(), mask)


class TestFastmri:
    def test_bare_file(self, tmp_path: Path) -> None:
        kspace = random_kspace((2, 3, 8, 6))
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["kspace"] = kspace
        with open_volume(tmp_path / "a.h5") as volume:
            assert (volume.info.recon_rows, volume.info.recon_cols) == (8, 6)
            assert volume.info.attrs == {"source_format": "fastmri"}
            with pytest.raises(ValueError, match="no reference"):
                volume.read_image(0, 1)
        np.testing.assert_array_equal(read(tmp_path / "a.h5"), kspace)

    def test_header_of_a_test_file(self, tmp_path: Path) -> None:
        header = write_header((640, 372), (320, 320), (220.0, 220.0, 5.0), {"field_T": 2.8936})
        header = header.replace(
            "<maximum>371</maximum><center>186</center>", "<maximum>367</maximum><center>184</center>"
        )
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["kspace"] = np.zeros((1, 2, 64, 372), dtype=np.complex64)
            file["mask"] = np.ones(372, dtype=np.float32)
            file["ismrmrd_header"] = header
            file.attrs["acceleration"] = 4
            file.attrs["odd"] = [1, 2, 3]
            file.attrs["max"] = np.nan
        with open_volume(tmp_path / "a.h5") as volume:
            info = volume.info
        assert (info.recon_rows, info.recon_cols) == (64, 320)
        assert (info.attrs["padding_left"], info.attrs["padding_right"]) == (2, 370)
        assert info.attrs["fov_mm"] == "220 x 220 x 5"
        assert info.attrs["encoded_rows"] == 640
        assert info.attrs["field_T"] == 2.8936
        assert info.attrs["acceleration"] == 4
        assert "odd" not in info.attrs
        assert "max" not in info.attrs

    def test_reference_wider_than_kspace_is_cropped(self, tmp_path: Path) -> None:
        reference = np.random.default_rng(0).random((1, 8, 10)).astype(np.float32)
        write_fastmri(tmp_path / "a.h5", random_kspace((1, 2, 16, 7)), reference=reference)
        with open_volume(tmp_path / "a.h5") as volume:
            assert (volume.info.recon_rows, volume.info.recon_cols) == (8, 7)
            np.testing.assert_array_equal(volume.read_image(0, 1), centre_crop(reference, 8, 7))

    def test_opening_and_one_slice_do_not_read_the_rest(self, tmp_path: Path) -> None:
        kspace = random_kspace((3, 2, 16, 16))
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("kspace", data=kspace, chunks=(1, 2, 16, 16), fletcher32=True)
        content = (tmp_path / "a.h5").read_bytes()
        place = content.find(kspace[2].tobytes())
        (tmp_path / "a.h5").write_bytes(content[:place] + b"\0" * 64 + content[place + 64 :])
        with open_volume(tmp_path / "a.h5") as volume:
            np.testing.assert_array_equal(volume.read_kspace(0, 2), kspace[:2])
            with pytest.raises(BadVolume, match=r"a\.h5: slices 2:3 cannot be read"):
                volume.read_kspace(2, 3)

    def test_write_is_atomic_and_checks_shapes(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="mask has shape"):
            write_fastmri(tmp_path / "a.h5", random_kspace((1, 2, 8, 6)), mask=np.ones(5))
        with pytest.raises(ValueError, match="reference has shape"):
            write_fastmri(tmp_path / "a.h5", random_kspace((1, 2, 8, 6)), reference=np.ones((2, 8, 6)))
        with pytest.raises(TypeError):
            write_fastmri(tmp_path / "a.h5", random_kspace((1, 2, 8, 6)), attrs={"bad": object()})
        assert list(tmp_path.iterdir()) == []

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 9))
    def test_readout_oversampling(self, one: int, two: int, cols: int) -> None:
        rows, recon_rows = max(one, two), min(one, two)
        kspace = random_kspace((2, rows, cols)).astype(np.complex128)
        reduced = remove_readout_oversampling(kspace, recon_rows)
        expected = centre_crop(ifft(kspace, -2), recon_rows, cols)
        np.testing.assert_allclose(ifft(reduced, -2), expected, atol=1e-12)
        assert remove_readout_oversampling(kspace.astype(np.complex64), recon_rows).dtype == np.complex64


class TestHeader:
    def test_doctype_is_refused(self, tmp_path: Path) -> None:
        laughs = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><ismrmrdHeader>&b;</ismrmrdHeader>'
        external = '<!DOCTYPE x SYSTEM "file:///etc/passwd"><ismrmrdHeader/>'
        for text in (laughs, external):
            with h5py.File(tmp_path / "a.h5", "w") as file:
                file["kspace"] = random_kspace((1, 2, 8, 6))
                file["ismrmrd_header"] = text
            with pytest.raises(BadVolume, match=r"a\.h5: XML header has a DOCTYPE: refused"):
                open_volume(tmp_path / "a.h5")

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("<a><b></a>", "malformed"),
            ("no xml", "malformed"),
            ("<a>&undefined;</a>", "malformed"),
            ("<a>" * 100, "nested more than"),
            ("<?xml version='1.0' encoding='klingon'?><a/>", "malformed"),
            (xml(8, 6).replace("<x>8</x>", "<x>eight</x>"), "expected a number"),
            (xml(8, 6).replace("<x>8</x>", "<x>0</x>"), "expected positive sizes"),
            (xml(8, 6).replace("<x>8</x>", f"<x>{'9' * 5000}</x>"), "expected a number"),
            ("<a>" + "x" * (9 << 20) + "</a>", "expected at most"),
        ],
    )
    def test_bad_headers(self, text: str, reason: str) -> None:
        with pytest.raises(BadVolume, match=reason):
            read_header("file", text.encode())

    def test_round_trip(self) -> None:
        fields = {"field_T": 3.0, "receiver_channels": 16, "patient_id": "<&>"}
        header = read_header("file", write_header((640, 368), (320, 300), (220.0, 210.0, 4.5), fields, 2).encode())
        assert header.encoded == (640, 368, 2)
        assert header.recon == (320, 300, 2)
        assert header.centre == (184, 1)
        assert header.attrs["patient_id"] == "<&>"
        assert header.attrs["receiver_channels"] == 16
        assert header.attrs["fov_mm"] == "220 x 210 x 4.5"


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
            assert volume.info.attrs["num_repetitions"] == 2
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
        with pytest.raises(BadVolume, match=r"b\.dcm: slice is 4x5, but a\.dcm is 4x4"):
            open_volume(tmp_path)
        (tmp_path / "b.dcm").write_bytes(b"short")
        with pytest.raises(BadVolume, match=r"b\.dcm: not a DICOM file"):
            open_volume(tmp_path)
        write_dicom(tmp_path / "b.dcm", np.zeros((4, 4)), position=1, series="1", Rows=20000, Columns=20000)
        with pytest.raises(BadVolume, match="declares 800000000 bytes"):
            open_volume(tmp_path / "b.dcm")
        write_dicom(tmp_path / "b.dcm", np.zeros((4, 4)), position=1, series="1", SamplesPerPixel=3)
        with pytest.raises(BadVolume, match="3 samples a pixel, expected 1"):
            open_volume(tmp_path / "b.dcm")


def write_h5(path: Path, **datasets: object) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name] = value
    return path


class TestBadFiles:
    @pytest.mark.parametrize("name", VALID)
    def test_truncated(self, name: str, tmp_path: Path) -> None:
        path = VALID[name](tmp_path)
        path = path.with_suffix(".cfl") if name == "bart" else path
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 2 // 3])
        with pytest.raises(BadVolume, match=path.stem):
            read_all(path)
        path.write_bytes(b"")
        with pytest.raises(BadVolume, match=r"empty|declares"):
            open_volume(path)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(BadVolume, match="no such file"):
            open_volume(tmp_path / "nothing.h5")
        write_bart(tmp_path / "b", random_kspace((1, 1, 4, 4)))
        (tmp_path / "b.cfl").unlink()
        with pytest.raises(BadVolume, match=r"BART file b\.cfl is missing"):
            open_volume(tmp_path / "b.hdr")

    @pytest.mark.parametrize(
        ("datasets", "reason"),
        [
            ({"data": np.zeros(3)}, "found keys data, expected kspace"),
            ({"kspace": np.zeros((1, 2, 8, 6))}, "kspace is float64 .* expected complex"),
            ({"kspace": np.zeros((8, 6), complex)}, "expected complex"),
            ({"kspace": np.zeros((0, 2, 8, 6), np.complex64)}, "a dimension is 0"),
            ({"kspace": h5py.Empty("c8")}, "kspace is empty"),
            ({"kspace/inner": np.zeros(3)}, "kspace is a group, expected a dataset"),
            (
                {"kspace": random_kspace((2, 1, 8, 6)), "reconstruction_rss": np.ones((1, 8, 6))},
                "1 slices, kspace has 2",
            ),
            ({"kspace": random_kspace((2, 1, 8, 6)), "ismrmrd_header": 3.0}, "expected one text"),
            ({"reconstruction": np.ones((8, 6))}, "expected numbers"),
            ({"dataset/xml": "<a/>"}, "lacks data"),
            ({"dataset/xml": "<a/>", "dataset/data": np.zeros(3)}, "has no encodedSpace"),
            ({"dataset/xml": xml(8, 6), "dataset/data": np.zeros(3)}, "expected ISMRMRD acquisitions"),
            (
                {"dataset/xml": xml(8, 6).replace("cartesian", "spiral"), "dataset/data": np.zeros(3)},
                "'spiral'",
            ),
        ],
    )
    def test_hdf5_content(self, datasets: dict[str, object], reason: str, tmp_path: Path) -> None:
        path = write_h5(tmp_path / "a.h5", **datasets)
        with pytest.raises(BadVolume, match=reason):
            open_volume(path)

    @pytest.mark.parametrize(
        ("mask", "reason"),
        [
            (np.zeros(6), "samples nothing"),
            (np.ones(5), r"mask has shape \(5,\), expected \(6,\)"),
            (np.full(6, np.nan), "not finite"),
        ],
    )
    def test_fastmri_masks(self, mask: np.ndarray, reason: str, tmp_path: Path) -> None:
        path = write_h5(tmp_path / "a.h5", kspace=random_kspace((2, 1, 8, 6)), mask=mask)
        with open_volume(path) as volume, pytest.raises(BadVolume, match=reason):
            volume.mask()

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
    def test_not_finite(self, value: float, tmp_path: Path) -> None:
        kspace = random_kspace((4, 2, 8, 6)).astype(np.complex128)
        kspace[2, 1, 3, 3] = value
        np.save(tmp_path / "a.npy", kspace)
        write_h5(tmp_path / "a.h5", kspace=kspace)
        for name in ("a.npy", "a.h5"):
            with open_volume(tmp_path / name) as volume:
                volume.read_kspace(0, 2)
                with pytest.raises(BadVolume, match="slice 2 holds NaN or infinite"):
                    volume.read_kspace(1, 4)

    def test_terabytes(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("kspace", (1 << 20, 16, 640, 640), np.complex64, chunks=(1, 1, 64, 64))
        with h5py.File(tmp_path / "b.h5", "w") as file:
            options = {"chunks": (1, 1, 64, 64), "compression": "gzip"}
            file.create_dataset("kspace", (1 << 20, 16, 640, 640), np.complex64, **options)
        (tmp_path / "c.hdr").write_text("# Dimensions\n100000 100000 1 32 1\n")
        (tmp_path / "c.cfl").write_bytes(b"\0" * 64)
        (tmp_path / "d.hdr").write_text("# Dimensions\n1000 1000 1 4 1\n")
        (tmp_path / "d.cfl").write_bytes(b"\0" * 64)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<c8", "fortran_order": False, "shape": (1 << 20, 16, 640, 640)}
        )
        (tmp_path / "e.npy").write_bytes(header.getvalue() + b"\0" * 64)
        with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
            archive.writestr("kspace.npy", header.getvalue() + b"\0" * 64)
        for name in ("a.h5", "b.h5", "c.hdr", "d.hdr", "e.npy", "f.npz"):
            with pytest.raises(BadVolume, match=r"declares|claims|greater than file size"):
                open_volume(tmp_path / name)

    def test_links_out_of_the_file(self, tmp_path: Path) -> None:
        write_h5(tmp_path / "other.h5", kspace=random_kspace((1, 1, 4, 4)))
        (tmp_path / "secret").write_bytes(bytes(1 * 1 * 4 * 4 * 8))
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["kspace"] = h5py.ExternalLink("other.h5", "kspace")
        with h5py.File(tmp_path / "b.h5", "w") as file:
            external = [(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset("kspace", (1, 1, 4, 4), np.complex64, external=external)
        with h5py.File(tmp_path / "c.h5", "w") as file:
            layout = h5py.VirtualLayout((1, 1, 4, 4), np.complex64)
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "kspace", shape=(1, 1, 4, 4))
            file.create_virtual_dataset("kspace", layout)
        for name in ("a.h5", "b.h5", "c.h5"):
            with pytest.raises(BadVolume, match="expected the data itself"):
                open_volume(tmp_path / name)

    def test_pickles(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple:
                return os.mkdir, (str(tmp_path / "sprung"),)

        trap = np.array([Trap()], dtype=object)
        np.save(tmp_path / "a.npy", trap, allow_pickle=True)
        np.savez(tmp_path / "b.npz", allow_pickle=True, kspace=trap)
        (tmp_path / "c.npy").write_bytes(pickle.dumps(Trap()))
        for name in ("a.npy", "b.npz", "c.npy"):
            with pytest.raises(BadVolume):
                open_volume(tmp_path / name)
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros(4),
            np.zeros((1, 2, 3, 4)),
            np.zeros((4, 4), bool),
            np.zeros((0, 4)),
            np.array([["a", "b"]]),
        ],
    )
    def test_numpy_content(self, array: np.ndarray, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(BadVolume, match="expected"):
            open_volume(tmp_path / "a.npy")

    @pytest.mark.parametrize(
        ("arrays", "reason"),
        [
            ({"a": np.zeros(3), "b": np.zeros(3)}, "found arrays a, b, expected kspace"),
            ({"kspace": np.zeros((4, 4))}, "kspace is float64, expected complex"),
            (
                {"kspace": random_kspace((4, 4)), "mask": np.ones(3)},
                r"mask is float64 \(3,\), expected \(4,\)",
            ),
            ({"kspace": random_kspace((4, 4)), "reference": np.ones((3, 4))}, r"expected real \(1, 4, 4\)"),
        ],
    )
    def test_npz_content(self, arrays: dict[str, np.ndarray], reason: str, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(BadVolume, match=reason):
            open_volume(tmp_path / "a.npz")

    @pytest.mark.parametrize(
        ("header", "reason"),
        [
            ("nothing", "no '# Dimensions' line"),
            ("# Dimensions\n4 -4 1\n", "expected 1 to 16 positive integers"),
            ("# Dimensions\n4 0 1\n", "number of columns is 0"),
            ("# Dimensions\n4 4 1 1 2\n", r"dimension 4 \(maps\) is 2, expected 1"),
            ("# Dimensions\n4 " + "9" * 30, "impossibly large"),
        ],
    )
    def test_bart_headers(self, header: str, reason: str, tmp_path: Path) -> None:
        (tmp_path / "a.hdr").write_text(header)
        (tmp_path / "a.cfl").write_bytes(b"\0" * 128)
        with pytest.raises(BadVolume, match=reason):
            open_volume(tmp_path / "a")

    def test_error_survives_pickling(self) -> None:
        error = pickle.loads(pickle.dumps(BadVolume("file", "reason")))
        assert str(error) == "file: reason"
        assert (error.path, error.reason) == ("file", "reason")


class TestPlaces:
    def test_urls(self, tmp_path: Path) -> None:
        remote = fsspec.filesystem("memory")
        for name, write in VALID.items():
            (tmp_path / name).mkdir()
            write(tmp_path / name)
            for file in (tmp_path / name).iterdir():
                remote.pipe_file(f"/kdrift/{name}/{file.name}", file.read_bytes())
        for name in VALID:
            local = next(path for path in sorted((tmp_path / name).iterdir(), reverse=True))
            url = f"memory://kdrift/{name}/{local.name}"
            with open_volume(local) as volume, open_volume(url) as other:
                assert other.path == url
                assert other.info == volume.info
                if volume.info.kind == "kspace":
                    np.testing.assert_array_equal(other.read_kspace(0, 1), volume.read_kspace(0, 1))
                else:
                    np.testing.assert_array_equal(other.read_image(0, 1), volume.read_image(0, 1))
        with open_volume("memory://kdrift/dicom") as volume:
            assert volume.info.num_slices == 1
        remote.pipe_file("/kdrift/bad.npy", b"no array at all")
        for url in ("memory://kdrift/bad.npy", "memory://kdrift/none.h5", "memory://kdrift/none.npy"):
            with pytest.raises(BadVolume, match=url):
                open_volume(url)
        with pytest.raises(BadVolume, match="nonsense://"):
            open_volume("nonsense://x/y.h5")

    def test_temporary_copies_are_removed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "copies").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "copies"))
        np.save(tmp_path / "a.npy", random_kspace((4, 4)))
        fsspec.filesystem("memory").pipe_file("/kdrift/a.npy", (tmp_path / "a.npy").read_bytes())
        with open_volume("memory://kdrift/a.npy"):
            assert len(list((tmp_path / "copies").iterdir())) == 1
        assert list((tmp_path / "copies").iterdir()) == []

    def test_content_counts_more_than_the_suffix(self, tmp_path: Path) -> None:
        path = VALID["fastmri"](tmp_path)
        path.rename(tmp_path / "scan")
        assert open_volume(tmp_path / "scan").info.num_coils == 4

    def test_names_and_sources(self, tmp_path: Path) -> None:
        assert volume_name("s3://bucket/x/scan.nii.gz") == "scan"
        assert volume_name("/a/b.c/") == "b.c"
        for name in ("fastmri", "bart", "nifti-gz", "npy"):
            VALID[name](tmp_path)
        (tmp_path / "readme.txt").write_text("")
        assert [Path(path).name for path in find_sources(tmp_path)] == ["a.h5", "b.cfl", "i.nii.gz", "k.npy"]


class TestRealFiles:
    def test_kspace(self, shared_data: Path) -> None:
        for path in find_sources(shared_data / "kspace"):
            with open_volume(path) as volume:
                kspace = volume.read_kspace(0, 1)
                if volume.info.has_reference:
                    image = np.sqrt((np.abs(ifft(ifft(kspace, -1), -2)) ** 2).sum(1))
                    reference = volume.read_image(0, 1)
                    np.testing.assert_allclose(image, reference, atol=1e-3 * reference.max())
                    assert volume.mask() is None
                else:
                    mask = volume.mask()
                    assert mask is not None
                    assert mask.shape == (230, 180)
                    assert mask.mean() == pytest.approx(0.1243, abs=1e-3)

    def test_nifti(self, shared_data: Path) -> None:
        with open_volume(shared_data / "brain_nifti/patient12/study1_T2W.nii.gz") as volume:
            assert (volume.info.num_slices, volume.info.rows, volume.info.cols) == (44, 384, 348)
            assert (volume.info.attrs["patient_id"], volume.info.attrs["acquisition"]) == ("patient12", "T2")
            assert volume.read_image(20, 21).max() > 0

    def test_dicom(self, shared_data: Path) -> None:
        with open_volume(shared_data / "brain_dicom") as volume:
            assert (volume.info.num_slices, volume.info.rows, volume.info.cols) == (160, 384, 274)
            two = volume.read_image(80, 82)
            assert np.corrcoef(two[0].ravel(), two[1].ravel())[0, 1] > 0.9  # neighbours in space
