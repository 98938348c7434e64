"""Readers and writers: bit-exact round trips, masks, places to read from, real files."""

from __future__ import annotations

from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats_helpers import (
    SHAPES,
    VALID,
    cartesian_lines,
    ifft,
    random_kspace,
    read,
    write_ismrmrd,
    xml,
)
from kdrift.data.discover import find_sources
from kdrift.data.formats import BadVolume, open_volume, volume_name
from kdrift.data.formats.bart import write_bart
from kdrift.data.formats.fastmri import write_fastmri


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
    def test_zeros_are_unsampled_and_no_stated_mask(self, two_d: bool, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        mask = rng.random((20, 16)) < 0.3 if two_d else np.arange(16) % 3 == 0
        kspace = random_kspace((3, 4, 20, 16)) * mask
        np.save(tmp_path / "a.npy", kspace)
        np.savez(tmp_path / "b.npz", kspace=kspace)
        write_bart(tmp_path / "c", kspace)
        write_fastmri(tmp_path / "d.h5", kspace)
        for name in ("a.npy", "b.npz", "c", "d.h5"):
            with open_volume(tmp_path / name) as volume:
                assert not volume.info.has_mask
                assert volume.mask() is None
                found = volume.sampling(volume.read_kspace(1, 3), 1)
                np.testing.assert_array_equal(found.measured, np.broadcast_to(mask, (2, 20, 16)))
                assert found.has_gaps

    def test_fastmri_two_dimensional_mask(self, tmp_path: Path) -> None:
        mask = np.random.default_rng(0).random((8, 6)) < 0.5
        write_fastmri(tmp_path / "a.h5", random_kspace((1, 2, 8, 6)), mask=mask)
        with open_volume(tmp_path / "a.h5") as volume:
            np.testing.assert_array_equal(volume.mask(), mask)


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
        with open_volume(tmp_path / "scan") as volume:
            assert volume.info.num_coils == 4

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
                    assert volume.mask() is None
                    found = volume.sampling(kspace, 0)
                    assert found.has_gaps
                    assert found.measured.shape == (1, 230, 180)
                    assert found.measured.mean() == pytest.approx(0.1243, abs=1e-3)

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


def test_hidden_files_are_no_sources(tmp_path: Path) -> None:
    """What is being written lies beside its place under a hidden name, and other systems leave hidden files too."""
    for name in ("a.npy", ".b-0123.npy", "._a.npy", ".c.dcm"):
        (tmp_path / name).touch()
    assert find_sources(tmp_path) == [str(tmp_path / "a.npy")]
