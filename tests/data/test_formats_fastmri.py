"""fastMRI HDF5 and its ISMRMRD header: what the fields mean."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats_helpers import (
    ifft,
    random_kspace,
    read,
    xml,
)
from kdrift.data.centring import centre_crop
from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.formats.fastmri import remove_readout_oversampling, write_fastmri
from kdrift.data.formats.header import read_header, write_header
from kdrift.data.volume import ReadOptions


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


def test_averages_of_the_prostate_set(tmp_path: Path) -> None:
    """Five axes beside a header are no SKM-TEA: the first are averages, of which one is read."""
    kspace = np.stack([random_kspace((4, 3, 8, 6)) * (number + 1) for number in range(3)])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"], file["ismrmrd_header"] = kspace, xml(8, 6)
    np.testing.assert_array_equal(read(tmp_path / "a.h5"), kspace[0])
    with open_volume(tmp_path / "a.h5", ReadOptions({"average": "2"})) as volume:
        np.testing.assert_array_equal(volume.read_kspace(1, 3), kspace[2, 1:3])
        assert any("average 2 of 3" in note and "--select average=N" in note for note in volume.info.notes)
    with pytest.raises(BadVolume, match="select average=3: there are 3, numbers 0 to 2"):
        open_volume(tmp_path / "a.h5", ReadOptions({"average": "3"}))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["kspace"] = kspace[0]
    with pytest.raises(BadVolume, match="cannot select average here"):
        open_volume(tmp_path / "b.h5", ReadOptions({"average": "0"}))


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
        (encoding,) = header.encodings
        assert encoding.encoded == (640, 368, 2)
        assert encoding.recon == (320, 300, 2)
        assert encoding.recon_fov_mm == (220.0, 210.0, 4.5)
        assert encoding.centre == (184, 1)
        assert header.attrs["patient_id"] == "<&>"
        assert header.attrs["receiver_channels"] == 16
        assert header.attrs["fov_mm"] == "220 x 210 x 4.5"
