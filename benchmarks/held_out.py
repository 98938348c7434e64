"""Scans that no shipped prior or preset has seen, and reconstructions of them measured: what `claims` and
`quality_seconds` are made of.

Simulated: slices of patient 12 (magnitude images) seen through measured coil maps, 8 virtual coils, smooth phase, noise
at 30 dB, 128 x 128. Real: the 4-coil slice graz_t2_4ch, 256 x 256. The two are never averaged together.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kdrift.acquisition import Acquisition, MaskRequest, load_acquisition
from kdrift.cli import main as kdrift
from kdrift.guard import Diverged
from kdrift.hardware import worker_environment
from kdrift.metrics import evaluate
from kdrift.reconstruct import Plan, reconstruct

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("KDRIFT_DATA", REPOSITORY.parent / "shared" / "data"))
Group = Literal["simulated", "real"]
VOLUMES = {"study1_FLAIR": 24, "study1_T2W": 22, "study1_T1W": 22}
"""Volumes of patient 12 and the slice that is taken of each."""
VIRTUAL_COILS = 8


@dataclass(frozen=True)
class Scan:
    """One slice, fully sampled."""

    name: str
    group: Group
    source: str
    index: int = 0

    def load(self, mask: MaskRequest, coils: int | None = None) -> Acquisition:
        """Return it undersampled by `mask`, with fewer virtual coils where `coils` says so."""
        return load_acquisition(
            self.source, mask=mask, slices=slice(self.index, self.index + 1), num_virtual_coils=coils
        )


@dataclass(frozen=True)
class Point:
    """One reconstruction of one scan."""

    label: str
    scan: Scan
    mask: MaskRequest
    plan: Plan
    prior: str | None = None
    coils: int | None = None


@dataclass(frozen=True)
class Measured:
    """What came of a point; metrics are of the magnitude, range and window per slice."""

    label: str
    scan: str
    group: Group
    net_acceleration: float
    psnr: float
    ssim: float
    nfe: int
    seconds: float
    """Processor time of the one thread, coil maps and reading not counted."""
    peak_mib: float
    """Largest resident memory of the process."""
    std: float
    """Root mean square of the samples' deviation, over the brightest value of the reference."""
    config: dict[str, Any] = field(default_factory=dict)
    detail: str = ""
    """Why there is no image: all samples diverged."""


def scans(folder: Path, *, groups: tuple[Group, ...] = ("simulated", "real"), count: int = 2) -> list[Scan]:
    """Return `count` simulated scans, made in `folder` on first use, and the real one."""
    found = []
    if "simulated" in groups:
        store = folder / "patient12.zarr"
        for name, index in list(VOLUMES.items())[:count]:
            if not (store / f"{name}_sim").exists():
                _simulate(name, store)
            found.append(Scan(f"{name} {index}", "simulated", f"{store}/{name}_sim", index))
    if "real" in groups:
        found.append(Scan("graz_t2_4ch", "real", str(DATA / "kspace" / "graz_t2_4ch.h5")))
    return found


def _simulate(name: str, store: Path) -> None:
    source = DATA / "brain_nifti" / "patient12" / f"{name}.nii.gz"
    maps = DATA / "coils" / "neonate_head_32ch_128.npy"
    options = ["--maps", str(maps), "--coils", str(VIRTUAL_COILS), "--snr", "30", "--seed", "0"]
    options += ["--size", "320x320", "--matrix", "128x128"]
    if kdrift(["simulate", str(source), "--store", str(store), *options]):
        raise SystemExit(f"no data in {DATA}: set KDRIFT_DATA")


def measure(points: list[Point], folder: Path, *, workers: int = 2) -> list[Measured]:
    """Reconstruct every point in a process of one thread, `workers` at a time; what `folder` has is not done again."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | worker_environment(1) | {"KDRIFT_PRESETS": ""}
    os.environ.update(environment)
    context = multiprocessing.get_context("spawn")
    missing = [point for point in points if not _kept(point, folder).exists()]
    began = time.monotonic()
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        jobs = {pool.submit(_measure, point, folder): point for point in missing}
        for done, (job, point) in enumerate(jobs.items(), start=1):
            found = job.result()
            left = (time.monotonic() - began) * (len(missing) / done - 1)
            shown = found.detail or f"{found.psnr:.2f} dB, {found.ssim:.3f}, nfe {found.nfe}, {found.seconds:.1f} s"
            print(f"{done}/{len(missing)}  {point.scan.name}: {point.label}: {shown}; {left:.0f} s left", flush=True)
    return [Measured(**json.loads(_kept(point, folder).read_text())) for point in points]


def image_of(point: Point, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the measured point's image and its reference, magnitudes `(row, col)`."""
    with np.load(_kept(point, folder).with_suffix(".npz")) as arrays:
        return arrays["image"], arrays["reference"]


def _kept(point: Point, folder: Path) -> Path:
    named = {**asdict(point), "scan": {**asdict(point.scan), "source": Path(point.scan.source).name}}
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{digest}.json"


def _measure(point: Point, folder: Path) -> Measured:
    import torch

    torch.set_num_threads(1)
    scan = point.scan.load(point.mask, point.coils)
    assert scan.reference is not None
    plan = replace(point.plan, keep_samples=False)
    net = scan.mask.numel() / int(scan.mask.sum())
    began = time.process_time()
    try:
        result = reconstruct(
            scan.kspace, scan.mask, plan=plan, prior=point.prior, slice_indices=scan.slice_indices, device="cpu"
        )
    except Diverged as error:
        image, nan = torch.zeros_like(scan.reference), float("nan")
        found = Measured(point.label, point.scan.name, point.scan.group, net, nan, nan, 0, nan, 0, nan, {}, str(error))
    else:
        image = scan.crop(result.mean)
        values = evaluate(scan.reference, image)
        std = float(scan.crop(result.std).square().mean().sqrt() / scan.reference.max())
        seconds = max(0.0, time.process_time() - began - result.stages["prepare"])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found = Measured(
            point.label, point.scan.name, point.scan.group, net, values["psnr"], values["ssim"], result.nfe, seconds,
            peak, std, result.config,
        )  # fmt: skip
    target = _kept(point, folder)
    np.savez(target.with_suffix(".npz"), image=image[0].numpy(), reference=scan.reference[0].numpy())
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(found), indent=1))
    partial.replace(target)
    return found
