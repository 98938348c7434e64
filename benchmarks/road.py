"""The whole road on a cluster, by submitted jobs alone: convert, train, tune, batch-reconstruct, evaluate; then serve.

    python -m benchmarks.road [--out DIR] [--images N]

A real Ray cluster of two nodes of one CPU each, on this machine; every job is a `kdrift VERB --submit` that is printed,
with its log and its time. Then a service answers over HTTP with the prior that was trained. The first step that
fails ends the road with status 1. What was started is stopped; --out (default: runs/road) is made anew.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from benchmarks.local_cluster import LocalCluster, local_cluster
from benchmarks.over_http import free_port, reconstruct, service
from kdrift.data.phantom import phantom_images
from kdrift.recon.request import MaskRequest
from kdrift.runs.config import to_dict
from kdrift.runs.tracking import default_uri, ui_command

REPOSITORY = Path(__file__).resolve().parents[1]
MASK = MaskRequest("equispaced", acceleration=4.0, acs_fraction=0.12)
PLAN = {"num_samples": 4, "seed": 1, "settings": {"num_steps": 10}, "precision": "float32"}


def jobs(out: Path, images: int) -> list[tuple[str, list[str]]]:
    """Return title and command of each job in order; all paths are the cluster's."""
    scans, heads, prior, uri = out / "scans.zarr", out / "heads.zarr", out / "train" / "prior", default_uri(out)
    train = {
        "data.stores": [str(heads)], "data.include": ["head*"], "data.validation": ["head04*"], "name": "road",
        "total_images": images, "checkpoint.every_images": max(images // 4, 8),
        "monitoring.validate_every_images": max(images // 2, 8),
    }  # fmt: skip
    tune = {
        "data.sources": [str(scans)], "data.volumes": ["scan03"], "data.slices": [1, 3], "data.slices_per_volume": 2,
        "settings.num_steps": 10, "num_trials": 4, "grace_slices": 2, "name": "road-tune", "prior": str(prior),
    }  # fmt: skip
    data = {"store": str(scans), "volumes": ["scan01", "scan02"], "slices": [1, 4], "prior": str(prior)}
    batch = data | {"out": str(out / "batch"), "mask": to_dict(MASK), "plan": PLAN}
    methods = {"zero_filled": {"method": "zero_filled"}, "annealed": PLAN,
               "cg_sense": {"method": "cg_sense", "settings": {"weight": 0.01}}}  # fmt: skip
    masks = {"equispaced4": to_dict(MASK), "gaussian6": {"kind": "gaussian2d", "acceleration": 6.0, "acs_lines": 16}}
    table = data | {"out": str(out / "evaluate"), "methods": methods, "masks": masks, "name": "road-evaluate"}
    convert = {"sources": [str(out / "scans")], "store": str(scans)}
    tracked = ["--tracking-uri", uri]
    return [
        ("multi-coil phantoms to a store", ["convert", "--config", _write(out, "convert", convert)]),
        ("magnitude volumes to another", ["convert", str(out / "heads"), "--store", str(heads)]),
        (
            "a short training on two workers",
            [
                "train",
                "--config",
                "configs/train/tiny.yaml",
                "--out",
                str(out / "train"),
                "--workers",
                "2",
                *tracked,
                *_sets(train),
            ],
        ),
        (
            "four trials of the default method",
            ["tune", "--config", "configs/tune/annealed.yaml", "--out", str(out / "tune"), *tracked, *_sets(tune)],
        ),
        ("two volumes by a pool of actors", ["reconstruct", "--config", _write(out, "reconstruct", batch)]),
        ("methods x masks", ["evaluate", "--config", _write(out, "evaluate", table), *tracked]),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Go the road; return 0, or 1 at the first step that fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.road", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "runs" / "road", help="folder (default: runs/road)")
    parser.add_argument("--images", type=int, default=800, metavar="N", help="training images (default: 800)")
    args = parser.parse_args(arguments)
    out, began = args.out.resolve(), time.monotonic()
    shutil.rmtree(out, ignore_errors=True)
    prepare(out)
    os.environ["KDRIFT_PRESETS"] = str(out / "presets")  # what is tuned here is nobody's default
    try:
        with local_cluster([1, 1]) as cluster:
            print(f"a Ray cluster of two nodes, dashboard {cluster.dashboard} ({time.monotonic() - began:.0f} s)")
            for number, (title, command) in enumerate(jobs(out, args.images), 1):
                submit(cluster, f"road-{number}-{command[0]}", title, command)
        over_http(out)
    except (RuntimeError, OSError) as error:
        print(f"road: {error}", file=sys.stderr)
        return 1
    print(f"\nruns:  {ui_command(default_uri(out))}")
    print(f"look:  {out}/batch/scan01/panel.png, {out}/evaluate/table.md, {out}/service/panel.png")
    print(f"the road took {time.monotonic() - began:.0f} s")
    return 0


def prepare(out: Path) -> None:
    """Write three scans in the fastMRI layout and four magnitude volumes, all simulated."""
    (out / "heads").mkdir(parents=True)
    for number in range(1, 4):
        options = ["--slices", "5", "--size", "96", "--coils", "4", "--seed", str(number)]
        _run(["phantom", "--out", str(_folder(out / "scans") / f"scan{number:02d}.h5"), *options], None)
    for number in range(1, 5):
        np.save(out / "heads" / f"head{number:02d}.npy", phantom_images(8, 96, 96, seed=100 + number))


def submit(cluster: LocalCluster, name: str, title: str, command: list[str]) -> None:
    """Run one command as a job; raises RuntimeError unless it returns 0."""
    print(f"\n== {title}", flush=True)
    began = time.monotonic()
    _run([*command, "--submit", cluster.dashboard, "--job-name", name], cluster.environment)
    print(f"({time.monotonic() - began:.0f} s)", flush=True)


def over_http(out: Path) -> None:
    """Reconstruct one scan by the service and compare it with the batch job's answer to the same request."""
    print("\n== the same over HTTP", flush=True)
    plan = {key: value for key, value in PLAN.items() if key != "settings"}
    options = [f"mask.{key}={value}" for key, value in to_dict(MASK).items() if value is not None and key != "released"]
    options += [f"plan.{key}={value}" for key, value in plan.items()]
    options += ["plan.settings.num_steps=10", "slices=[1,4]"]
    arguments = ["--host", "127.0.0.1", "--prior", str(out / "train" / "prior"), "--storage", str(out / "service-jobs")]
    with service(arguments, free_port()) as base:
        reconstruct(base, out / "scans" / "scan01.h5", out / "service", options)
    with (
        h5py.File(out / "batch" / "scan01" / "reconstruction.h5") as a,
        h5py.File(out / "service" / "reconstruction.h5") as b,
    ):
        for name in ("reconstruction", "std"):
            difference = float(np.abs(a[name][:] - b[name][:]).max() / np.abs(a[name][:]).max())
            print(f"{name}: batch job and service differ by {difference:.1e} of the largest value")
            if difference > 1e-5:
                raise RuntimeError(f"{name} of the batch job and of the service differ")


def _run(arguments: list[str], environment: dict[str, str] | None) -> None:
    print(f"$ {shlex.join(['kdrift', *arguments])}", flush=True)
    status = subprocess.run([sys.executable, "-m", "kdrift", *arguments], cwd=REPOSITORY, env=environment).returncode
    if status:
        raise RuntimeError(f"kdrift {arguments[0]} returned {status}")


def _sets(values: dict[str, object]) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]


def _write(out: Path, name: str, values: dict[str, object]) -> str:
    path = _folder(out / "configs") / f"{name}.yaml"
    path.write_text(json.dumps(values, indent=1) + "\n")  # JSON is YAML
    return str(path)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


if __name__ == "__main__":
    sys.exit(main())
