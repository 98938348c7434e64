"""Coil maps from files and stores, with whatever axes they come, and what is said where they do not fit."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from kdrift.cli import main
from kdrift.data.formats.bart import write_bart
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.phantom import phantom_volume
from kdrift.recon.acquisition import load_acquisition
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct_slices
from kdrift.recon.request import AcquisitionRequest, MaskRequest
from kdrift.recon.result import ReconstructionResult

ROWS, COLS, COILS = 48, 40, 4
MASK = MaskRequest("equispaced", acceleration=2.0, acs_lines=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("maps")
    volume = phantom_volume(3, ROWS, COLS, COILS, seed=3)
    write_fastmri(made / "scan.h5", volume.kspace, reference=volume.reference, attrs=volume.attrs)
    np.save(made / "maps.npy", volume.smaps / np.linalg.norm(volume.smaps, axis=1, keepdims=True))
    return made


def _run(source: Path, smaps: Path | str | None, **options: Any) -> ReconstructionResult:
    sets = options.pop("sets", 1)
    request = AcquisitionRequest(source=str(source), mask=MASK, smaps=None if smaps is None else str(smaps), **options)
    acquisition = load_acquisition(request)
    raw = [acquisition.raw(position) for position in range(len(acquisition.slice_indices))]
    return reconstruct_slices(raw, plan=Plan("cg_sense", num_map_sets=sets), device="cpu")


def test_the_same_maps_in_every_form(folder: Path, tmp_path: Path) -> None:
    maps = np.load(folder / "maps.npy")
    expected, estimated = _run(folder / "scan.h5", folder / "maps.npy"), _run(folder / "scan.h5", None)
    assert float((expected.mean - estimated.mean).abs().max()) > 0.01 * float(expected.mean.max())
    np.save(tmp_path / "sets.npy", maps[:, None])
    np.save(tmp_path / "long.npy", maps[None, :, None])
    np.save(tmp_path / "double.npy", maps.astype(np.complex128))
    with h5py.File(tmp_path / "maps.h5", "w") as file:
        file["smaps"], file["mask"] = maps, np.ones(3)
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["S"] = maps
    write_bart(tmp_path / "bart", maps)
    np.savez(tmp_path / "maps.npz", smaps=maps, other=np.ones(3))
    scipy.io.savemat(tmp_path / "maps.mat", {"smaps": maps, "other": np.ones(3)})
    names = ("sets.npy", "long.npy", "double.npy", "maps.h5", "one.h5", "bart.cfl", "bart", "maps.npz", "maps.mat")
    for name in names:
        torch.testing.assert_close(_run(folder / "scan.h5", tmp_path / name).mean, expected.mean, rtol=0, atol=1e-4)
    for one in (maps[1], maps[1][None], maps[1][None, None]):
        np.save(tmp_path / "one.npy", one)
        found = _run(folder / "scan.h5", tmp_path / "one.npy", slices=(1, 2))
        torch.testing.assert_close(found.mean[0], expected.mean[1], rtol=0, atol=1e-4)
    np.save(tmp_path / "two.npy", np.stack([maps[1], np.roll(maps[1], 2, 0)]))
    assert _run(folder / "scan.h5", tmp_path / "two.npy", sets=2).config["maps"]["sets"] == 2


def test_saved_maps_give_the_image_again(folder: Path, tmp_path: Path) -> None:
    command = ["reconstruct", str(folder / "scan.h5"), "--method", "cg_sense", "--quiet", "--mask", "equispaced"]
    command += ["--acceleration", "2", "--acs-lines", "12"]
    assert main([*command, "--out", str(tmp_path / "a"), "--save-smaps"]) == 0
    assert main([*command, "--out", str(tmp_path / "b"), "--smaps", str(tmp_path / "a" / "reconstruction.h5")]) == 0
    images = []
    for name in "ab":
        with h5py.File(tmp_path / name / "reconstruction.h5") as file:
            images.append(file["reconstruction"][()])
    np.testing.assert_allclose(images[1], images[0], rtol=1e-4, atol=1e-6)


def test_maps_of_a_store_are_used(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    assert (
        main(["convert", str(folder / "scan.h5"), "--store", str(store), "--smaps", "--workers", "1", "--quiet"]) == 0
    )
    volume = store / "scan"
    stored, estimated = _run(volume, "store"), _run(volume, None)
    assert float((stored.mean - estimated.mean).abs().max()) > 1e-3 * float(estimated.mean.max())
    assert stored.smaps is not None
    import zarr

    maps = torch.from_numpy(zarr.open_group(str(store), mode="r")["scan/smaps"][:])  # type: ignore[index]
    torch.testing.assert_close(stored.smaps, maps, rtol=0, atol=1e-5)
    torch.testing.assert_close(_run(volume, "store", slices=(1, 2)).mean[0], stored.mean[1])
    with pytest.raises(ValueError, match="is no volume of a store"):
        _run(folder / "scan.h5", "store")


def test_maps_of_the_oversampled_readout_are_cropped(tmp_path: Path) -> None:
    volume = phantom_volume(1, 2 * ROWS, COLS, COILS, seed=5)
    wide = np.array(volume.kspace)
    write_fastmri(tmp_path / "wide.h5", wide, reference=volume.reference[:, ROWS // 2 : -ROWS // 2], attrs={})
    maps = volume.smaps[0] / np.linalg.norm(volume.smaps[0], axis=0)
    np.save(tmp_path / "wide.npy", maps)
    np.save(tmp_path / "cropped.npy", maps[:, ROWS // 2 : -ROWS // 2])
    found = [_run(tmp_path / "wide.h5", tmp_path / f"{name}.npy").mean for name in ("wide", "cropped")]
    assert found[0].shape == (1, ROWS, COLS)
    torch.testing.assert_close(found[0], found[1])


def test_unnormalised_maps_are_normalised_and_said(folder: Path, tmp_path: Path) -> None:
    maps = np.load(folder / "maps.npy")
    np.save(tmp_path / "maps.npy", 1e-4 * maps)
    found = _run(folder / "scan.h5", tmp_path / "maps.npy")
    expected = _run(folder / "scan.h5", folder / "maps.npy")
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-4, atol=1e-5)
    assert "root sum of squares of 0.0001 to 0.0001: normalised to 1" in found.notes[0]
    assert not expected.notes


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m[:, :3], r"smaps have \(coil, row, col\) \(3, 48, 40\), k-space has \(4, 48, 40\)"),
        (lambda m: m[..., :30], r"\(4, 48, 30\), k-space has .*readout oversampling"),
        (lambda m: np.concatenate([m, m], 2), r"\(4, 96, 40\)"),
        (lambda m: np.concatenate([m, m]), "has maps of 6 slices, .* has 3 slices"),
        (lambda m: abs(m), "expected complex coil maps"),
        (lambda m: m[0, 0], "expected complex coil maps"),
        (lambda m: m * np.nan, "not finite"),
        (lambda m: 0 * m, "zero everywhere"),
    ],
)
def test_maps_that_do_not_fit(change: Any, sentence: str, folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "maps.npy", change(np.load(folder / "maps.npy")))
    with pytest.raises(ValueError, match=sentence):
        _run(folder / "scan.h5", tmp_path / "maps.npy")


@pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not installed")
def test_maps_that_bart_made(folder: Path, tmp_path: Path) -> None:
    with h5py.File(folder / "scan.h5") as file:
        write_bart(tmp_path / "k", file["kspace"][1:2])
    for sets in (1, 2):
        subprocess.run(["bart", "ecalib", "-m", str(sets), "-c", "0", "k", "maps"], cwd=tmp_path, check=True)
        found = _run(folder / "scan.h5", tmp_path / "maps", slices=(1, 2), sets=sets)
        own = _run(folder / "scan.h5", None, slices=(1, 2), sets=sets)
        inside = own.mean > 0.3 * own.mean.max()
        assert float(((found.mean - own.mean)[inside].abs() / own.mean[inside]).median()) < 0.05
