"""Damage that nobody hears of: bits flipped and chunks removed in stores, checkpoints and priors, then read.

Each fault is made in a whole copy, everything is read, and the copy is mended. What is read without an error is silent,
unless every value came out as it was written. The cost is CPU time of reading from
memory, the worst case, against what zarr takes for the same values without any check.
Run `python -m benchmarks.integrity [--quick]` from the repository's root.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.table import main
from kdrift.data.data_config import DataConfig
from kdrift.data.dataset import TrainingImages
from kdrift.data.store import open_store
from kdrift.data.store_check import CheckedArray
from kdrift.data.store_write import write_volume
from kdrift.data.volume import Volume, VolumeInfo
from kdrift.networks import NCSNppConfig, NetworkConfig, build_network
from kdrift.prior.bundle import load_prior, save_prior
from kdrift.prior.prior_info import PriorInfo
from kdrift.sde import WhiteNoise
from kdrift.training.checkpoint import load_checkpoint, save_checkpoint

COMMAND = "python -m benchmarks.integrity"
Read = Callable[[Path], Any]


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Rows of the benchmark table; `quick` makes few faults."""
    flips, chunks = (30, 10) if quick else (200, 50)
    rows = []
    with tempfile.TemporaryDirectory(prefix="kdrift-integrity-") as folder:
        for name, (write, read) in KINDS.items():
            place = write(Path(folder) / name)
            rows.append(_row(f"{name}: {flips} bits flipped", flip_bits(place, read, flips)))
            if name == "store":
                rows.append(_row(f"{name}: {chunks} chunks removed", remove_files(place, read, chunks)))
        rows += _cost(Path(folder), 4 if quick else 16)
    return rows


def flip_bits(folder: Path, read: Read, count: int, seed: int = 0) -> list[str]:
    """Flip one bit in the files of a folder, `count` times; name the faults that were silent."""
    rng = np.random.default_rng(seed)
    files = _files(folder)
    sizes = np.array([file.stat().st_size for file in files])
    silent = []
    for number in range(count):
        # half of the faults fall on files by size, half on any file: metadata is small
        weights = sizes / sizes.sum() if number % 2 else (sizes > 0) / (sizes > 0).sum()
        file = files[int(rng.choice(len(files), p=weights))]
        place, bit = int(rng.integers(file.stat().st_size)), int(rng.integers(8))
        content = file.read_bytes()
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        if _is_silent(folder, read):
            silent.append(f"{file.relative_to(folder)}: byte {place}, bit {bit}")
        file.write_bytes(content)
    return silent


def remove_files(folder: Path, read: Read, count: int, seed: int = 0) -> list[str]:
    """Remove one file `count` times; name the faults that were silent."""
    rng = np.random.default_rng(seed)
    silent = []
    for file in rng.choice(np.array(_files(folder)), count):
        content = file.read_bytes()
        file.unlink()
        if _is_silent(folder, read):
            silent.append(str(file.relative_to(folder)))
        file.write_bytes(content)
    return silent


def _is_silent(folder: Path, read: Read) -> bool:
    with contextlib.suppress(ValueError):
        read(folder)
        return True
    return False


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def write_store(folder: Path) -> Path:
    """Write a store with k-space in chunks and in a shard, its reference, mask and maps, and images, compressed and in
    half precision."""
    rng = np.random.default_rng(0)
    with open_store(folder, "a") as store:
        for name, size in (("small", 24), ("large", 560)):
            kspace = rng.standard_normal((3, 2, size, size, 2), dtype=np.float32).view(np.complex64)[..., 0]
            write_volume(store, name, _volume(name, kspace), derive={"smaps": lambda block: block})
        images = rng.random((3, 24, 24), dtype=np.float32)
        info = VolumeInfo("images", "image", 3, 1, 24, 24, 24, 24)
        volume = Volume("images", info, None, lambda start, stop: images[start:stop])
        write_volume(store, "images", volume)
        write_volume(store, "half", volume, precision="float16")
    return folder


def read_store(folder: Path) -> None:
    """Read all of a store, as reconstruction and training do."""
    store = open_store(folder)
    for name in store.list_volumes():
        volume = store.read_volume(name)
        count = volume.info.num_slices
        if volume.info.kind == "kspace":
            volume.read_kspace(0, count)
            volume.read_smaps(0, count)
            volume.mask()
            volume.noise_cov()
        volume.read_image(0, count)
    images = TrainingImages(DataConfig(stores=[str(folder)], crop=16))
    images.batch(range(len(images)))


