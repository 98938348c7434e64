"""MATLAB files, as CMRxRecon and others write them: scipy's v5, and v7.3 as MATLAB lays it out in HDF5."""

from __future__ import annotations

import contextlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse

from formats_helpers import random_kspace, read
from kdrift.data.array_file import read_array_file
from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.volume import ReadOptions

HEADER = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Thu Nov 26 2026 HDF5 schema 1.00 ."


def write_v73(path: Path, **arrays: np.ndarray) -> Path:
    """Write arrays as MATLAB does: axes reversed, complex as records, a text of 512 bytes in front of the HDF5."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            stored = np.ascontiguousarray(array.transpose())
            if np.iscomplexobj(stored):
                part = stored.real.dtype
                stored = stored.view(np.dtype([("real", part), ("imag", part)]))
            file.create_dataset(name, data=stored, chunks=stored.shape, compression="gzip")
            file[name].attrs["MATLAB_class"] = np.bytes_("single")
    with path.open("r+b") as stream:
        stream.write(HEADER.ljust(124) + b"\0\2IM")
    return path


def write_v5(path: Path, **arrays: np.ndarray) -> Path:
    scipy.io.savemat(path, arrays, do_compression=True)
    return path


WRITERS = pytest.mark.parametrize("write", [write_v5, write_v73])


def expected(kspace: np.ndarray, time: int = 0) -> np.ndarray:
    """(row, col, coil, slice, time) in the order of volumes."""
    return kspace[..., time].transpose(3, 2, 0, 1)


@WRITERS
def test_multi_coil_times_are_chosen_and_said(write, tmp_path: Path) -> None:
    kspace = random_kspace((12, 9, 4, 3, 5))
    path = write(tmp_path / "cine_sax.mat", kspace_full=kspace)
    np.testing.assert_array_equal(read(path), expected(kspace))
    with open_volume(path, ReadOptions({"time": "3"})) as volume:
        np.testing.assert_array_equal(volume.read_kspace(1, 3), expected(kspace, 3)[1:3])
        assert volume.info.notes == ("time 3 of 5 was taken; --select time=N takes another",)
        assert not volume.info.has_mask
    with pytest.raises(BadVolume, match="select time=5: there are 5, numbers 0 to 4"):
        open_volume(path, ReadOptions({"time": "5"}))
    with pytest.raises(BadVolume, match="cannot select echo here, expected one of variable, time, values"):
        open_volume(path, ReadOptions({"echo": "1"}))


@WRITERS
def test_masks_of_one_time_and_of_each(write, tmp_path: Path) -> None:
    kspace, mask = random_kspace((12, 9, 4, 3, 2)), np.zeros((12, 9, 2), np.uint8)
    mask[:, ::2, 0] = 1
    mask[2:8, 1:5, 1] = 1
    path = write(tmp_path / "k.mat", kus=kspace * mask[:, :, None, None], mask=mask)
    with open_volume(path) as volume:
        np.testing.assert_array_equal(volume.mask(), np.arange(9) % 2 == 0)
    with open_volume(path, ReadOptions({"time": "1"})) as volume:
        np.testing.assert_array_equal(volume.mask(), mask[..., 1] != 0)
        assert volume.info.has_mask


@WRITERS
def test_mask_in_a_file_beside_it(write, tmp_path: Path) -> None:
    mask = {f"mask{factor:02d}": np.tile(np.arange(9) % factor == 0, (12, 1)).astype(float) for factor in (4, 8)}
    path = write(tmp_path / "cine_lax.mat", kspace_sub08=random_kspace((12, 9, 2, 1, 3)))
    write(tmp_path / "cine_lax_mask.mat", **mask)
    with open_volume(path) as volume:
        np.testing.assert_array_equal(volume.mask(), np.arange(9) % 8 == 0)
        assert "the sampling mask is that of cine_lax_mask.mat" in volume.info.notes
    with pytest.raises(BadVolume, match="holds sampling masks alone"):
        open_volume(tmp_path / "cine_lax_mask.mat")


@WRITERS
@pytest.mark.parametrize("cols", [9, 12])
def test_masks_that_are_vectors(write, cols: int, tmp_path: Path) -> None:
    """Every vector has two axes in MATLAB: a row lies along the columns, a column along the rows if it fits these."""
    kspace, line, rows = random_kspace((12, cols, 2)), np.arange(cols) % 3 == 0, np.arange(12) % 2 == 0
    for mask, expected in (
        (line[None], line),
        (rows[:, None], np.broadcast_to(rows[:, None], (12, cols))),
        (line[None, :, None] * np.ones(1), line),
    ):
        path = write(tmp_path / "k.mat", kspace=kspace, mask=mask.astype(np.uint8))
        with open_volume(path) as volume:
            np.testing.assert_array_equal(volume.mask(), expected)
            said = any("(12, 1) is taken along the rows, as MATLAB multiplies it" in note for note in volume.info.notes)
            assert said == (cols == 12 and mask.shape == (12, 1))
    if cols != 12:
        with open_volume(write(tmp_path / "k.mat", kspace=kspace, mask=line[:, None].astype(np.uint8))) as volume:
            np.testing.assert_array_equal(volume.mask(), line)
    with pytest.raises(BadVolume, match=rf"mask has shape \(5, 1\), expected \(12, {cols}\), \(1, {cols}\), \(12, 1\)"):
        open_volume(write(tmp_path / "k.mat", kspace=kspace, mask=np.ones((5, 1), np.uint8)))


@WRITERS
def test_a_variable_of_several_is_said(write, tmp_path: Path) -> None:
    kspace, image = random_kspace((12, 9, 2, 2)), np.ones((12, 9))
    path = write(tmp_path / "k.mat", kspace=kspace, img=image, mask=np.ones((12, 9)))
    with open_volume(path) as volume:
        note, axes = volume.info.notes
        assert axes.startswith("4 axes were taken as row,col,coil,slice")
        assert note.startswith("variable kspace of 2 (")
        assert note.endswith(") was taken; --select variable=NAME takes another")
    with open_volume(path, ReadOptions({"variable": "img"})) as volume:
        assert volume.info.notes == ()
    signed = write(tmp_path / "s.mat", img=image - 2)
    with open_volume(signed, ReadOptions({"values": "any"})) as volume:
        np.testing.assert_array_equal(volume.read_image(0, 1)[0], image - 2)


@WRITERS
def test_single_coil_black_blood_and_doubles(write, tmp_path: Path) -> None:
    single = random_kspace((10, 8, 3, 4)).astype(np.complex128)  # (row, col, slice, time)
    found = read(write(tmp_path / "single.mat", kspace_single_sub04=single))
    np.testing.assert_array_equal(found, single[..., 0].transpose(2, 0, 1)[:, None].astype(np.complex64))
    black = random_kspace((10, 8, 4, 3))  # (row, col, coil, slice)
    np.testing.assert_array_equal(read(write(tmp_path / "blackblood.mat", kspace=black)), black.transpose(3, 2, 0, 1))
    flat = random_kspace((10, 8))
    np.testing.assert_array_equal(read(write(tmp_path / "flat.mat", x=flat)), flat[None, None])


@WRITERS
def test_stated_axes_and_centring(write, tmp_path: Path) -> None:
    coil_first = random_kspace((4, 12, 9, 2))
    how = ReadOptions(axes=("coil", "row", "col"))
    with open_volume(write(tmp_path / "a.mat", data=coil_first), how) as volume:
        np.testing.assert_array_equal(volume.read_kspace(0, 1)[0], coil_first[..., 0])
    with pytest.raises(BadVolume, match="expected axes row,col and then time"):
        open_volume(tmp_path / "a.mat", ReadOptions(axes=("row", "col")))


@WRITERS
@pytest.mark.parametrize("shape", [(48, 40), (47, 40), (47, 39)])
def test_zero_frequency_at_the_corner(write, shape: tuple[int, int], tmp_path: Path) -> None:
    """As a plain FFT of an image leaves it, and shifted k-space: the same option brings both to the middle."""
    y, x = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    image = ((y / 0.7) ** 2 + ((x - 0.1) / 0.6) ** 2 < 1) * (1 + 0.5j * y)
    centred = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image), norm="ortho"))
    for stored, told in ((np.fft.fft2(image, norm="ortho"), True), (np.fft.ifftshift(centred), False)):
        path = write(tmp_path / "b.mat", kspace=stored, mask=np.ones(shape))
        with open_volume(path, ReadOptions(centred=False)) as volume:
            np.testing.assert_allclose(volume.read_kspace(0, 1)[0, 0], centred, atol=1e-5)
            assert any("was brought to the middle" in note for note in volume.info.notes) == told


@WRITERS
def test_images_and_what_leaves_open_what_is_meant(write, tmp_path: Path) -> None:
    ranking = np.arange(10 * 8 * 2 * 3, dtype=np.float32).reshape(10, 8, 2, 3)
    with open_volume(write(tmp_path / "r.mat", img4ranking=ranking), ReadOptions({"time": "2"})) as volume:
        assert volume.info.kind == "image"
        np.testing.assert_array_equal(volume.read_image(0, 2), ranking[..., 2].transpose(2, 0, 1))
    recon = random_kspace((10, 8, 2))
    with open_volume(write(tmp_path / "c.mat", recon=recon)) as volume:
        np.testing.assert_array_equal(volume.read_complex_image(0, 2), recon.transpose(2, 0, 1))
        np.testing.assert_allclose(volume.read_image(0, 2), np.abs(recon).transpose(2, 0, 1), rtol=1e-6)
    two = write(tmp_path / "two.mat", kspace_a=recon, kspace_b=2 * recon, TE=np.ones((1, 3)))
    with pytest.raises(BadVolume, match=r"found kspace_a .*, kspace_b .*; --select variable=NAME"):
        open_volume(two)
    with open_volume(two, ReadOptions({"variable": "kspace_b"})) as volume:
        np.testing.assert_array_equal(volume.read_kspace(0, 1)[0], 2 * recon.transpose(2, 0, 1))


def test_a_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    path = write_v5(tmp_path / "bomb.mat", kspace=np.zeros((4096, 4096, 2), np.uint8), small=np.ones((3, 3)))
    content = path.read_bytes()
    assert len(content) < 1 << 20
    with open_volume(path, ReadOptions({"variable": "small"})) as volume:
        assert volume.info.kind == "image"
    scipy.io.savemat(path, {"kspace": np.zeros((4096, 4096, 6), np.uint8)}, do_compression=True)
    with pytest.raises(BadVolume, match="declares 96 MiB, far more than the file can hold"):
        open_volume(path)


def test_damaged_files_are_sentences(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for write in (write_v5, write_v73):
        content = write(tmp_path / "good.mat", kspace_full=random_kspace((12, 9, 2, 1, 2))).read_bytes()
        for number in range(60):
            damaged = bytearray(content[: rng.integers(1, len(content))] if number % 2 else content)
            for place in rng.integers(0, len(damaged), 5):
                damaged[place] = rng.integers(256)
            (tmp_path / "bad.mat").write_bytes(damaged)
            with contextlib.suppress(ValueError), open_volume(tmp_path / "bad.mat") as volume:
                volume.read_kspace(0, 1)


def write_groups(path: Path, groups: dict[str, dict[str, np.ndarray]], rows: int | None, **arrays: np.ndarray) -> Path:
    """Write arrays as MATLAB does, and groups of others: structures, or sparse matrices of so many rows."""
    write_v73(path, **arrays)
    with h5py.File(path, "a") as file:
        for name, parts in groups.items():
            group = file.create_group(name)
            for part, values in parts.items():
                group[part] = values
            group.attrs["MATLAB_class"] = np.bytes_("struct" if rows is None else "double")
            if rows is not None:
                group.attrs["MATLAB_sparse"] = np.uint64(rows)
    return path


@pytest.mark.parametrize("name", ["a.mat", "a73.mat"])
def test_sparse_masks_are_read(name: str, tmp_path: Path) -> None:
    mask = np.zeros((12, 9), dtype=bool)
    mask[:11, ::2] = True
    kspace, sparse = random_kspace((12, 9, 2, 3)), scipy.sparse.csc_matrix(mask.astype(float))
    if name == "a.mat":
        scipy.io.savemat(tmp_path / name, {"kspace": kspace, "mask": sparse})
        scipy.io.savemat(tmp_path / "mask.mat", {"mask": sparse, "made": {"by": "hand"}})
    else:
        parts = {"data": sparse.data, "ir": sparse.indices.astype("u8"), "jc": sparse.indptr.astype("u8")}
        write_groups(tmp_path / name, {"mask": parts}, 12, kspace=kspace)
        write_groups(tmp_path / "mask.mat", {"mask": parts}, 12)
    with open_volume(tmp_path / name) as volume:
        np.testing.assert_array_equal(volume.mask(), mask)
    np.testing.assert_array_equal(read_array_file(str(tmp_path / "mask.mat"), "mask"), mask)


@pytest.mark.parametrize("name", ["a.mat", "a73.mat"])
def test_what_is_not_read_is_named_and_masks_among_it_refused(name: str, tmp_path: Path) -> None:
    kspace, mask = random_kspace((12, 9, 2, 3)), np.ones((12, 9))

    def write(**records: dict[str, np.ndarray]) -> Path:
        if name == "a.mat":
            scipy.io.savemat(tmp_path / name, {"kspace": kspace, **records})
            return tmp_path / name
        return write_groups(tmp_path / name, records, None, kspace=kspace)

    with open_volume(write(param={"TR": mask})) as volume:
        assert "not read: param (a structure)" in volume.info.notes
    with pytest.raises(BadVolume, match=r"us_mask \(a structure\) cannot be read as a mask"):
        open_volume(write(us_mask={"m": mask}))


def test_cells_and_texts_are_named(tmp_path: Path) -> None:
    cell = np.empty((1, 1), dtype=object)
    cell[0, 0] = np.ones((12, 9))
    scipy.io.savemat(tmp_path / "a.mat", {"kspace": random_kspace((12, 9, 2, 3)), "mask": cell})
    with pytest.raises(BadVolume, match=r"mask \(a cell\) cannot be read as a mask"):
        open_volume(tmp_path / "a.mat")
    scipy.io.savemat(tmp_path / "a.mat", {"data": cell})
    with pytest.raises(BadVolume, match=r"no numeric array; not read: data \(a cell\)"):
        open_volume(tmp_path / "a.mat")
    scipy.io.savemat(tmp_path / "a.mat", {"kspace": random_kspace((12, 9, 2, 3)), "info": "words"})
    with open_volume(tmp_path / "a.mat") as volume:
        unread, axes = volume.info.notes
        assert unread == "not read: info (text)"
        assert axes.startswith("4 axes were taken as row,col,coil,slice")
