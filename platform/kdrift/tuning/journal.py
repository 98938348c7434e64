"""The journal of a search: one line an event, so that a killed driver loses nothing and does nothing twice.

Everything else that a search leaves (tables, front, preset) is made from it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kdrift.runs.files import whole_lines

State = Literal["unfinished", "complete", "stopped", "failed"]


@dataclass
class TrialRecord:
    """One trial: its settings and its means after each slice."""

    number: int
    settings: dict[str, Any]
    """Values of the settings that are searched."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Figures that it reported, the last as they stand."""
    state: State = "unfinished"
    """`complete`: came to its end; `stopped`: early, by ASHA."""

    @property
    def key(self) -> str:
        """Its MLflow run, for the outbox."""
        return f"trial-{self.number}"

    @property
    def value(self) -> float:
        """The objective, as it was reported last."""
        return float(self.rows[-1]["value"])

    @property
    def is_done(self) -> bool:
        """Whether it needs not run (again)."""
        return self.state in ("complete", "stopped")

    @property
    def diverged(self) -> bool:
        """Whether its settings came to nothing."""
        return bool(self.rows and self.rows[-1].get("diverged"))

    @property
    def came_through(self) -> bool:
        """Whether it can be chosen."""
        return self.state == "complete" and not self.diverged


class Journal:
    """The trials of a search, kept in a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.trials: dict[int, TrialRecord] = {}
        if not path.is_file():
            return
        for line in whole_lines(path):
            self._apply(json.loads(line))

    @property
    def lacks_start(self) -> bool:
        """Whether trial 1, which is of the settings that the search starts from, was never begun."""
        return 1 not in self.trials

    def start(self, number: int, settings: dict[str, Any]) -> TrialRecord:
        """Begin a trial, or one again that did not finish: what it reported before is dropped."""
        self._write({"event": "start", "number": number, "settings": settings})
        return self.trials[number]

    def report(self, number: int, row: dict[str, Any]) -> None:
        """Take note of what a trial reported."""
        self._write({"event": "report", "number": number, "row": row})

    def end(self, number: int, state: State) -> None:
        """Take note of how a trial ended."""
        self._write({"event": "end", "number": number, "state": state})

    def unfinished(self, settings: dict[str, Any]) -> TrialRecord | None:
        """Return the trial of these settings that is yet to finish."""
        waiting = (trial for trial in self.trials.values() if not trial.is_done and trial.settings == settings)
        return next(waiting, None)

    def _write(self, event: dict[str, Any]) -> None:
        with self._path.open("ab") as stream:
            stream.write(json.dumps(event).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        self._apply(event)

    def _apply(self, event: dict[str, Any]) -> None:
        number = event["number"]
        if event["event"] == "start":
            self.trials[number] = TrialRecord(number, event["settings"])
        elif event["event"] == "report":
            self.trials[number].rows.append(event["row"])
        else:
            self.trials[number].state = event["state"]
