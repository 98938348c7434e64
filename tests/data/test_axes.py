"""Arrays whose axes and centring are stated: the same k-space from every order, in every format that does not say."""

from __future__ import annotations

import itertools
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

import kdrift
from formats_helpers import random_kspace
from kdrift.data.centring import ifft_centred
from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.volume import AXES, ReadOptions
from kdrift.recon.acquisition import load_acquisition
from kdrift.recon.request import AcquisitionRequest, MaskRequest

KSPACE = random_kspace((3, 2, 7, 6))
ORDERS = [order for order in itertools.permutations(AXES) if order != AXES]


def write_pair(stem: Path, array: np.ndarray) -> Path:
    """As BART's writecfl.m and cfl.py do: dimensions in their order, column-major."""
    stem.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape)) + "\n")
    array.astype(np.complex64).ravel(order="F").tofile(stem.with_suffix(".cfl"))
    return stem.with_suffix(".cfl")


def write(folder: Path, kind: str, array: np.ndarray, **more: np.ndarray) -> Path:
    path = folder / f"a.{kind}"
    if kind == "npy":
        np.save(path, array)
    elif kind == "fortran.npy":
        np.save(path, np.asfortranarray(array))
    elif kind == "npz":
        np.savez(path, kspace=array, **more)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            for name, values in {"kspace": array, **more}.items():
                file[name] = values
    else:
        path = write_pair(folder / "a", array)
    return path


@pytest.mark.parametrize("kind", ["npy", "fortran.npy", "npz", "h5", "cfl"])
@pytest.mark.parametrize("order", ORDERS[::4])
def test_every_order_is_read_alike(kind: str, order: tuple[str, ...], tmp_path: Path) -> None:
    stored = KSPACE.transpose([AXES.index(name) for name in order])
    path = write(tmp_path, kind, stored)
    with open_volume(path, ReadOptions.of(axes=",".join(order))) as volume:
        np.testing.assert_array_equal(volume.read_kspace(0, 3), KSPACE)
        np.testing.assert_array_equal(volume.read_kspace(2, 3), KSPACE[2:])


@pytest.mark.parametrize("axes", ["row,col", "col,row", "row,col,coil", "coil,col,row", "row,col,slice"])
@pytest.mark.parametrize("kind", ["npy", "npz", "h5", "cfl"])
def test_axes_may_be_missing(kind: str, axes: str, tmp_path: Path) -> None:
    names = tuple(axes.split(","))
    part = KSPACE[slice(None) if "slice" in names else slice(1), slice(None) if "coil" in names else slice(1)]
    kept = tuple(name for name in AXES if name in names)
    array = part.reshape([part.shape[AXES.index(name)] for name in kept])
    path = write(tmp_path, kind, array.transpose([kept.index(name) for name in names]))
    with open_volume(path, ReadOptions.of(axes=axes)) as volume:
        np.testing.assert_array_equal(volume.read_kspace(0, volume.info.num_slices), part)


def test_bart_dimensions_of_one_need_no_name(tmp_path: Path) -> None:
    path = write_pair(tmp_path / "a", KSPACE[0].reshape(1, 2, 7, 6))
    with open_volume(path, ReadOptions.of(axes="coil,row,col")) as volume:
        np.testing.assert_array_equal(volume.read_kspace(0, 1), KSPACE[:1])


@pytest.mark.parametrize("kind", ["npy", "npz", "h5", "cfl"])
@pytest.mark.parametrize("shape", [(7, 6), (8, 8), (1, 5)])
def test_zero_frequency_at_the_corner(kind: str, shape: tuple[int, int], tmp_path: Path) -> None:
    kspace = random_kspace((2, 3, *shape))
    stored = np.fft.ifftshift(kspace, axes=(-2, -1))
    mask = np.random.default_rng(0).random(shape) < 0.6
    more = {"mask": np.fft.ifftshift(mask)} if kind in ("npz", "h5") else {}
    path = write(tmp_path, kind, stored if kind != "cfl" else stored.transpose(2, 3, 1, 0), **more)
    axes = "row,col,coil,slice" if kind == "cfl" and 1 not in shape else None
    if kind == "cfl" and axes is None:
        pytest.skip("BART leaves out axes of one")
    with open_volume(path, ReadOptions.of(axes=axes, centred=False)) as volume:
        np.testing.assert_array_equal(volume.read_kspace(0, 2), kspace)
        if more:
            np.testing.assert_array_equal(np.broadcast_to(volume.mask(), shape), mask)


def head(rows: int, cols: int) -> np.ndarray:
    """An image in the middle of its matrix, of two coils."""
    y, x = np.ogrid[-1 : 1 : rows * 1j, -1 : 1 : cols * 1j]
    return ((y / 0.7) ** 2 + ((x - 0.1) / 0.6) ** 2 < 1) * np.stack([1 + 0.5j * y + 0 * x, 1 + 0.5 * x + 0 * y])


