"""Calgary-Campinas and SKM-TEA: hybrid space (x, ky, kz) in HDF5, as those sets are written."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from formats_helpers import random_kspace, read
from kdrift.data.centring import ifft_centred
from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.volume import ReadOptions


def head(rows: int, cols: int) -> np.ndarray:
    """An image with a bright corner of its own: one that is shifted or turned looks different."""
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : cols * 1j]
    return (x**2 + (y / 0.8) ** 2 < 0.6) + 2.0 * ((x - 0.3) ** 2 + (y + 0.2) ** 2 < 0.03)


def interleaved(kspace: np.ndarray) -> np.ndarray:
    """(x, coil, ky, kz) to the real (x, ky, kz, 2 coil) of Calgary-Campinas."""
    moved = np.ascontiguousarray(kspace.transpose(0, 2, 3, 1).astype(np.complex64))
    return moved.view(np.float32)


def write(path: Path, **arrays: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


@pytest.mark.parametrize("shape", [(32, 28), (32, 27), (31, 26)])
def test_calgary_images_lie_where_a_plain_transform_puts_them(shape: tuple[int, int], tmp_path: Path) -> None:
    sensitivities = 1 + random_kspace((3, *shape)) / 8
    images = head(*shape) * sensitivities * np.array([1, 0.5, 0])[:, None, None, None]
    # zero frequency in the middle, and a plain inverse FFT shows the magnitude in place
    kspace = np.fft.fftshift(np.fft.fft2(images, norm="ortho"), axes=(-2, -1))
    path = write(tmp_path / "e14089s3_P53248.7.h5", kspace=interleaved(kspace))
    with open_volume(path) as volume:
        assert (volume.info.num_slices, volume.info.num_coils) == (3, 3)
        found = ifft_centred(volume.read_kspace(0, 3))
        assert volume.mask() is None
    plain = np.abs(np.fft.ifft2(kspace, norm="ortho"))
    np.testing.assert_allclose(np.abs(found), plain, atol=1e-5)
    np.testing.assert_allclose(plain, np.abs(images), atol=1e-5)


def test_calgary_columns_that_were_not_measured(tmp_path: Path) -> None:
    kspace = random_kspace((4, 2, 24, 20))
    kspace[..., 17:] *= 1e-6
    with open_volume(write(tmp_path / "a.h5", kspace=interleaved(kspace))) as volume:
        found = volume.sampling(volume.read_kspace(1, 3), 1)
        np.testing.assert_array_equal(found.measured, np.broadcast_to(np.arange(20) < 17, (2, 24, 20)))
        assert any("3 columns hold next to nothing" in note for note in found.notes)
        assert any("real and imaginary part of each coil in turn" in note for note in volume.info.notes)
    kspace[..., 17:] = 0
    found = read(write(tmp_path / "b.h5", kspace=interleaved(kspace)))
    np.testing.assert_array_equal(found == 0, kspace == 0)  # a shift of the image keeps exact zeros
    np.testing.assert_allclose(np.abs(found), np.abs(kspace), rtol=1e-6)


def test_calgary_stated_centring_and_one_coil(tmp_path: Path) -> None:
    images = np.broadcast_to(head(40, 35), (2, 1, 40, 35))
    path = write(tmp_path / "a.h5", kspace=interleaved(np.fft.fft2(images, norm="ortho")))
    with pytest.raises(BadVolume, match="real and imaginary part of one coil"):
        open_volume(path)
    with open_volume(path, ReadOptions(centred=False)) as volume:
        np.testing.assert_allclose(ifft_centred(volume.read_kspace(0, 2)), images, atol=1e-5)
    with open_volume(path, ReadOptions(centred=True)) as volume:
        np.testing.assert_allclose(volume.read_kspace(0, 2), np.fft.fft2(images, norm="ortho"), atol=1e-5)
    with pytest.raises(BadVolume, match="axes are stated"):
        open_volume(path, ReadOptions(axes=("row", "col"), centred=True))


def test_skm_tea_echoes_and_target(tmp_path: Path) -> None:
    kspace, target = random_kspace((4, 16, 12, 2, 3)), random_kspace((4, 16, 12, 2, 1), seed=1)
    path = write(tmp_path / "MTR_005.h5", kspace=kspace, target=target, maps=random_kspace((4, 16, 12, 3, 1)))
    np.testing.assert_array_equal(read(path), kspace[:, :, :, 0].transpose(0, 3, 1, 2))
    with open_volume(path, ReadOptions({"echo": "1"})) as volume:
        np.testing.assert_array_equal(volume.read_kspace(2, 4), kspace[2:, :, :, 1].transpose(0, 3, 1, 2))
        np.testing.assert_allclose(volume.read_image(2, 4), np.abs(target[2:, :, :, 1, 0]), rtol=1e-6)
        assert volume.info.notes[0].startswith("echo 1 of 2 was taken; --select echo=N takes another")
        assert "maps of the file are not used" in volume.info.notes
    with pytest.raises(BadVolume, match="select echo=2: there are 2, numbers 0 to 1"):
        open_volume(path, ReadOptions({"echo": "2"}))
    with pytest.raises(BadVolume, match="target has shape"):
        open_volume(write(tmp_path / "b.h5", kspace=kspace, target=target[:3]))


def test_skm_tea_as_the_small_set_is_published(tmp_path: Path) -> None:
    """Compressed by lzf, padded with zeros, one echo, challenge masks in a group, no target."""
    kspace = np.zeros((5, 18, 14, 1, 4), np.complex64)
    kspace[:, 2:-2, 3:-3] = random_kspace((5, 14, 8, 1, 4))
    with h5py.File(tmp_path / "MTR_030.h5", "w") as file:
        file.create_dataset("kspace", data=kspace, chunks=(1, 18, 14, 1, 4), compression="lzf")
        file["masks/poisson_6.0x"] = np.ones((18, 14), bool)
    np.testing.assert_array_equal(read(tmp_path / "MTR_030.h5"), kspace[:, :, :, 0].transpose(0, 3, 1, 2))
    with open_volume(tmp_path / "MTR_030.h5") as volume:
        assert not volume.info.has_reference
        assert not any("echo" in note for note in volume.info.notes)
        assert "masks of the file are not used" in volume.info.notes


def test_skm_tea_with_the_origin_at_the_corner(tmp_path: Path) -> None:
    images = head(40, 33) * (1 + random_kspace((2, 3, 40, 33)) / 8)
    plain = np.fft.fft2(images, norm="ortho").transpose(0, 2, 3, 1)[:, :, :, None].astype(np.complex64)
    with open_volume(write(tmp_path / "a.h5", kspace=plain), ReadOptions(centred=False)) as volume:
        np.testing.assert_allclose(ifft_centred(volume.read_kspace(0, 2)), images, atol=1e-5)


def test_other_real_arrays_are_still_refused(tmp_path: Path) -> None:
    for shape in ((2, 8, 9, 7), (2, 4, 16, 16), (3, 16, 16)):
        with pytest.raises(BadVolume, match="expected complex"):
            open_volume(write(tmp_path / f"{len(shape)}_{shape[-1]}.h5", kspace=np.ones(shape, np.float32)))
