"""Arrays beside k-space: trajectories are refused, what nothing reads is said, and `info` says what was measured."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from kdrift.data.describe import describe
from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.formats.beside import check_beside
from kdrift.data.phantom import phantom_volume

KSPACE = phantom_volume(2, 24, 20, 3, seed=1).kspace


@pytest.mark.parametrize("name", ["angle", "angles", "traj", "ktraj", "k_trajectory", "coords", "dcf", "kx", "spokes"])
def test_trajectories_are_no_cartesian_grid(name: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", kspace=KSPACE, **{name: np.zeros(20)})
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"], file[name] = KSPACE, np.zeros(20)
    scipy.io.savemat(tmp_path / "a.mat", {"kspace_full": KSPACE.transpose(2, 3, 1, 0), name: np.zeros(20)})
    for path in ("a.npz", "a.h5", "a.mat"):
        with pytest.raises(BadVolume, match=f"{name} beside the k-space: it was sampled along a trajectory"):
            open_volume(tmp_path / path)


def test_what_is_not_used_is_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", kspace=KSPACE, mask=np.ones(20), licence="CC-BY", sens=KSPACE)
    with open_volume(tmp_path / "a.npz") as volume:
        axes, besides = volume.info.notes
        assert axes.startswith("4 axes were taken as slice,coil,row,col, 2 slices of 3 coils")
        assert besides == "what the file holds besides is not used: licence, sens"
    assert check_beside("a", ["kspace", "triangle", "tract"], ["kspace"]) == (
        "what the file holds besides is not used: triangle, tract",
    )
    assert check_beside("a", ["kspace"], ["kspace"]) == ()


def test_info_says_what_was_measured(tmp_path: Path) -> None:
    for name, kspace in (("full", KSPACE), ("half", KSPACE * (np.arange(20) % 2)), ("none", 0 * KSPACE)):
        np.save(tmp_path / f"{name}.npy", kspace.astype(np.complex64))
    said = {name: describe(str(tmp_path / f"{name}.npy"))["sampling"] for name in ("full", "half", "none")}
    assert said["full"] == "full"
    assert said["half"] == "2.00x net, by exact zeros in all coils"
    assert said["none"] == "nothing: slice 1 is zero in all coils"
