"""What the driver notes of each trial while Ray Tune runs: journal, MLflow child runs, one line of progress a trial."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Callback

from kdrift.runs.outbox import Outbox
from kdrift.runs.progress import Meter
from kdrift.runs.tracking import KIND
from kdrift.tuning.journal import Journal, State, TrialRecord
from kdrift.tuning.search_config import SearchConfig, Subject


class Recorder(Callback):
    """Keeps the journal and the child runs of one search; all of it on the driver."""

    def __init__(
        self, config: SearchConfig[Any], subject: Subject[Any], journal: Journal, outbox: Outbox, artifacts: Path,
        meter: Meter, echo: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._config, self._journal, self._outbox, self._artifacts = config, journal, outbox, artifacts
        self._unit, self._length, self._figures = subject.unit, subject.length, ("value", *subject.figures)
        self._meter, self._echo = meter, echo
        self._numbers: dict[str, int] = {}
        # first come the start, if it was never begun, and unfinished trials, with the numbers that they have
        first = journal.lacks_start + sum(not trial.is_done for trial in journal.trials.values())
        self._before = max(journal.trials, default=1) - first
        self._starts = journal.lacks_start

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray copies callbacks for a restoration of its own, which kdrift's `--resume` does without."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Open or take up the trial's run; Ray calls this again when a trial starts again after a failure."""
        settings = dict(trial.config)
        record = self._journal.unfinished(settings)
        if trial.trial_id in self._numbers:
            record = self._record(trial)
        # by the order in which they were suggested, which Ray's tag begins with: the first is where the search starts
        # from, also where another one is up sooner
        place = int(trial.experiment_tag.partition("_")[0])
        new = 1 if self._starts and place == 1 else self._before + place
        number = new if record is None else record.number
        self._numbers[trial.trial_id] = number
        record = self._journal.start(number, settings)
        self._outbox.create(record.key, f"{self._config.name}-{number:03d}", settings, self._artifacts)
        self._outbox.tag(KIND, "trial", record.key)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Note what a trial has reported."""
        record = self._record(trial)
        row = {name: float(result[name]) for name in self._figures if name in result}
        self._journal.report(record.number, {**row, "pid": result["pid"]})
        self._outbox.metrics(row, int(row[self._unit]), record.key)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Close the run of a trial that came to its end or was stopped early."""
        record = self._record(trial)
        seen = int(record.rows[-1][self._unit])
        state: State = "complete" if seen >= self._length else "stopped"
        reason = "" if state == "complete" else f"by ASHA after {seen} of {self._length} {self._unit}"
        self._outbox.finish("FINISHED", reason, record.key)
        self._journal.end(record.number, state)  # last: until then a driver that was killed does the trial again
        self._show(record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Close the run of a trial that failed more often than it may."""
        record = self._record(trial)
        lines = str(trial.get_error()).strip().splitlines() if trial.get_error() else ["its worker was lost"]
        self._outbox.finish("FAILED", lines[-1], record.key)
        self._journal.end(record.number, "failed")
        self._echo(f"trial {record.number} failed: {lines[-1]}")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that a trial is started again."""
        self._echo(f"trial {self._record(trial).number} lost its worker or failed: it starts again")

    def _record(self, trial: Any) -> TrialRecord:
        return self._journal.trials[self._numbers[trial.trial_id]]

    def _show(self, record: TrialRecord) -> None:
        config, done = self._config, [trial for trial in self._journal.trials.values() if trial.is_done]
        whole = [trial.value for trial in done if trial.came_through]
        best = "none yet"
        if whole:
            found = (max if config.higher_is_better else min)(whole)
            best = f"{found:.5g}"
            # the curve of the search, on its own run
            self._outbox.metrics({f"best_{config.measure}": found}, len(done))
        shown = ", ".join(f"{name} {_short(value)}" for name, value in record.settings.items())
        stopped = f" (stopped after {record.rows[-1][self._unit]:.0f} {self._unit})"
        after = " (diverged)" if record.diverged else "" if record.state == "complete" else stopped
        self._echo(f"trial {record.number}: {config.measure} {record.value:.5g}{after}  {shown}")
        self._meter.update(len(done), note=f"best {config.measure} {best}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