@pytest.mark.parametrize("kind", ["npy", "npz", "h5", "cfl"])
@pytest.mark.parametrize("shape", [(48, 40), (47, 39), (40, 33)])
def test_a_plain_transform_of_an_image(kind: str, shape: tuple[int, int], tmp_path: Path) -> None:
    """`numpy.fft.fft2` leaves zero frequency at the corner and the image in its place: it stays there."""
    images = head(*shape)
    plain = np.fft.fft2(images, norm="ortho").astype(np.complex64)
    path = write(tmp_path, kind, plain[None] if kind != "cfl" else plain.transpose(1, 2, 0)[:, :, None])
    with open_volume(path, ReadOptions.of(centred=False)) as volume:
        np.testing.assert_allclose(ifft_centred(volume.read_kspace(0, 1)[0]), images, atol=1e-5)
        assert [note for note in volume.info.notes if "brought to the middle" in note]
    found = kdrift.reconstruct(plain, "full", method="zero_filled", centred=False)
    np.testing.assert_allclose(found.mean[0], np.sqrt((np.abs(images) ** 2).sum(0)), atol=1e-2)
    assert any("was brought to the middle" in note for note in found.notes)


def test_a_plain_transform_in_three_dimensions(tmp_path: Path) -> None:
    images = head(40, 34)[None] * np.array([0.2, 0.7, 1, 0.6, 0])[:, None, None, None]  # (slice, coil, row, col)
    for stored in (
        np.fft.fftn(images, axes=(0, 2, 3), norm="ortho"),
        np.fft.fftn(np.fft.ifftshift(images, axes=(0, 2, 3)), axes=(0, 2, 3), norm="ortho"),
    ):
        pair = write_pair(tmp_path / "b", stored.transpose(2, 3, 0, 1).astype(np.complex64))
        with open_volume(pair, ReadOptions.of(centred=False)) as volume:
            np.testing.assert_allclose(ifft_centred(volume.read_kspace(0, 5)), images, atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 6), (48, 40)])
def test_an_image_that_is_nowhere_is_left_and_said(shape: tuple[int, int], tmp_path: Path) -> None:
    kspace = random_kspace((1, 3, *shape))
    path = write(tmp_path, "npy", np.fft.ifftshift(kspace, axes=(-2, -1)))
    with open_volume(path, ReadOptions.of(centred=False)) as volume:
        np.testing.assert_array_equal(volume.read_kspace(0, 1), kspace)
        assert "cannot be told: it is left as it is" in volume.info.notes[0]


def test_masks_and_references_follow_the_axes(tmp_path: Path) -> None:
    mask = np.random.default_rng(1).random((7, 6)) < 0.5
    reference = np.random.default_rng(2).random((3, 7, 6)).astype(np.float32)
    path = write(tmp_path, "npz", KSPACE.transpose(3, 2, 0, 1), mask=mask.T, reference=reference.transpose(2, 1, 0))
    with open_volume(path, ReadOptions.of(axes="col,row,slice,coil")) as volume:
        np.testing.assert_array_equal(volume.mask(), mask)
        np.testing.assert_array_equal(volume.read_image(1, 3), reference[1:])


LINE = np.arange(8) % 3 == 0


@pytest.mark.parametrize(
    ("axes", "stored", "along"),
    [
        ("col,row,coil", LINE[:, None], "col"),
        ("col,row,coil", LINE[None], "row"),
        ("coil,col,row", LINE[:, None], "col"),
        ("col,row,slice,coil", LINE[:, None, None], "col"),
        ("col,slice,row,coil", np.stack([LINE, LINE], 1)[..., None], "col"),
        ("row,col,coil", LINE, "col"),
        ("row,col,coil", LINE[:, None], "row"),
        ("slice,row,col", LINE, "col"),
    ],
)
def test_lines_of_a_square_matrix_follow_the_axes(axes: str, stored: np.ndarray, along: str, tmp_path: Path) -> None:
    names = axes.split(",")
    sizes = {"slice": 2, "coil": 3, "row": 8, "col": 8}
    rng = np.random.default_rng(0)
    kspace = (rng.standard_normal([sizes[name] for name in names]) * (1 + 1j)).astype(np.complex64)
    np.save(tmp_path / "k.npy", kspace)
    np.save(tmp_path / "m.npy", stored)
    np.savez(tmp_path / "k.npz", kspace=kspace, mask=stored)
    expected = np.broadcast_to(LINE if along == "col" else LINE[:, None], (8, 8))
    with open_volume(tmp_path / "k.npz", ReadOptions.of(axes=axes)) as volume:
        np.testing.assert_array_equal(np.broadcast_to(volume.mask(), (8, 8)), expected)
    request = AcquisitionRequest(
        source=str(tmp_path / "k.npy"), axes=axes, mask=MaskRequest(file=str(tmp_path / "m.npy"))
    )
    np.testing.assert_array_equal(load_acquisition(request).mask.numpy(), expected)
    maps = np.ones((sizes["coil"] if "coil" in names else 1, 8, 8), np.complex64)
    found = kdrift.reconstruct(kspace, stored, axes=axes, method="zero_filled", smaps=maps)
    np.testing.assert_array_equal(np.broadcast_to(found.mask.numpy(), (8, 8)), expected)


