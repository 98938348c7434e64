"""What is kept of measured data, from any file: masks drawn, given and stated, padding, partial Fourier, references."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import torch

import kdrift
from kdrift.cli import main
from kdrift.data.formats import open_volume
from kdrift.data.formats.bart import write_bart
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.phantom import phantom_volume
from kdrift.data.store import open_store
from kdrift.data.store_write import write_volume
from kdrift.mri.coils import rss
from kdrift.mri.fourier import ifft2c
from kdrift.recon.acquisition import Acquisition, load_acquisition
from kdrift.recon.request import AcquisitionRequest, MaskRequest

ROWS, COLS, COILS = 48, 40, 4
EQUI = MaskRequest("equispaced", 2.0, acs_lines=10)
LINES = (np.arange(COLS) % 3 == 0) | (np.abs(np.arange(COLS) - COLS // 2) < 6)


@pytest.fixture(scope="module")
def full() -> np.ndarray:
    return np.asarray(phantom_volume(3, ROWS, COLS, COILS, seed=4).kspace)


def load(path: Path, mask: MaskRequest | None = None, **options: Any) -> Acquisition:
    return load_acquisition(AcquisitionRequest(source=str(path), mask=mask, **options))


def columns(acquisition: Acquisition) -> np.ndarray:
    return np.asarray(acquisition.mask.reshape(-1, COLS).any(0).numpy())


@pytest.mark.parametrize("kind", ["equispaced", "random", "gaussian1d", "gaussian2d", "poisson", "center"])
def test_a_draw_stays_inside_of_what_was_measured(kind: str, full: np.ndarray, tmp_path: Path) -> None:
    rows, cols = np.ogrid[-ROWS // 2 : ROWS // 2, -COLS // 2 : COLS // 2]
    ellipse = (rows / 20) ** 2 + (cols / 14) ** 2 < 1
    np.save(tmp_path / "a.npy", full * ellipse)
    drawn = load(tmp_path / "a.npy", MaskRequest(kind, 2.5, acs_lines=8 if kind != "center" else None))
    mask = drawn.mask.numpy()
    assert not (mask & ~ellipse).any()
    assert drawn.net_acceleration == pytest.approx(ellipse.sum() / mask.sum())
    assert drawn.net_acceleration == pytest.approx(2.5, abs=0.8)
    assert mask[ROWS // 2 - 2 : ROWS // 2 + 3, COLS // 2 - 2 : COLS // 2 + 3].all()
    assert "within the 39 x 27 measured of 48 x 40" in drawn.sampling
    assert drawn.reference is not None
    assert drawn.reference_definition == "rss of the k-space as measured"
    torch.testing.assert_close(drawn.reference, rss(ifft2c(torch.from_numpy(full * ellipse))))


def test_partial_fourier_from_every_format_and_the_store(full: np.ndarray, tmp_path: Path) -> None:
    partial = full * (np.arange(COLS) >= 12)
    np.save(tmp_path / "a.npy", partial)
    np.savez(tmp_path / "b.npz", kspace=partial)
    write_bart(tmp_path / "c", partial)
    write_fastmri(tmp_path / "d.h5", partial)
    with open_store(tmp_path / "x.zarr", "a") as store, open_volume(tmp_path / "d.h5") as volume:
        write_volume(store, "v", volume)
    found = [load(tmp_path / name, EQUI) for name in ("a.npy", "b.npz", "c", "d.h5", "x.zarr/v")]
    for each in found:
        assert not columns(each)[:12].any()
        assert torch.equal(each.mask, found[0].mask)
        assert each.net_acceleration == found[0].net_acceleration
    whole = load(tmp_path / "a.npy")
    assert whole.net_acceleration == pytest.approx(COLS / 28)
    assert "as measured" in whole.sampling


def test_data_with_gaps_are_not_undersampled_again(full: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", full * LINES)
    found = load(tmp_path / "a.npy")
    assert found.net_acceleration == pytest.approx(COLS / LINES.sum())
    assert "exact zeros in all coils" in found.sampling
    assert (found.reference, found.reference_definition) == (None, "")
    with pytest.raises(ValueError, match=r"a\.npy was measured undersampled and has a mask .*: leave out --mask"):
        load(tmp_path / "a.npy", EQUI)


def test_padding_of_the_header_counts_at_every_entrance(full: np.ndarray, tmp_path: Path) -> None:
    padded = full.copy()
    padded[..., :6] = padded[..., 35:] = 0
    for name, mask in (("test.h5", LINES), ("full.h5", None)):
        write_fastmri(
            tmp_path / name, padded * (1 if mask is None else mask), mask=mask,
            attrs={"padding_left": 6, "padding_right": 35},
        )  # fmt: skip
    test = load(tmp_path / "test.h5")
    assert columns(test).tolist() == (LINES & (np.arange(COLS) >= 6) & (np.arange(COLS) < 35)).tolist()
    assert test.net_acceleration == pytest.approx(29 / columns(test).sum())
    drawn = load(tmp_path / "full.h5", EQUI)
    assert not columns(drawn)[:6].any()
    assert not columns(drawn)[35:].any()
    assert drawn.net_acceleration == pytest.approx(29 / columns(drawn).sum())


def test_masks_a_slice(full: np.ndarray, tmp_path: Path) -> None:
    masks = np.stack([np.roll(LINES, shift) | (np.abs(np.arange(COLS) - 20) < 6) for shift in range(3)])
    write_fastmri(tmp_path / "a.h5", full * masks[:, None, None], mask=masks[:, None, :, None])
    np.save(tmp_path / "b.npy", full * masks[:, None, None])
    np.save(tmp_path / "m.npy", masks)
    np.save(tmp_path / "full.npy", full)
    stated, zeros = load(tmp_path / "a.h5"), load(tmp_path / "b.npy")
    given = load(tmp_path / "full.npy", MaskRequest(file=str(tmp_path / "m.npy")))
    for each in (stated, zeros, given):
        np.testing.assert_array_equal(each.mask.numpy(), np.broadcast_to(masks[:, None], (3, ROWS, COLS)))
        np.testing.assert_array_equal(each.raw(2).mask.numpy()[0], masks[2])
        torch.testing.assert_close(each.kspace, stated.kspace)
    assert given.reference is not None
    part = load(tmp_path / "full.npy", MaskRequest(file=str(tmp_path / "m.npy")), slices=(1, 2))
    np.testing.assert_array_equal(part.mask.numpy()[0], masks[1])
    whole = kdrift.reconstruct(full, masks, method="cg_sense")
    assert whole.mask.shape == (3, ROWS, COLS)
    torch.testing.assert_close(kdrift.reconstruct(full[1], masks[1], method="cg_sense").mean[0], whole.mean[1])
    assert whole.plot(2).get_size_inches()[0] > 4
    arguments = ["reconstruct", str(tmp_path / "full.npy"), "--out", str(tmp_path / "r"), "--method", "cg_sense"]
    assert main([*arguments, "--mask", str(tmp_path / "m.npy")]) == 0
    with h5py.File(tmp_path / "r/reconstruction.h5") as file:
        np.testing.assert_array_equal(file["mask"][:, 0], masks)
        np.testing.assert_allclose(file["reconstruction"][:], whole.mean.numpy(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize("kind", ["npy", "h5", "mat", "cfl"])
def test_a_mask_file_undersamples_full_data(kind: str, by_rows: bool, full: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "full.npy", full)
    rows = (np.arange(ROWS) % 2 == 0) | (np.abs(np.arange(ROWS) - ROWS // 2) < 6)
    mask, path = rows[:, None] if by_rows else LINES, tmp_path / f"m.{kind}"
    if kind == "npy":
        np.save(path, mask)
    elif kind == "mat":
        scipy.io.savemat(path, {"mask": np.atleast_2d(mask)})
    elif kind == "cfl":
        write_bart(tmp_path / "m", np.broadcast_to(mask, (1, 1, ROWS, COLS)).astype(np.complex64))
    else:
        with h5py.File(path, "w") as file:
            file["mask"] = mask
    found = load(tmp_path / "full.npy", MaskRequest(file=str(path)))
    np.testing.assert_array_equal(found.mask.numpy(), np.broadcast_to(mask, (ROWS, COLS)))
    assert found.net_acceleration == pytest.approx(1 / mask.mean())
    assert str(path) in found.sampling
    assert found.reference_definition == "rss of full k-space"


def test_a_mask_file_states_what_was_measured_of_other_data(full: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", full * LINES)
    np.save(tmp_path / "m.npy", LINES)
    found = load(tmp_path / "a.npy", MaskRequest(file=str(tmp_path / "m.npy")))
    assert found.reference is None
    assert found.sampling.startswith("as measured, mask of")
    np.save(tmp_path / "wrong.npy", np.ones(7))
    with pytest.raises(ValueError, match=r"wrong\.npy: mask has shape \(7,\)"):
        load(tmp_path / "a.npy", MaskRequest(file=str(tmp_path / "wrong.npy")))
    np.save(tmp_path / "none.npy", ~LINES)
    with pytest.raises(ValueError, match="marks exactly the empty part of k-space"):
        load(tmp_path / "a.npy", MaskRequest(file=str(tmp_path / "none.npy")))
    for wrong in ({}, {"kind": "random", "file": "x"}):
        with pytest.raises(ValueError, match="give one of the two"):
            MaskRequest(**wrong)


def test_a_mask_file_that_does_not_fit_what_was_measured_is_said(full: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", full * LINES)

    def notes(mask: np.ndarray) -> str:
        np.save(tmp_path / "m.npy", mask)
        return "\n".join(load(tmp_path / "a.npy", MaskRequest(file=str(tmp_path / "m.npy"))).notes)

    assert "never measured" not in notes(LINES)
    never = int((~LINES[::2]).sum())
    assert f"m.npy marks 20 columns, of which {never} were never measured" in notes(np.arange(COLS) % 2 == 0)
    rows = np.broadcast_to((np.arange(ROWS) % 2 == 0)[:, None], (ROWS, COLS))
    assert f"marks {rows.sum()} positions, of which {(rows & ~LINES).sum()} were never measured" in notes(rows)
    assert "leaves out the middle of k-space" in notes(LINES & (np.abs(np.arange(COLS) - COLS // 2) > 4))
    np.save(tmp_path / "a.npy", full)
    assert "leaves out the middle of k-space" not in notes(LINES)
    assert "never measured" not in notes(LINES)


def test_an_oversampled_readout_goes_with_any_mask(full: np.ndarray, tmp_path: Path) -> None:
    wide = np.asarray(phantom_volume(1, 2 * ROWS, COLS, COILS, seed=4).kspace)
    write_fastmri(tmp_path / "a.h5", wide, recon_size=(ROWS, COLS))
    points = np.random.default_rng(0).random((2 * ROWS, COLS)) < 0.5
    for name, mask, rows in (
        ("lines", np.broadcast_to(LINES, (2 * ROWS, COLS)), ROWS), ("points", points, 2 * ROWS),
        ("cropped", points[::2], ROWS),
    ):  # fmt: skip
        np.save(tmp_path / f"{name}.npy", mask)
        found = load(tmp_path / "a.h5", MaskRequest(file=str(tmp_path / f"{name}.npy")))
        assert found.mask.shape == (rows, COLS), name
        assert found.image_shape == (ROWS, COLS)
        np.testing.assert_array_equal(found.mask.numpy(), mask[: len(found.mask)])


@pytest.mark.parametrize("kind", ["npz", "h5", "zarr"])
@pytest.mark.parametrize("mask", [LINES, None])
def test_a_stored_reference_is_used_whatever_else_there_is(
    kind: str, mask: np.ndarray | None, full: np.ndarray, tmp_path: Path
) -> None:
    truth = rss(ifft2c(torch.from_numpy(full))).numpy()
    kspace, path = full * LINES, tmp_path / f"a.{kind}"
    more = {} if mask is None else {"mask": mask}
    if kind == "npz":
        np.savez(path, kspace=kspace, reference=truth, **more)
    else:
        write_fastmri(tmp_path / "a.h5", kspace, reference=truth, **more)
    if kind == "zarr":
        with open_store(path, "a") as store, open_volume(tmp_path / "a.h5") as volume:
            write_volume(store, "v", volume)
        path = path / "v"
    assert main(["reconstruct", str(path), "--out", str(tmp_path / "r"), "--method", "cg_sense"]) == 0
    report = json.loads((tmp_path / "r/metrics.json").read_text())
    assert report["metrics"]["psnr"] > report["metrics_zero_filled"]["psnr"]
    assert report["reference"] == "stored reconstruction"
    assert any("the image that the file stores" in note for note in report["notes"])
    assert report["net_acceleration"] == pytest.approx(COLS / LINES.sum())


def test_axes_and_centring_at_the_library_and_in_files(full: np.ndarray, tmp_path: Path) -> None:
    expected = kdrift.reconstruct(full[:2], LINES, method="cg_sense")
    corner = np.fft.ifftshift(full[:2], axes=(-2, -1))
    last = kdrift.reconstruct(
        corner.transpose(2, 3, 0, 1), np.fft.ifftshift(LINES), axes="row,col,slice,coil", centred=False,
        method="cg_sense",
    )  # fmt: skip
    torch.testing.assert_close(last.mean, expected.mean)
    torch.testing.assert_close(
        kdrift.reconstruct(full[0, 0], "full", axes=("row", "col"), method="zero_filled").mean[0],
        ifft2c(torch.from_numpy(full[0, 0])).abs(),
    )
    for wrong, sentence in (("row,col", "do not name these"), ("row,row,col", "axes are")):
        with pytest.raises(ValueError, match=sentence):
            kdrift.reconstruct(full[0], axes=wrong, method="cg_sense")
    with pytest.raises(ValueError, match='axes="row,col,coil"'):
        kdrift.reconstruct(full[0].transpose(1, 2, 0), method="cg_sense")
    np.save(tmp_path / "a.npy", corner[0].transpose(1, 2, 0) * np.fft.ifftshift(LINES)[:, None])
    arguments = ["reconstruct", str(tmp_path / "a.npy"), "--out", str(tmp_path / "r"), "--method", "cg_sense"]
    assert main([*arguments]) == 1
    assert main([*arguments, "--axes", "row,col,coil", "--not-centred"]) == 0
    with h5py.File(tmp_path / "r/reconstruction.h5") as file:
        np.testing.assert_allclose(file["reconstruction"][0], expected.mean[0].numpy(), rtol=1e-3, atol=1e-6)


def test_options_are_changed_alike(full: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", full.transpose(0, 2, 3, 1))
    request = AcquisitionRequest(source=str(tmp_path / "a.npy"), axes="slice,row,col,coil", mask=EQUI)
    torch.testing.assert_close(
        load_acquisition(request).kspace[1], load_acquisition(replace(request, slices=(1, 2))).kspace[0]
    )
