"""What a search leaves: the table of its trials, the preset with its provenance, and the front of quality and cost."""

from __future__ import annotations

import csv
import datetime
import io
from pathlib import Path
from typing import Any

from kdrift import __version__
from kdrift.methods.presets import Preset, save_preset, write_preset
from kdrift.prior.bundle import Prior
from kdrift.runs.config import to_dict
from kdrift.runs.files import whole_file, write_json, write_text
from kdrift.tuning.journal import TrialRecord
from kdrift.tuning.objective import Case, describe_data
from kdrift.tuning.tune_config import TuneConfig

FIGURES = ("psnr", "ssim", "nmse", "heldout", "seconds", "nfe", "slices")


def choose_best(config: TuneConfig, trials: list[TrialRecord]) -> TrialRecord:
    """Return the best of the trials that saw all slices. Raises OSError where none did."""
    whole = [trial for trial in trials if trial.state == "complete"]
    if not whole:
        raise OSError("no trial finished: see the reasons above or in the trials' MLflow runs")
    return (max if config.higher_is_better else min)(whole, key=lambda trial: trial.value)


def pareto_front(config: TuneConfig, trials: list[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that none other beats in quality and seconds both, fastest first."""
    sign = 1.0 if config.higher_is_better else -1.0
    whole = [trial for trial in trials if trial.state == "complete"]
    front: list[TrialRecord] = []
    for trial in sorted(whole, key=lambda t: (t.rows[-1]["seconds"], -sign * t.value)):
        if not front or sign * trial.value > sign * front[-1].value:
            front.append(trial)
    return front


def make_preset(
    config: TuneConfig, start: Preset, prior: Prior | None, cases: list[Case], trials: list[TrialRecord],
    best: TrialRecord, run_id: str,
) -> Preset:  # fmt: skip
    """Return the winner as a preset that says how it was found; names only, no folders."""
    first = trials[0]
    provenance: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "kdrift": __version__,
        "objective": config.objective,
        "figures": _figures(best),
        "started_from": {"preset": start.name, "settings": first.settings, "figures": _figures(first)},
        "search": {
            "name": config.name,
            "trials": len(trials),
            "best": best.number,
            "seed": config.seed,
            "num_samples": config.num_samples,
            "space": {name: _given(to_dict(axis)) for name, axis in config.space.items()},
        },
        "data": describe_data(config, cases),
        "prior": {"name": prior.name, "sha256": prior.sha256} if prior else None,
        "mlflow_run": run_id,
    }
    if config.objective == "heldout":
        provenance["search"]["heldout_fraction"] = config.heldout_fraction
    settings = {**start.settings, **config.settings, **best.settings}
    return Preset(config.method, settings, config.name, provenance)


def leave_results(config: TuneConfig, preset: Preset, trials: list[TrialRecord], out: Path) -> list[Path]:
    """Write all files, each whole or not at all; return where the preset lies and, with `pareto`, the front."""
    kept = save_preset(preset)
    written = [*([kept] if kept else []), write_preset(preset, out / f"{preset.method}.yaml")]
    write_text(out / "trials.csv", table(config, trials))
    if config.pareto:
        front = pareto_front(config, trials)
        rows = [{"trial": t.number, **t.settings, **_figures(t)} for t in front]
        write_text(out / "front.csv", table(config, front))
        write_json(out / "front.json", rows)
        with whole_file(out / "front.png") as temporary:
            _draw(temporary, config, trials, front)
        written += [out / "front.csv", out / "front.json", out / "front.png"]
    return written


def table(config: TuneConfig, trials: list[TrialRecord]) -> str:
    """Return the trials as CSV: number, how it ended, settings, figures."""
    names = [name for name in FIGURES if any(name in trial.rows[-1] for trial in trials if trial.rows)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["trial", "state", *config.space, *names])
    for trial in trials:
        figures = trial.rows[-1] if trial.rows else {}
        settings = [trial.settings.get(name) for name in config.space]
        writer.writerow([trial.number, trial.state, *settings, *(figures.get(name, "") for name in names)])
    return stream.getvalue()


def _figures(trial: TrialRecord) -> dict[str, float]:
    return {name: float(trial.rows[-1][name]) for name in FIGURES if trial.rows and name in trial.rows[-1]}


def _given(axis: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in axis.items() if value is not None and value is not False}


def _draw(path: Path, config: TuneConfig, trials: list[TrialRecord], front: list[TrialRecord]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    whole = [trial for trial in trials if trial.state == "complete"]
    axes.scatter([t.rows[-1]["seconds"] for t in whole], [t.value for t in whole], color="0.7", label="trials")
    ends = [t.rows[-1]["seconds"] for t in front], [t.value for t in front]
    axes.plot(*ends, "o-", color="C0", label="front")
    for trial in front:
        place = (trial.rows[-1]["seconds"], trial.value)
        axes.annotate(str(trial.number), place, xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set(xlabel="seconds a slice", ylabel=config.objective, title=f"{config.name}: {config.method}")
    axes.legend()
    figure.savefig(path, format="png")
