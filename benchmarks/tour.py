"""The whole road on data made here: phantom, store, training, tuning, registry, service, reconstruction, table.

    make tour            # or: python -m benchmarks.tour [--out DIR] [--prior NAME|PATH] [--images N]

Every step is a `kdrift` command, which is printed, run in a process of its own (so whatever it started, Ray
included, ends with it) and timed. The first step that fails ends the tour with its exit status. All results
are in --out, whose folders of an earlier tour are replaced.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdrift.data.phantom import phantom_images
from kdrift.recon.plan import DEFAULT_PRIOR
from kdrift.runs.tracking import default_uri, ui_command

REPOSITORY = Path(__file__).resolve().parents[1]
MADE = (
    "source", "store.zarr", "train", "tune", "presets", "zero_filled", "cg_sense", "posterior", "service", "registry",
)  # fmt: skip
"""What a tour writes into its folder and replaces when it is run again."""
MASK = ("--mask", "equispaced", "--acceleration", "4", "--acs-fraction", "0.08", "--slices", "4:5")
REQUEST = (
    "mask.kind=equispaced", "mask.acceleration=4", "mask.acs_fraction=0.08", "slices=[4,5]", "plan.num_samples=4",
    "plan.settings.num_steps=20",
)  # fmt: skip
"""The same, as the service is asked, and 4 samples of 20 steps."""
SHOWN = {"zero_filled": "zero-filled", "cg_sense": "CG-SENSE, default weight", "posterior": "posterior mean"}
"""Folder of each reconstruction and its name in the table."""


@dataclass(frozen=True)
class Step:
    """One command of the tour."""

    title: str
    arguments: tuple[str, ...]
    module: str = "kdrift"

    @property
    def command(self) -> str:
        """What a user would type."""
        typed = ["kdrift"] if self.module == "kdrift" else ["python", "-m", self.module]
        return shlex.join([*typed, *self.arguments])


def steps(out: str, prior: str | None = None, images: int | None = None) -> list[Step]:
    """Return the commands in order.

    `out` is the folder as it is to be shown; no `prior` means the shipped one, no `images` the number of
    training images in tiny.yaml.
    """
    store = f"{out}/store.zarr"
    scan = f"{store}/phantom"
    settings = [
        f"data.stores=[{store}]",
        "data.include=[head*]",
        "data.validation=[head05*]",
        "name=tour-phantom",
    ]
    if images:
        settings.append(f"total_images={images}")
    registry = f"sqlite:///{out}/registry/mlflow.db"
    tuning = (f"data.sources=[{store}]", "data.volumes=[tuning]", "num_trials=4", "data.slices=[2,6]",
              "data.slices_per_volume=2", "settings.num_steps=10", "grace_slices=2", "name=tour-tuning")  # fmt: skip
    return [
        Step(
            "a multi-coil phantom in the fastMRI layout (simulated)",
            ("phantom", "--out", f"{out}/source/phantom.h5", "--size", "256", "--coils", "8", "--seed", "1"),
        ),
        Step(
            "another, to tune settings on",
            ("phantom", "--out", f"{out}/source/tuning.h5", "--size", "128", "--coils", "4", "--seed", "2"),
        ),
        Step(
            "k-space and magnitude volumes to a store, on Ray",
            ("convert", f"{out}/source", "--store", store),
        ),
        Step("what the store holds of the scan", ("info", scan)),
        Step(
            "a short training on the magnitude phantoms, on Ray Train, logged to MLflow",
            (
                "train",
                "--config",
                "configs/train/tiny.yaml",
                "--out",
                f"{out}/train",
                *(part for setting in settings for part in ("--set", setting)),
            ),
        ),
        Step(
            "zero-filled reconstruction of the undersampled phantom",
            ("reconstruct", scan, "--out", f"{out}/zero_filled", *MASK, "--method", "zero_filled"),
        ),
        Step("CG-SENSE", ("reconstruct", scan, "--out", f"{out}/cg_sense", *MASK, "--method", "cg_sense")),
        Step(
            "four trials of Ray Tune on the other phantom; the best settings become a preset",
            (
                "tune",
                "--config",
                "configs/tune/annealed.yaml",
                "--out",
                f"{out}/tune",
                *(part for setting in tuning for part in ("--set", setting)),
            ),
        ),
        Step("which is used by default from now on", ("presets", "use", "annealed", "tour-tuning")),
        Step(
            f"{prior or 'the shipped prior'} to an MLflow registry",
            ("register", prior or DEFAULT_PRIOR, "--tracking-uri", registry, "--name", "demo"),
        ),
        Step("where it becomes the champion", ("promote", "demo", "--tracking-uri", registry)),
        Step(
            "the service, and the posterior mean and uncertainty over HTTP, with that prior and those settings",
            (
                f"{out}/source/phantom.h5",
                "--out",
                f"{out}/posterior",
                "--storage",
                f"{out}/service",
                "--prior",
                "models:/demo@champion",
                "--tracking-uri",
                registry,
                *(part for option in REQUEST for part in ("--option", option)),
            ),
            "benchmarks.over_http",
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tour; return 0, or the exit status of the step that failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tour", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "tour", help="folder (default: tour)")
    parser.add_argument("--prior", metavar="NAME|PATH", help="prior to reconstruct with (default: the shipped one)")
    parser.add_argument("--images", type=int, metavar="N", help="training images (default: those of tiny.yaml)")
    args = parser.parse_args(arguments)
    out = args.out.resolve()
    started = time.monotonic()
    try:
        prepare(out)
    except OSError as error:
        print(f"tour: cannot write to {out}: {error}", file=sys.stderr)
        return 1
    shown = os.path.relpath(out, REPOSITORY) if out.is_relative_to(REPOSITORY) else str(out)
    prior = str(Path(args.prior).resolve()) if args.prior and Path(args.prior).is_dir() else args.prior
    os.environ["KDRIFT_PRESETS"] = str(out / "presets")  # what the tour tunes stays in the tour
    todo = steps(shown, prior, args.images)
    for number, step in enumerate(todo, 1):
        print(f"\n[{number}/{len(todo)}] {step.title}\n$ {step.command}", flush=True)
        began = time.monotonic()
        status = run(step)
        print(f"({time.monotonic() - began:.0f} s)", flush=True)
        if status:
            print(f"tour: step {number} failed with status {status}", file=sys.stderr)
            return status if status > 0 else 1
    print(f"\n{table(out)}\n{where_to_look(shown, out)}")
    print(f"tour finished in {time.monotonic() - started:.0f} s")
    return 0


def run(step: Step) -> int:
    """Run one command to its end; Ctrl-C reaches it too, then wait until it has stopped what it started."""
    with subprocess.Popen([sys.executable, "-m", step.module, *step.arguments], cwd=REPOSITORY) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            return 130


def prepare(out: Path) -> None:
    """Clear what an earlier tour left and write the magnitude volumes: five heads of 12 slices."""
    for name in MADE:
        if (out / name).exists():
            shutil.rmtree(out / name)
    (out / "source").mkdir(parents=True)
    for head in range(1, 6):
        images = phantom_images(12, 128, 128, seed=100 + head)
        np.save(out / "source" / f"head{head:02d}.npy", images)
    print(f"wrote 5 simulated magnitude volumes, {out}/source/head*.npy")


def table(out: Path) -> str:
    """Return the table of the reconstructions, from their metrics.json."""
    reports = {name: json.loads((out / name / "metrics.json").read_text()) for name in SHOWN}
    posterior: dict[str, Any] = reports["posterior"]
    lines = [
        f"Phantom (simulated), slice {posterior['slices'][0]}; {posterior['sampling']}",
        f"{'':<26}{'PSNR dB':>9}{'SSIM':>9}{'NFE':>6}{'seconds':>9}",
    ]
    for name, report in reports.items():
        figures = report["metrics"]
        lines.append(
            f"{SHOWN[name]:<26}{figures['psnr']:>9.2f}{figures['ssim']:>9.4f}"
            f"{report['nfe'] or '-':>6}{report['seconds']:>9.1f}"
        )
    correlation = posterior["std_error_rank_correlation"]
    lines.append(f"rank correlation of the std map with the error: {correlation:.2f}")
    return "\n".join(lines) + "\n"


def where_to_look(shown: str, out: Path) -> str:
    """Return the list of what was made."""
    return "\n".join(
        [
            "Where to look:",
            f"  {shown}/posterior/panel.png         zero-filled, mean, std, error, reference",
            f"  {shown}/posterior/reconstruction.h5 mean, std and mask; the figures are in metrics.json",
            f"  {shown}/store.zarr                  kdrift info {shown}/store.zarr",
            f"  {shown}/train/prior                 the prior trained here (too small to be of use)",
            f"  {shown}/presets/annealed.yaml       the settings found, and on what",
            f"  training curves and samples:        {ui_command(default_uri(out / 'train'))}",
            f"  trials of the search:               {ui_command(default_uri(out / 'tune'))}",
            "  a page to try it:                   make demo",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
