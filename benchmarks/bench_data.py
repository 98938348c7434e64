"""Conversion against a bare h5py-read plus zarr-write of the same bytes, and the training loader's rate, with what it
draws for AK-Diffusion's priors too.

Both sides are warmed up and alternate in one run. Run `python -m benchmarks.bench_data [--quick]` from the
repository's root.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import zarr

from benchmarks.table import main
from kdrift.data.convert import ConvertConfig, convert
from kdrift.data.data_config import DataConfig
from kdrift.data.dataset import TrainingImages
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.store import open_store
from kdrift.mri.birdcage import maps_of
from kdrift.runs.config import load_config
from kdrift.runs.config_names import find_config
from kdrift.training.train_config import TrainConfig

COMMAND = "python -m benchmarks.bench_data"
TRAINING_IMAGES_PER_S = 15.0
"""What two CPU cores train of the shipped prior's network at crop 128."""


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Rows of the benchmark table; `quick` takes few small volumes."""
    volumes, slices, size = (4, 4, 320) if quick else (4, 8, 384)
    with tempfile.TemporaryDirectory(prefix="kdrift-bench-") as folder:
        root = Path(folder)
        files = _write_scans(root / "scans", volumes, slices, size)
        rows = _conversion(root, files, rounds=3 if quick else 5)
        rows += _loader(root, 300 if quick else 2000)
        rows += _attenuated(root, 20 if quick else 100)
    return rows


def _write_scans(folder: Path, volumes: int, slices: int, size: int) -> list[Path]:
    folder.mkdir()
    parts = np.random.default_rng(0).standard_normal((slices, 15, size, size, 2), dtype=np.float32)
    kspace = parts.view(np.complex64)[..., 0]
    files = [folder / f"scan{i}.h5" for i in range(volumes)]
    for file in files:
        write_fastmri(file, kspace)
    return files


def _conversion(root: Path, files: list[Path], rounds: int) -> list[dict[str, Any]]:
    import ray

    num_cpus = os.cpu_count() or 1
    os.environ.setdefault("RAY_worker_niceness", "0")  # the bare side runs at that, and Ray's default is 15
    ray.init(
        address="local", num_cpus=num_cpus, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False
    )
    try:
        store = root / "store.zarr"

        def ours(workers: int) -> None:
            report = convert(ConvertConfig([str(file) for file in files], str(store), workers=workers))
            if report.failed:
                raise RuntimeError(f"conversion failed: {report.failed}")

        sides: dict[str, Callable[[], None]] = {
            "bare": lambda: _bare(files, root / "bare.zarr"),
            "1 writer": lambda: ours(1),
            f"{num_cpus} writers": lambda: ours(num_cpus),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(rounds + 1):
            for name, side in sides.items():
                for leftover in (store, root / "bare.zarr"):
                    shutil.rmtree(leftover, ignore_errors=True)
                started = time.perf_counter()
                side()
                if turn:  # the first round warms up
                    seconds[name].append(time.perf_counter() - started)
        num_bytes = sum(_kspace_bytes(file) for file in files)
        faults = open_store(store).verify()
        if faults:
            raise RuntimeError(f"the store is damaged: {faults}")
    finally:
        ray.shutdown()
    rates = {name: num_bytes / 1e6 / statistics.median(values) for name, values in seconds.items()}
    return [
        {
            "name": f"conversion of {num_bytes / 1e6:.0f} MB of fastMRI files, {name}, Ray warm",
            "value": round(rates[name]),
            "unit": "MB/s",
            "baseline": f"bare h5py read + zarr write, one process: {rates['bare']:.0f} MB/s",
            "ratio": round(rates[name] / rates["bare"], 2),
            "target": ">= 0.7",
            "command": COMMAND,
        }
        for name in list(sides)[1:]
    ]


def _bare(files: list[Path], store: Path) -> None:
    """The same bytes in the same layout, without checks, checksums, names or atomicity."""
    root = zarr.create_group(str(store))
    for i, path in enumerate(files):
        with h5py.File(path, "r") as file:
            source = file["kspace"]
            array = root.create_array(
                f"scan{i}/kspace",
                shape=source.shape,
                dtype=source.dtype,
                chunks=(1, *source.shape[1:]),
                compressors=None,
            )
            step = max(1, 64 * 2**20 // (source.dtype.itemsize * int(np.prod(source.shape[1:]))))
            for start in range(0, len(source), step):
                array[start : start + step] = source[start : start + step]


def _kspace_bytes(path: Path) -> int:
    with h5py.File(path, "r") as file:
        return int(file["kspace"].nbytes)


def _loader(root: Path, num_images: int) -> list[dict[str, Any]]:
    np.save(root / "images.npy", np.random.default_rng(0).random((40, 320, 320), dtype=np.float32))
    rows = []
    for phase in ("none", "smooth"):
        config = DataConfig(stores=[str(root / "images.npy")], crop=128, augment_phase=phase)  # type: ignore[arg-type]
        data = TrainingImages(config)
        data.batch(range(64))
        started = time.process_time()  # of one core: what else runs does not count
        for first in range(0, num_images, 8):
            data.batch(range(first, first + 8))
        rate = num_images / (time.process_time() - started)
        rows.append(
            {
                "name": f"loader, crop 128, phase {phase}, one core",
                "value": round(rate),
                "unit": "images/s",
                "baseline": f"training on 2 cores: {TRAINING_IMAGES_PER_S:.0f} images/s",
                "ratio": round(rate / TRAINING_IMAGES_PER_S, 1),
                "target": ">= 5",
                "command": COMMAND,
            }
        )
    return rows


def _attenuated(root: Path, num_images: int) -> list[dict[str, Any]]:
    """What the loader does for an image of 320 x 320 seen by 15 coils, and what the device does once it has it."""
    scans = DataConfig(stores=[str(root / "images.npy")], crop=320, images="complex", augment_phase="smooth")
    images = TrainingImages(scans)
    config = load_config(TrainConfig, find_config("train", "fastmri_knee_ak"))
    noise, coils = config.noise, config.noise.attenuated.num_coils
    images.batch(range(64))
    torch.set_num_threads(1)
    started = time.process_time()
    for number in range(num_images):
        shape = images.batch([number]).shape[1:]
        *_, place, mix = noise.process.draw(noise, "residual", 0, [number], shape)
    loaded = time.process_time()
    for _ in range(num_images):
        maps_of(place, mix, 320, 320)
    made = time.process_time() - loaded
    rate, with_maps = num_images / (loaded - started), num_images / (loaded - started + made)
    return [
        {
            "name": f"loader of AK-Diffusion, {coils} coils at 320 x 320, one core",
            "value": round(rate),
            "unit": "images/s",
            "baseline": f"with the coil maps made on that core too {with_maps:.0f} images/s",
            "ratio": round(rate / with_maps, 1),
            "target": ">= 100 images/s",
            "command": COMMAND,
        }
    ]


if __name__ == "__main__":
    main(run, __doc__)
