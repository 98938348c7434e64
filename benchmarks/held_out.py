"""Scans that no shipped prior was trained on, and reconstructions of them measured: what `claims` and
`quality_seconds` are made of.

Simulated: slices of patient 12, and of 09 where asked for (magnitude images), seen through measured coil maps, 8
virtual coils, smooth phase, noise at 30 dB, 128 x 128. Noise-free: the same without noise, as where a measured image is
both what is undersampled and the reference. Real: the 4-coil slice graz_t2_4ch, and two of one coil where asked for, of
whose k-space the central 128 x 128 are taken, so that a thousand steps are minutes. Groups are never averaged together.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from kdrift.cli import main as kdrift
from kdrift.measures.metrics import evaluate
from kdrift.methods import METHODS
from kdrift.prior.bundle import find_prior, read_sums
from kdrift.recon.acquisition import Acquisition, load_acquisition
from kdrift.recon.guard import Diverged
from kdrift.recon.plan import Plan, default_prior, plan_preset
from kdrift.recon.reconstruct import reconstruct
from kdrift.recon.request import AcquisitionRequest, MaskRequest
from kdrift.recon.slices import RawSlice
from kdrift.runs.files import write_json
from kdrift.runs.hardware import worker_environment

REPOSITORY = Path(__file__).resolve().parents[1]
FETCHED = REPOSITORY / "data"
DATA = Path(
    os.environ.get("KDRIFT_DATA", FETCHED if (FETCHED / "kspace").is_dir() else REPOSITORY.parent / "shared" / "data")
)
Group = Literal["simulated", "noise_free", "real"]
GROUPS: tuple[Group, ...] = get_args(Group)
SLICES = {
    "patient12": (("study1_FLAIR", 24), ("study1_T2W", 22), ("study1_T1W", 22)),
    "patient09": (("study2_FLAIR", 20), ("study2_FLAIR", 26)),
}
"""Slices that are taken of each patient, volume and index. Weights are trained on neither; kdrift's presets `tuned` are
chosen on patient 09, of which those rows say less."""
REAL = ("graz_t2_4ch", "larson_t1_sag_1ch", "wastling_t2_1ch")
SIMULATION = ["--coils", "8", "--size", "320x320", "--matrix", "128x128", "--seed", "0"]
SNR_DB: dict[Group, str] = {"simulated": "30", "noise_free": "none"}
MEASURED_MAPS = ["--maps", str(DATA / "coils" / "neonate_head_32ch_128.npy")]
FOUR = MaskRequest("equispaced", acceleration=4, acs_fraction=0.08)


@dataclass(frozen=True)
class Scan:
    """One slice, fully sampled."""

    name: str
    group: Group
    source: str
    index: int = 0

    def load(self, mask: MaskRequest, coils: int | None = None) -> Acquisition:
        """Return it undersampled by `mask`, with fewer virtual coils where `coils` says so."""
        chosen = (self.index, self.index + 1)
        return load_acquisition(AcquisitionRequest(source=self.source, mask=mask, slices=chosen, virtual_coils=coils))


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
    """Processor time of the one thread, a start counted, coil maps and reading not; NaN on a GPU, which is shared."""
    peak_mib: float
    """Largest resident memory of the process; NaN on a GPU."""
    std: float
    """Root mean square of the samples' deviation, over the brightest value of the reference."""
    config: dict[str, Any] = field(default_factory=dict)
    detail: str = ""
    """Why there is no image: all samples diverged."""
    device: str = "CPU"
    """Name of the GPU that sampled."""


def shown(group: str) -> str:
    """Return the name of a group for people."""
    return group.replace("_", "-")


def scans(
    folder: Path, *, groups: tuple[Group, ...] = GROUPS, count: int = 2, patients: tuple[str, ...] = ("patient12",),
    real: tuple[str, ...] = REAL[:1],
) -> list[Scan]:  # fmt: skip
    """Return `count` simulated scans of each patient a group, made in `folder` on first use, and real ones."""
    found = []
    for group in (group for group in groups if group != "real"):
        for patient in patients:
            store = folder / f"{patient}_{group}.zarr"
            for name, index in SLICES[patient][:count]:
                if not (store / f"{name}_sim").exists():
                    simulate(patient, [name], store, [*MEASURED_MAPS, *SIMULATION, "--snr", SNR_DB[group]])
                found.append(Scan(f"{patient} {name} {index}", group, f"{store}/{name}_sim", index))
    if "real" in groups:
        found += [Scan(name, "real", str(_central(DATA / "kspace" / f"{name}.h5", folder))) for name in real]
    return found


