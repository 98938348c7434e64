"""How far a batch has come: a line now and then, or one live line on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from kdrift.runs.progress import format_seconds

INTERVAL_S = 10.0


class Meter:
    """Counts slices and, for the time left, their cost."""

    def __init__(self, slices: int, cost: float, echo: Callable[[str], None]) -> None:
        self._total, self._total_cost, self._echo = slices, cost, echo
        self._cost, self._began, self._shown = 0.0, time.monotonic(), time.monotonic()
        self._live = sys.stderr.isatty()
        self.slices = 0

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def add(self, cost: float) -> None:
        """Count the cost of a finished unit."""
        self._cost += cost

    def slice_done(self) -> None:
        """Count a finished slice."""
        self.slices += 1
        self.show()

    def volume(self, name: str) -> None:
        """Say that a volume is written."""
        self.echo(f"written: {name}/reconstruction.h5 metrics.json panel.png")

    def echo(self, line: str) -> None:
        """Print a line without spoiling the live one."""
        if self._live:
            print(f"\r{'':<78}\r", end="", file=sys.stderr, flush=True)
        self._echo(line)

    def show(self) -> None:
        """Show slices done, rate and time left: at once on a terminal, else every ten seconds and at the end."""
        now = time.monotonic()
        if self._live:
            print(f"\r{self._line():<78}", end="", file=sys.stderr, flush=True)
        elif now - self._shown >= INTERVAL_S or self.slices == self._total:
            self._shown = now
            self._echo(self._line())

    def _line(self) -> str:
        rate = self.slices / max(self.elapsed, 1e-9)
        left = self.elapsed * (self._total_cost - self._cost) / self._cost if self._cost else None
        end = "" if left is None else f"  {format_seconds(left)} left"
        return f"{self.slices}/{self._total} slices  {60 * rate:.1f} slices/min{end}"