def test_a_line_that_could_be_along_either_axis_is_refused(tmp_path: Path) -> None:
    kspace = np.random.default_rng(0).standard_normal((8, 8, 3)) * (1 + 1j)
    np.save(tmp_path / "k.npy", kspace)
    np.save(tmp_path / "m.npy", LINE)
    np.savez(tmp_path / "k.npz", kspace=kspace, mask=LINE)
    sentence = r"mask has shape \(8,\), .*axes col,row.* store it as \(8, 1\) where it marks columns, as \(1, 8\)"
    mask = MaskRequest(file=str(tmp_path / "m.npy"))
    for source, more in (("k.npy", {"mask": mask}), ("k.npz", {})):
        request = AcquisitionRequest(source=str(tmp_path / source), axes="col,row,coil", **more)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=sentence):
            load_acquisition(request)
    with pytest.raises(ValueError, match=sentence):
        kdrift.reconstruct(kspace, LINE, axes="col,row,coil", method="zero_filled")
    np.save(tmp_path / "m.npy", np.arange(6) % 2 == 0)
    np.save(tmp_path / "k.npy", kspace[:6])
    request = AcquisitionRequest(source=str(tmp_path / "k.npy"), axes="col,row,coil", mask=mask)
    assert load_acquisition(request).mask.numpy()[0].tolist() == [True, False] * 3  # its length tells which


def test_images_have_axes_too(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((4, 7, 6))
    np.save(tmp_path / "a.npy", images.transpose(1, 2, 0))
    with open_volume(tmp_path / "a.npy", ReadOptions.of(axes="row,col,slice")) as volume:
        np.testing.assert_array_equal(volume.read_image(0, 4), images.astype(np.float32))


def test_axes_that_do_not_fit_get_a_sentence(tmp_path: Path) -> None:
    path = write(tmp_path, "npy", KSPACE[0])
    for axes, sentence in (
        ("row,col", r"shape \(2, 7, 6\), the axes row,col are 2"),
        ("slice,coil,row", "name no row and col"),
        ("row,col,coil,slice", r"shape \(2, 7, 6\), the axes row,col,coil,slice are 4"),
    ):
        with pytest.raises(BadVolume, match=sentence):
            open_volume(path, ReadOptions.of(axes=axes))
    with pytest.raises(ValueError, match="expected some of slice, coil, row, col"):
        ReadOptions.of(axes="x,y,coil")
    for dims, named in (
        ((1, 4, 96, 80), "dimension 3 .coil. is 80: coils belong"),
        ((4, 96, 80), "dimension 0 .read. is 4 and dimension 2 .phase 2. is 80"),
        ((96, 80, 4), "spread over BART dimension 2"),
        ((8, 7, 1, 2, 5), "maps"),
    ):
        pair = write_pair(tmp_path / "b", np.ones(dims, np.complex64))
        with pytest.raises(BadVolume, match=named):
            open_volume(pair)


def test_what_axes_were_taken_for_is_said(tmp_path: Path) -> None:
    kspace = random_kspace((6, 20, 18))
    np.save(tmp_path / "a.npy", kspace)
    np.savez(tmp_path / "a.npz", kspace=kspace)
    scipy.io.savemat(tmp_path / "a.mat", {"kspace": kspace.transpose(1, 2, 0)})
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = kspace
    write_fastmri(tmp_path / "single.h5", kspace)  # its header says that there is one coil
    np.save(tmp_path / "four.npy", kspace[None])
    np.save(tmp_path / "stacked.npy", random_kspace((2, 6, 20, 18)))
    for name, sentence in (
        ("a.npy", "taken as coil,row,col, coils of one slice; if they are slices, say --axes slice,row,col"),
        ("a.npz", "taken as coil,row,col, coils of one slice; if they are slices, say --axes slice,row,col"),
        ("a.mat", "taken as row,col,coil, coils of one slice; if they are slices, say --axes row,col,slice"),
        ("a.h5", "taken as slice,row,col, slices of one coil; if they are coils, say --axes coil,row,col"),
    ):
        with open_volume(tmp_path / name) as volume:
            assert volume.info.notes == (f"3 axes were {sentence}",)
            shape = (volume.info.num_slices, volume.info.num_coils)
        with open_volume(tmp_path / name, ReadOptions(axes=tuple(sentence.rpartition(" ")[2].split(",")))) as volume:
            assert (volume.info.num_slices, volume.info.num_coils) == shape[::-1]
            assert not volume.info.notes
    with open_volume(tmp_path / "single.h5") as volume:
        assert not volume.info.notes
    stacked = tmp_path / "stacked.npy"
    with open_volume(stacked) as volume:
        assert volume.info.notes == (
            "4 axes were taken as slice,coil,row,col, 2 slices of 6 coils; if they stand in another order, such as"
            " coil,slice,row,col, say it by --axes",
        )
    with open_volume(stacked, ReadOptions(axes=("coil", "slice", "row", "col"))) as volume:
        assert (volume.info.num_slices, volume.info.num_coils, volume.info.notes) == (6, 2, ())