def write_checkpoint(folder: Path) -> Path:
    """Write a checkpoint with tensors and plain values."""
    state = {"images": 64, "network": {"w": torch.randn(200, 50)}, "rng": torch.get_rng_state(), "config": {"a": 1}}
    return save_checkpoint(folder, state, images=64, keep=1)


def write_bundle(folder: Path) -> Path:
    """Write a small prior."""
    network = NetworkConfig(NCSNppConfig(image_size=16, nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=()))
    return save_prior(folder, build_network(network), network, PriorInfo(WhiteNoise(0.01, 5.0)))


KINDS: dict[str, tuple[Callable[[Path], Path], Read]] = {
    "store": (write_store, read_store),
    "checkpoint": (write_checkpoint, load_checkpoint),
    "prior": (write_bundle, load_prior),
}
"""What can be damaged: how it is written into a folder, and how it is read."""


def _volume(name: str, kspace: np.ndarray) -> Volume:
    slices, coils, rows, cols = kspace.shape
    info = VolumeInfo(name, "kspace", slices, coils, rows, cols, rows, cols, has_mask=True, has_reference=True)
    target = np.abs(kspace[:, 0])
    return Volume(
        name,
        info,
        lambda start, stop: kspace[start:stop],
        lambda start, stop: target[start:stop],
        lambda: np.arange(cols) % 2 == 0,
        lambda: np.eye(coils, dtype=np.complex128),
    )


def _cost(folder: Path, slices: int) -> list[dict[str, Any]]:
    """Compare checked reading with zarr's own: k-space of 15 coils, a slice at a time and all at once, and images."""
    rng = np.random.default_rng(0)
    kspace = rng.standard_normal((slices, 15, 640, 368, 2), dtype=np.float32).view(np.complex64)[..., 0]
    images = np.round(rng.gamma(2.0, 100.0, (slices * 4, 384, 384))).astype(np.float32)
    info = VolumeInfo("images", "image", len(images), 1, 384, 384, 384, 384)
    with open_store(folder / "cost", "a") as store:
        write_volume(store, "kspace", _volume("kspace", kspace))
        write_volume(store, "images", Volume("images", info, None, lambda start, stop: images[start:stop]))
    rows = []
    for name, step in (("kspace", 1), ("kspace", slices), ("images", len(images))):
        volume = open_store(folder / "cost").read_volume(name)
        read = volume.read_kspace if name == "kspace" else volume.read_image
        starts = range(0, volume.info.num_slices, step)
        checked, bare = _times(functools.partial(_read_steps, read, starts, step))
        rows.append({
            "name": f"reading {name}, {step} slice(s) at a time, checks", "value": 100 * (checked / bare - 1),
            "unit": "%", "baseline": 0, "ratio": checked / bare, "target": "<= 10 %", "command": COMMAND,
        })  # fmt: skip
    return rows


def _read_steps(read: Callable[[int, int], Any], starts: range, step: int) -> None:
    for start in starts:
        read(start, start + step)


def _times(read: Callable[[], Any], rounds: int = 9) -> tuple[float, float]:
    """Return the least CPU seconds of checked reading and of zarr's, which alternate."""
    best = {True: float("inf"), False: float("inf")}
    check = CheckedArray.read
    try:
        for number in range(2 * rounds):
            with_check = number % 2 == 0
            CheckedArray.read = check if with_check else _bare  # type: ignore[method-assign]
            started = time.process_time()
            read()
            best[with_check] = min(best[with_check], time.process_time() - started)
    finally:
        CheckedArray.read = check  # type: ignore[method-assign]
    return best[True], best[False]


def _bare(array: CheckedArray, start: int, stop: int) -> tuple[np.ndarray, list[int]]:
    return np.asarray(array.array[start:stop]), []


def _row(name: str, silent: list[str]) -> dict[str, Any]:
    for fault in silent:
        print(f"silent: {name}: {fault}")
    return {
        "name": f"{name}, read in silence", "value": len(silent), "unit": "", "baseline": 0, "ratio": None,
        "target": "0", "command": COMMAND,
    }  # fmt: skip


if __name__ == "__main__":
    main(run, __doc__)
