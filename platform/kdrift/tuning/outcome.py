"""What a search leaves beside its winner: the table of its trials, and the front of quality and cost."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdrift.runs.files import whole_file, write_json, write_text
from kdrift.tuning.journal import TrialRecord
from kdrift.tuning.search_config import SearchConfig


def choose_best(config: SearchConfig[Any], trials: list[TrialRecord]) -> TrialRecord:
    """Return the best of the trials that were not stopped. Raises OSError where none came to its end."""
    whole = [trial for trial in trials if trial.came_through]
    if not whole:
        raise OSError("no trial finished: see the reasons above or in the trials' MLflow runs")
    return (max if config.higher_is_better else min)(whole, key=lambda trial: trial.value)


def pareto_front(config: SearchConfig[Any], trials: list[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that none other beats in quality and seconds both, fastest first."""
    sign = 1.0 if config.higher_is_better else -1.0
    whole = [trial for trial in trials if trial.came_through]
    front: list[TrialRecord] = []
    for trial in sorted(whole, key=lambda t: (t.rows[-1]["seconds"], -sign * t.value)):
        if not front or sign * trial.value > sign * front[-1].value:
            front.append(trial)
    return front


def leave_tables(config: SearchConfig[Any], figures: Sequence[str], trials: list[TrialRecord], out: Path) -> list[Path]:
    """Write the table of trials and, with `pareto`, the front, each file whole or not at all; return the front's."""
    write_text(out / "trials.csv", table(config, figures, trials))
    if not config.pareto:
        return []
    front = pareto_front(config, trials)
    rows = [{"trial": t.number, **t.settings, **figures_of(t, figures)} for t in front]
    write_text(out / "front.csv", table(config, figures, front))
    write_json(out / "front.json", rows)
    with whole_file(out / "front.png") as temporary:
        _draw(temporary, config, trials, front)
    return [out / "front.csv", out / "front.json", out / "front.png"]


def table(config: SearchConfig[Any], figures: Sequence[str], trials: list[TrialRecord]) -> str:
    """Return the trials as CSV: number, how it ended, settings, figures."""
    names = [name for name in figures if any(name in trial.rows[-1] for trial in trials if trial.rows)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["trial", "state", *config.space, *names])
    for trial in trials:
        row = trial.rows[-1] if trial.rows else {}
        settings = [trial.settings.get(name) for name in config.space]
        writer.writerow([trial.number, trial.state, *settings, *(row.get(name, "") for name in names)])
    return stream.getvalue()


def description(config: SearchConfig[Any], headline: str, figures: Sequence[str], trials: list[TrialRecord]) -> str:
    """Return what a search found as Markdown: where it started, its best trial beside the first, how trials ended."""
    best = choose_best(config, trials)
    names = list(figures_of(best, figures))
    rows = [["", *config.space, *names], ["---"] * (1 + len(config.space) + len(names))]
    for what, trial in (("start", trials[0]), ("best", best)):
        found = {**trial.settings, **figures_of(trial, figures)}
        values = [found.get(name, "") for name in (*config.space, *names)]
        shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        rows.append([f"{what}: trial {trial.number}", *shown])
    states = [trial.state for trial in trials]
    ended = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    better = "higher" if config.higher_is_better else "lower"
    return "\n".join((
        *(f"| {' | '.join(row)} |" for row in rows), "",
        f"Searched: {', '.join(config.space)}, by {config.measure} ({better} is better). Started from {headline}."
        f" Trials: {ended}; each is a child run.", "",
        f"`best_{config.measure}` is the best value so far, after so many trials. psnr is in dB.",
    ))  # fmt: skip


def figures_of(trial: TrialRecord, figures: Sequence[str]) -> dict[str, float]:
    """Return the last figures of a trial, by name."""
    return {name: float(trial.rows[-1][name]) for name in figures if trial.rows and name in trial.rows[-1]}


def _draw(path: Path, config: SearchConfig[Any], trials: list[TrialRecord], front: list[TrialRecord]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    whole = [trial for trial in trials if trial.came_through]
    axes.scatter([t.rows[-1]["seconds"] for t in whole], [t.value for t in whole], color="0.7", label="trials")
    ends = [t.rows[-1]["seconds"] for t in front], [t.value for t in front]
    axes.plot(*ends, "o-", color="C0", label="front")
    for trial in front:
        place = (trial.rows[-1]["seconds"], trial.value)
        axes.annotate(str(trial.number), place, xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set(xlabel="seconds", ylabel=config.measure, title=config.name)
    axes.legend()
    figure.savefig(path, format="png")