def _central(source: Path, folder: Path, size: int = 128) -> Path:
    """Write the central samples of fully sampled k-space into a file of `folder`."""
    target = folder / f"{source.stem}_{size}.npy"
    if not target.exists():
        kspace = load_acquisition(AcquisitionRequest(source=str(source))).kspace
        top, left = ((n - size) // 2 for n in kspace.shape[-2:])
        target.parent.mkdir(parents=True, exist_ok=True)
        np.save(target, kspace[..., top : top + size, left : left + size].numpy())
    return target


def simulate(patient: str, names: list[str], store: Path, options: list[str] = SIMULATION) -> None:
    """Write k-space of a patient's volumes into a store. Raises SystemExit where there are no data."""
    sources = [str(DATA / "brain_nifti" / patient / f"{name}.nii.gz") for name in names]
    if kdrift(["simulate", *sources, "--store", str(store), *options]):
        raise SystemExit(f"no data in {DATA}: kdrift fetch-data ms_brain, or set KDRIFT_DATA")


def measure(points: list[Point], folder: Path, *, workers: int = 2, device: str = "cpu") -> list[Measured]:
    """Reconstruct every point in a process of one thread, `workers` at a time; what `folder` has is not done again.

    On a CPU each has a process of its own, so that time and memory are its own; a GPU is shared, and neither is told.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(worker_environment(1) | {"KDRIFT_PRESETS": ""})
    context = multiprocessing.get_context("spawn")
    missing = [point for point in points if not _kept(point, folder).exists()]
    began = time.monotonic()
    alone = 1 if device == "cpu" else None
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=alone) as pool:
        jobs = {pool.submit(_measure, point, folder, device): point for point in missing}
        for done, job in enumerate(as_completed(jobs), start=1):
            point, found = jobs[job], job.result()
            left = (time.monotonic() - began) * (len(missing) / done - 1)
            shown = found.detail or f"{found.psnr:.2f} dB, {found.ssim:.3f}, nfe {found.nfe}, {found.seconds:.1f} s"
            print(f"{done}/{len(missing)}  {point.scan.name}: {point.label}: {shown}; {left:.0f} s left", flush=True)
    return [Measured(**json.loads(_kept(point, folder).read_text())) for point in points]


def image_of(point: Point, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the measured point's image and its reference, magnitudes `(row, col)`."""
    with np.load(_kept(point, folder).with_suffix(".npz")) as arrays:
        return arrays["image"], arrays["reference"]


def _kept(point: Point, folder: Path) -> Path:
    """The point's file: another one if its preset or the weights of its prior are not what they were."""
    named = {**asdict(point), "scan": {**asdict(point.scan), "source": Path(point.scan.source).name}}
    named["settings"] = plan_preset(point.plan).settings
    if METHODS[point.plan.method].needs_prior:
        named["prior"] = read_sums(find_prior(point.prior or default_prior(point.plan.method)))
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{digest}.json"


def _measure(point: Point, folder: Path, device: str) -> Measured:
    import torch

    torch.set_num_threads(1)
    scan = point.scan.load(point.mask, point.coils)
    assert scan.reference is not None
    net = scan.mask.numel() / int(scan.mask.sum())
    mask = scan.mask.expand(scan.kspace.shape[-2:])
    plan = replace(point.plan, start=None, settings={}, maps="espirit").resolve(point.prior)  # the same for all methods
    smaps = plan.prepare(RawSlice(0, torch.where(mask, scan.kspace[0], 0), mask)).smaps[None]
    name, nan = "CPU" if device == "cpu" else torch.cuda.get_device_name(device), float("nan")
    began = time.process_time()
    try:
        result = reconstruct(
            scan.kspace, scan.mask, plan=point.plan, prior=point.prior, smaps=smaps, slice_indices=scan.slice_indices,
            device=device,
        )  # fmt: skip
    except Diverged as error:
        image, head = torch.zeros_like(scan.reference), (point.label, point.scan.name, point.scan.group, net)
        found = Measured(*head, nan, nan, 0, nan, 0, nan, detail=str(error), device=name)
    else:
        image = scan.crop(result.mean)
        values = evaluate(scan.reference, image)
        std = float(scan.crop(result.std).square().mean().sqrt() / scan.reference.max())
        seconds, peak = nan, nan
        if device == "cpu":
            seconds = time.process_time() - began
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found = Measured(
            point.label, point.scan.name, point.scan.group, net, values["psnr"], values["ssim"], result.nfe, seconds,
            peak, std, result.config, device=name,
        )  # fmt: skip
    target = _kept(point, folder)
    np.savez(target.with_suffix(".npz"), image=image[0].numpy(), reference=scan.reference[0].numpy())
    write_json(target, asdict(found))
    return found
