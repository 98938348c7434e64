"""Damaged files of every format are named, or read, and never anything else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from formats_helpers import VALID
from kdrift.data.formats import BadVolume, open_volume

ROUNDS = int(os.environ.get("KDRIFT_FUZZ_ROUNDS", "120"))
SEED = int(os.environ.get("KDRIFT_FUZZ_SEED", "0"))


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Truncate, flip bits anywhere or in the first bytes, overwrite a run, or insert bytes."""
    data = bytearray(content)
    kind = rng.integers(0, 5)
    if kind == 0:
        return bytes(data[: rng.integers(0, len(data))])
    if kind in (1, 2):
        end = len(data) if kind == 1 else min(len(data), 1024)
        for place in rng.integers(0, end, rng.integers(1, 17)):
            data[place] ^= 1 << int(rng.integers(0, 8))
        return bytes(data)
    place, length = int(rng.integers(0, len(data))), int(rng.integers(1, 64))
    filling = rng.choice([b"\x00", b"\xff", b"\x7f"]) * length if rng.random() < 0.5 else rng.bytes(length)
    data[place : place + (length if kind == 3 else 0)] = filling
    return bytes(data)


def read_everything(path: Path) -> None:
    with open_volume(path) as volume:
        info = volume.info
        assert min(info.num_slices, info.num_coils, info.rows, info.cols) >= 1
        if info.kind == "kspace":
            volume.mask()
            volume.noise_cov()
        for index in range(min(info.num_slices, 4)):
            if info.kind == "kspace":
                assert np.isfinite(volume.read_kspace(index, index + 1)).all()
                volume.read_calibration(index, index + 1)
            if info.kind == "image" or info.has_reference:
                assert np.isfinite(volume.read_image(index, index + 1)).all()


@pytest.mark.parametrize("name", VALID)
def test_damaged_files_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "valid").mkdir()
    valid = VALID[name](tmp_path / "valid")
    read_everything(valid)
    parts = [valid] if name != "bart" else [valid, valid.with_suffix(".cfl")]
    contents = [part.read_bytes() for part in parts]
    rng = np.random.default_rng([SEED, len(name), *name.encode()])
    bad: list[BadVolume] = []
    for _ in range(ROUNDS):
        which = int(rng.integers(0, len(parts)))
        for index, (part, content) in enumerate(zip(parts, contents, strict=True)):
            (tmp_path / part.name).write_bytes(damage(content, rng) if index == which else content)
        try:
            read_everything(tmp_path / valid.name)
        except BadVolume as error:
            bad.append(error)
    assert len(bad) > ROUNDS // 20
    assert all(valid.stem in str(error) for error in bad)


@pytest.mark.parametrize("suffix", [".h5", ".npy", ".npz", ".nii", ".nii.gz", ".dcm", ".hdr", ".cfl", ".mat", ""])
def test_noise_is_no_volume(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"noise{suffix}"
    for seed in range(10):
        path.write_bytes(np.random.default_rng(seed).bytes(4096))
        with pytest.raises(BadVolume, match="noise"):
            open_volume(path)
