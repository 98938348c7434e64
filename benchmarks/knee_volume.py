"""A knee volume on its road: converted, trained on, reconstructed; what each step takes against reading the file.

    python -m benchmarks.knee_volume [--slices N] [--out DIR] [--json FILE]

The volume is synthetic, of fastMRI's layout: 36 slices, 15 coils, 640 x 368, 1.0 GB of k-space. Each step is the
command that a user gives, in a process of its own, watched with all that it starts. Then the plan for fastMRI's 973
training volumes on 64 GPUs, and what saturates first. `--slices 2` shows in a few minutes that it runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.knee_scan import write_scan
from benchmarks.process_tree import Usage, measured
from benchmarks.table import machine
from kdrift.runs.files import folder_bytes

REPOSITORY = Path(__file__).resolve().parents[1]
SLICES, VOLUMES, TRAINING_SLICES = 36, 973, 34_742
"""Slices of a volume; volumes and slices of fastMRI's knee training set (Zbontar et al. 2018)."""
BARE = "import h5py, sys\nwith h5py.File(sys.argv[1]) as f:\n  for i in range(len(f['kspace'])): f['kspace'][i]"
IMPORTS = "import h5py, torch, zarr"
PLANNED = ("vp", "edm")
"""Configurations `fastmri_knee_*` that are planned: the score of a paper, scaled by slice; kdrift's own, by volume."""


def steps(out: Path) -> dict[str, list[str]]:
    """Return the commands by what they are called; paths lie below `out`."""
    scan, images, kspace = out / "scans" / "knee.h5", out / "images.zarr", out / "kspace.zarr"
    kdrift = [sys.executable, "-m", "kdrift"]
    batch = {
        "store": str(kspace), "out": str(out / "batch"), "pool": {"actors": 1},
        "mask": {"kind": "equispaced", "acceleration": 4.0, "acs_fraction": 0.08},
        "plan": {"method": "cg_sense", "settings": {"max_iter": 10}},
    }  # fmt: skip
    (out / "batch.yaml").write_text(yaml.safe_dump(batch))
    training = [
        f"data.stores=[{images}]", "total_images=160", "batch_size=8", "data.augment_phase=measured",
        "data.normalise=slice", "monitoring.num_samples=0", "checkpoint.every_images=80",
    ]  # fmt: skip
    convert = [*kdrift, "convert", str(scan), "--workers", "1", "--quiet", "--store"]
    return {
        "Python's modules alone": [sys.executable, "-c", IMPORTS],
        "bare reading of the file, h5py": [sys.executable, "-c", BARE, str(scan)],
        "to complex images, float16": [*convert, str(images), "--complex-images", "--precision", "float16"],
        "to a store of k-space": [*convert, str(kspace)],
        "160 training images, 20 steps": [
            *kdrift, "train", "--config", "tiny", "--out", str(out / "train"), "--workers", "1", "--quiet",
            *(word for each in training for word in ("--set", each)),
        ],
        "batch reconstruction, CG-SENSE of 10 iterations": [
            *kdrift, "reconstruct", "--config", str(out / "batch.yaml"), "--quiet",
        ],
    }  # fmt: skip


def run(out: Path, slices: int) -> dict[str, Any]:
    """Go through all steps; return what each took, and the plans."""
    shutil.rmtree(out, ignore_errors=True)
    scan = write_scan(out / "scans" / "knee.h5", slices=slices)
    size = scan.stat().st_size
    print(f"{scan}: {slices} slices, {size / 1e6:.0f} MB\n")
    print("| step | seconds | peak memory | read | of the file | written |\n|---|---:|---:|---:|---:|---:|")
    rows = []
    for name, command in steps(out).items():
        row = _row(name, measured(command), size)
        rows.append(row)
        print(
            f"| {name} | {row['seconds']:.1f} | {row['peak_mb']:.0f} MB | {row['read_mb']:.0f} MB |"
            f" {row['of_the_file']:.2f} | {row['written_mb']:.0f} MB |",
            flush=True,
        )
    stored = {name: folder_bytes(out / f"{name}.zarr") for name in ("images", "kspace")}
    print(f"\nstores: images {stored['images'] / 1e6:.1f} MB, k-space {stored['kspace'] / 1e6:.1f} MB")
    plans = {name: _plan(f"fastmri_knee_{name}") for name in PLANNED}
    return {"machine": machine(), "slices": slices, "file_bytes": size, "steps": rows, "stored": stored, "plans": plans}


def _row(name: str, usage: Usage, size: int) -> dict[str, Any]:
    read = usage.read_bytes
    return {
        "step": name, "seconds": usage.seconds, "peak_mb": usage.peak_bytes / 1e6, "read_mb": read / 1e6,
        "of_the_file": read / size, "written_mb": usage.written_bytes / 1e6,
    }  # fmt: skip


def _plan(config: str) -> dict[str, Any]:
    """Return the plan of a training on all volumes, and print it."""
    known = ["--precision", "float16", "--volumes", str(VOLUMES), "--slices", str(TRAINING_SLICES)]
    words = ["plan", config, "--cluster", "h200_64", "--set", "batch_size=64", *known]
    print(f"\nkdrift {' '.join(words)}\n{measured([sys.executable, '-m', 'kdrift', *words]).output}", end="")
    found: dict[str, Any] = json.loads(measured([sys.executable, "-m", "kdrift", *words, "--json"]).output)
    return {name: found[name] for name in ("limits", "saturates", "hours", "data_gib", "gib_a_gpu")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it and write the figures; return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.knee_volume", description=__doc__.partition("\n")[0])
    parser.add_argument("--slices", type=int, default=SLICES, metavar="N", help=f"slices (default: {SLICES})")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "runs" / "knee_volume", help="folder, made anew")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    args = parser.parse_args(arguments)
    found = run(args.out.resolve(), args.slices)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
