"""Batch slices/s with two actors of one core against one, training images/s with two workers against one.

    python -m benchmarks.bench_scaling [--quick]

A private Ray with as many CPUs as workers. Start-up does not count: batches are timed from the moment all actors are up
to the last slice, training by the rate it logs. Close other programs first.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import ray

from benchmarks.table import Row, main
from kdrift.data.convert import ConvertConfig, convert
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.phantom import phantom_images, phantom_volume
from kdrift.evaluation.batch import BatchConfig, PoolConfig, reconstruct_batch
from kdrift.recon.plan import Plan
from kdrift.recon.request import MaskRequest
from kdrift.runs.config import load_config
from kdrift.training.train_config import TrainConfig
from kdrift.training.trainer import train

TARGET = 1.7
COMMAND = "python -m benchmarks.bench_scaling"


def run(quick: bool) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        return [_batch(Path(folder), quick), _training(Path(folder), quick)]


@contextmanager
def _ray(cpus: int) -> Iterator[None]:
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(
        address="local",
        num_cpus=cpus, include_dashboard=False, object_store_memory=256 * 2**20, log_to_driver=False,
        logging_level=logging.ERROR,
    )  # fmt: skip
    try:
        yield
    finally:
        ray.shutdown()


def _batch(folder: Path, quick: bool) -> Row:
    """Slices/s of both pools; every slice costs the same."""
    size, slices = (64, 4) if quick else (128, 10)
    volume = phantom_volume(slices, size, size, 4, seed=1)
    write_fastmri(folder / "scan.h5", volume.kspace, reference=volume.reference, attrs=volume.attrs)
    convert(ConvertConfig([str(folder / "scan.h5")], str(folder / "scan.zarr")))
    plan = Plan(num_samples=2, settings={"num_steps": 5 if quick else 15})
    rates = {}
    for actors in (1, 2):
        out = folder / f"out{actors}"
        up: list[tuple[float, int]] = []
        end: list[float] = []

        def echo(line: str, out: Path = out, up: list[tuple[float, int]] = up, end: list[float] = end) -> None:
            if "is up: process" in line:
                up.append((time.monotonic(), len(list(out.glob(".partial/*/[0-9]*.npz")))))
            if line.startswith(f"{slices}/{slices} slices"):
                end.append(time.monotonic())

        config = BatchConfig(
            str(folder / "scan.zarr"), str(out), plan=plan, pool=PoolConfig(actors=actors),
            mask=MaskRequest("equispaced", acs_fraction=0.08),
        )  # fmt: skip
        with _ray(actors):
            reconstruct_batch(config, echo=echo)
        rates[actors] = (slices - up[-1][1]) / (end[0] - up[-1][0])
    return _row("batch reconstruction, 2 actors against 1", rates[2], rates[1], "slices/s")


def _training(folder: Path, quick: bool) -> Row:
    """Images/s of the shipped prior's network as training logs it, the median after the first third."""
    np.save(folder / "images.npy", phantom_images(12, 128, 128, seed=2))
    images = 160 if quick else 960
    changes = {
        "data.stores": f"[{folder / 'images.npy'}]",
        "data.exclude": "[]",
        "data.validation": "[]",
        "total_images": images,
        "batch_size": 16 if quick else 32,
        "monitoring.log_every_images": images // 10,
        "monitoring.validate_every_images": images,
        "checkpoint.every_images": images,
    }
    overrides = [f"{key}={value}" for key, value in changes.items()]
    config = load_config(TrainConfig, "configs/train/brain_small.yaml", overrides)
    rates = {}
    for workers in (1, 2):
        out = folder / f"train{workers}"
        with _ray(workers):  # a worker takes the CPUs there are
            train(config, out, workers=workers, echo=lambda _: None)
        lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        found = [line["train/images_per_second"] for line in lines if "train/images_per_second" in line]
        rates[workers] = statistics.median(found[len(found) // 3 :])
    return _row("training, 2 workers against 1", rates[2], rates[1], "images/s")


def _row(name: str, value: float, baseline: float, unit: str) -> Row:
    return {
        "name": name, "value": value, "baseline": baseline, "unit": unit, "ratio": value / baseline,
        "target": f">= {TARGET}", "command": COMMAND,
    }  # fmt: skip


if __name__ == "__main__":
    main(run, "Two workers against one: batch reconstruction and training.")
