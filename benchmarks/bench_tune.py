"""Searches timed, and what they find compared on a patient that they never saw.

    python -m benchmarks.bench_tune [--quick] [--json FILE]

Patient 09 is searched on, patient 12 is reported on, both simulated at 128 x 128 (KDRIFT_DATA, default
data/ as `kdrift fetch-data` makes it). 32 trials of `annealed` by PSNR and by held-out k-space, 32 of the hybrid at
N = 50. Everything is in runs/bench_tune; the presets of the user are neither used nor changed. A search that was
stopped goes on.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.held_out import REPOSITORY, simulate
from benchmarks.table import Row, main
from kdrift.measures.metrics import METRICS
from kdrift.methods import METHODS
from kdrift.methods.presets import Preset
from kdrift.recon.acquisition import load_acquisition
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct
from kdrift.runs.config import load_config, to_dict
from kdrift.tuning.search import TuneResult, tune
from kdrift.tuning.tune_config import TuneConfig

OUT = Path("runs/bench_tune")
COMMAND = "python -m benchmarks.bench_tune"
REPORTED = {"study1_T2W_sim": (18, 26), "study1_FLAIR_sim": (20, 28)}
"""Volumes of patient 12 and slices of each."""


def search(config: TuneConfig, folder: Path, name: str, quick: bool) -> tuple[TuneResult[Preset], float]:
    """Run one search and return it with its minutes; none starts from what another found."""
    os.environ["KDRIFT_PRESETS"] = str(folder / name / "presets")
    data = replace(config.data, sources=[str(folder / "patient09.zarr")])
    if quick:
        config = replace(config, num_trials=4)
        data = replace(data, slices_per_volume=2)
    result = tune(replace(config, name=name, data=data), folder / name, resume=True)
    return result, result.seconds / 60


def reported(folder: Path, config: TuneConfig, preset: Preset, quick: bool, samples: int) -> float:
    """Return the mean PSNR of a preset over slices of patient 12, undersampled as in the search."""
    found = []
    for volume, (first, last) in REPORTED.items():
        for index in (first,) if quick else range(first, last, 4):
            scan = load_acquisition(config.data.of(f"{folder}/patient12.zarr/{volume}", slices=(index, index + 1)))
            assert scan.reference is not None
            plan = Plan(config.method, preset, num_samples=samples)
            result = reconstruct(scan.kspace, scan.mask, plan=plan, slice_indices=scan.slice_indices)
            found.append(METRICS["psnr"].function(scan.reference, scan.crop(result.mean)))
    return float(np.mean(found))


def named(method: str, name: str, **settings: Any) -> Preset:
    """Return a preset of the table with some settings changed."""
    return Preset(method, {**to_dict(METHODS[method].presets[name]), **settings}, name)


def row(name: str, value: float, unit: str, baseline: float | None, ratio: float | None, target: str) -> Row:
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "baseline": baseline,
        "ratio": ratio,
        "target": target,
        "command": COMMAND,
    }


def run(quick: bool = False) -> list[Row]:
    """Run the searches and the comparisons."""
    folder = OUT / ("quick" if quick else "full")
    folder.mkdir(parents=True, exist_ok=True)
    for patient, names in (("patient09", ["study2_FLAIR"]), ("patient12", ["study1_T2W", "study1_FLAIR"])):
        if not (folder / f"{patient}.zarr").exists():
            simulate(patient, names, folder / f"{patient}.zarr")
    annealed = load_config(TuneConfig, REPOSITORY / "configs/tune/annealed.yaml")
    heldout = load_config(TuneConfig, REPOSITORY / "configs/tune/annealed_heldout.yaml")
    hybrid = load_config(TuneConfig, REPOSITORY / "configs/tune/score_mri_hybrid.yaml")
    by_psnr, minutes = search(annealed, folder, "annealed-psnr", quick)
    trials = len(by_psnr.trials)
    rows = [row(f"{trials} trials of annealed by PSNR", minutes, "min", 15.0, minutes / 15, "< 15 min")]
    by_heldout, minutes = search(heldout, folder, "annealed-heldout", quick)
    rows.append(row(f"{trials} trials of annealed by held-out k-space", minutes, "min", None, None, ""))
    steps = annealed.settings["num_steps"]
    untuned = reported(folder, annealed, named("annealed", "tuned", num_steps=steps), quick, 4)
    first = reported(folder, annealed, by_psnr.winner, quick, 4)
    second = reported(folder, annealed, by_heldout.winner, quick, 4)
    rows += [
        row("annealed, patient 12: found by PSNR against the shipped preset", first, "dB", untuned, None, "above"),
        row("annealed, patient 12: by held-out against by PSNR", second, "dB", first, None, "within 0.3 dB"),
    ]
    by_psnr, minutes = search(hybrid, folder, "hybrid-psnr", quick)
    rows.append(row(f"{trials} trials of the hybrid, N = 50", minutes, "min", 30.0, minutes / 30, "< 30 min"))
    paper = reported(folder, hybrid, named(hybrid.method, "paper", num_steps=50), quick, 1)
    found = reported(folder, hybrid, by_psnr.winner, quick, 1)
    rows.append(row("hybrid, patient 12: tuned against paper at N = 50", found, "dB", paper, None, "above"))
    return rows


if __name__ == "__main__":
    main(run, __doc__ or "")
