"""What surely is no k-space is refused wherever it is read, in the same words, unless axes or centring are stated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch

import kdrift
from kdrift.cli import main
from kdrift.data.describe import describe
from kdrift.data.formats.bart import write_bart
from kdrift.data.phantom import phantom_volume
from kdrift.data.store import open_store
from kdrift.data.volume import ReadOptions
from kdrift.mri.coils import rss
from kdrift.mri.fourier import ifft2c
from kdrift.recon.acquisition import load_acquisition
from kdrift.recon.request import AcquisitionRequest, MaskRequest


@pytest.fixture(scope="module")
def kspace() -> np.ndarray:
    return np.asarray(phantom_volume(2, 48, 40, 4, seed=4).kspace)


def write(kind: str, kspace: np.ndarray, folder: Path) -> tuple[Path, str]:
    """Write what is no k-space in the usual order, and return what is said of it."""
    images = ifft2c(torch.from_numpy(kspace))
    if kind == "magnitude":
        write_bart(folder / "a", rss(images)[:, None].numpy().astype(np.complex64))
        return folder / "a.cfl", "this is a magnitude image, no k-space"
    if kind == "image":
        np.save(folder / "a.npy", images.numpy())
        return folder / "a.npy", "this is an image, no k-space"
    if kind == "corner":
        np.save(folder / "a.npy", np.fft.ifftshift(kspace, axes=(-2, -1)))
        return folder / "a.npy", "zero frequency lies at the corner of k-space"
    np.save(folder / "a.npy", kspace.transpose(0, 2, 3, 1))
    return folder / "a.npy", "say --axes slice,row,col,coil"


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("kind", ["magnitude", "image", "corner", "coils last"])
def test_the_same_words_at_every_reading(
    kind: str, kspace: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, sentence = write(kind, kspace, tmp_path)
    with pytest.raises(ValueError, match=sentence):
        load_acquisition(AcquisitionRequest(source=str(source)))
    assert any(sentence in note for note in describe(str(source))["notes"])
    for more in ([], ["--complex-images"]):
        assert main(["convert", str(source), "--store", str(tmp_path / "x.zarr"), "--quiet", *more]) == 1
        assert sentence in capsys.readouterr().err
    assert open_store(tmp_path / "x.zarr").list_volumes() == []


ORDERS = {
    "slice,row,col,coil": "say --axes slice,row,col,coil",
    "slice,row,coil,col": "say --axes slice,row,coil,col",
    "row,col,coil,slice": "row,col,slice,coil or row,col,coil,slice (say which by --axes",
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_that_is_advised_is_that_of_the_file(order: str, tmp_path: Path) -> None:
    kspace = np.asarray(phantom_volume(5, 48, 40, 4, seed=4).kspace)
    names = order.split(",")
    stored = kspace.transpose([("slice", "coil", "row", "col").index(name) for name in names])
    np.save(tmp_path / "a.npy", stored)
    assert any(ORDERS[order] in note for note in describe(str(tmp_path / "a.npy"))["notes"])
    with pytest.raises(ValueError, match="are unlikely") as error:
        kdrift.reconstruct(stored, "full", method="zero_filled")
    assert "--" not in str(error.value)
    assert 'axes="' in str(error.value)
    right = describe(str(tmp_path / "a.npy"), how=ReadOptions(axes=tuple(names)))
    assert not any("unlikely" in note for note in right["notes"])


def test_the_order_that_is_advised_is_one_of_matlab(tmp_path: Path) -> None:
    """What was saved with coils first, where MATLAB has them last; who follows wrong advice is told so."""
    kspace = np.asarray(phantom_volume(1, 48, 40, 4, seed=4).kspace)[0]
    scipy.io.savemat(tmp_path / "a.mat", {"kspace": kspace})
    path = str(tmp_path / "a.mat")
    assert any("say --axes coil,row,col;" in note for note in describe(path)["notes"])
    wrong = describe(path, how=ReadOptions(axes=("row", "coil", "col")))["notes"]
    assert any("are the axes what --axes says?" in note for note in wrong)
    assert describe(path, how=ReadOptions(axes=("coil", "row", "col")))["notes"] == []


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_who_states_it_is_believed_by_the_store_too(kspace: np.ndarray, tmp_path: Path) -> None:
    odd = np.abs(kspace[:1]).astype(np.complex64)
    np.save(tmp_path / "a.npy", odd)
    store = tmp_path / "x.zarr"
    assert main(["convert", str(tmp_path / "a.npy"), "--store", str(store), "--quiet", "--centred"]) == 0
    found = load_acquisition(AcquisitionRequest(source=str(store / "a")))
    np.testing.assert_array_equal(found.kspace.numpy(), odd)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_doubts_are_said_at_conversion_and_kept(
    kspace: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", np.roll(kspace, 6, -1))
    store = tmp_path / "x.zarr"
    assert main(["convert", str(tmp_path / "a.npy"), "--store", str(store), "--quiet"]) == 0
    assert "the echo lies off the centre of k-space, by +0 rows and +6 columns" in capsys.readouterr().err
    assert main(["info", str(store / "a"), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert any("the echo lies off the centre" in note for note in told["notes"])


def masks_of(cols: int, every: int) -> np.ndarray:
    return (np.arange(cols) % every == 0) | (np.abs(np.arange(cols) - cols // 2) < 5)


@pytest.mark.parametrize("kind", ["columns", "rows", "points"])
@pytest.mark.parametrize("every", [2, 4])
def test_a_mask_with_its_calibration_at_the_ends(every: int, kind: str, kspace: np.ndarray, tmp_path: Path) -> None:
    right = masks_of(40, every)
    if kind == "rows":
        right = masks_of(48, every)[:, None]
    elif kind == "points":
        right = right & masks_of(48, every)[:, None]
    wrong = np.fft.ifftshift(np.broadcast_to(right, (48, 40)))
    np.save(tmp_path / "full.npy", kspace)
    np.save(tmp_path / "wrong.npy", wrong)
    np.savez(tmp_path / "both.npz", kspace=kspace, mask=wrong)
    np.savez(tmp_path / "good.npz", kspace=kspace * right, mask=np.broadcast_to(right, (48, 40)))

    def said(name: str, mask: str | None = None, centred: bool | None = None) -> str:
        asked = None if mask is None else MaskRequest(file=str(tmp_path / mask))
        request = AcquisitionRequest(source=str(tmp_path / name), mask=asked, centred=centred)
        try:
            return " ".join(load_acquisition(request).notes)
        except ValueError as error:
            return f"refused: {error}"

    sentence = "has its densest"
    for found in (said("full.npy", "wrong.npy"), said("both.npz")):
        assert sentence in found
        assert "fftshift" in found
    assert sentence in said("full.npy", "wrong.npy", centred=True)
    assert not said("full.npy", "wrong.npy", centred=True).startswith("refused")
    assert sentence not in said("good.npz")
    if every == 4 and kind == "points":
        assert said("both.npz").startswith("refused")
    np.save(tmp_path / "right.npy", np.broadcast_to(right, (48, 40)))
    assert sentence not in said("full.npy", "right.npy")


def test_an_inverted_mask_is_refused(kspace: np.ndarray, tmp_path: Path) -> None:
    lines = masks_of(40, 3)
    np.savez(tmp_path / "a.npz", kspace=kspace * lines, mask=~lines)
    with pytest.raises(ValueError, match="the mask of the file marks exactly the empty part of k-space"):
        load_acquisition(AcquisitionRequest(source=str(tmp_path / "a.npz")))
    np.save(tmp_path / "a.npy", kspace * lines)
    np.save(tmp_path / "m.npy", ~lines)
    request = AcquisitionRequest(source=str(tmp_path / "a.npy"), mask=MaskRequest(file=str(tmp_path / "m.npy")))
    with pytest.raises(ValueError, match=r"m\.npy marks exactly the empty part of k-space"):
        load_acquisition(request)
    with pytest.raises(ValueError, match="mask marks exactly the empty part of k-space"):
        kdrift.reconstruct(kspace * lines, ~lines, method="zero_filled")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"prior": "brain-complex"}, "method tv uses no prior: leave prior out"),
        ({"steps": 4}, "method tv has no number of steps: leave steps out"),
    ],
)
def test_the_library_refuses_what_a_method_does_not_use(
    more: dict[str, Any], sentence: str, kspace: np.ndarray
) -> None:
    with pytest.raises(ValueError, match=sentence):
        kdrift.reconstruct(kspace, "full", method="tv", **more)


def test_the_library_looks_at_masks_too(kspace: np.ndarray) -> None:
    wrong = np.fft.ifftshift(masks_of(40, 4))
    try:
        said = " ".join(kdrift.reconstruct(kspace, wrong, method="zero_filled").notes)
    except ValueError as error:
        said = str(error)
    assert "mask has its densest columns, the calibration, at the ends of k-space" in said
    moved = np.fft.ifftshift(kspace, axes=(-2, -1))
    notes = kdrift.reconstruct(moved, wrong, centred=False, method="zero_filled").notes
    assert not any("densest" in note for note in notes)
