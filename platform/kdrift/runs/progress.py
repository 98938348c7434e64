"""How far a run has come: a live line on a terminal, elsewhere a plain line now and then, both in one format."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

FIRST_S = 5.0
"""The first plain line comes after this many seconds: a shorter run has only its last one."""
INTERVAL_S = 30.0
"""Seconds between plain lines."""
BAR_WIDTH = 24


class Meter:
    """Counts what is done of a run and says it in one line. `progress` makes and shows it."""

    def __init__(self, total: int, unit: str, *, done: int = 0, show: Callable[[str], None] | None = None) -> None:
        self.total, self.done = total, done
        self._unit, self._show_line = unit, show
        self._begun_at = done
        self._fraction: float | None = None
        self._rate: float | None = None
        self._note = ""
        self._said_last = False
        self._began = time.monotonic()
        self._due = self._began + FIRST_S

    def begin(self) -> None:
        """Count time from here on: what came before was of another kind."""
        self._began, self._begun_at = time.monotonic(), self.done

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    @property
    def line(self) -> str:
        """Units done, percentage, rate, time left and the note."""
        rate = self._rate if self._rate is not None else (self.done - self._begun_at) / max(self.elapsed, 1e-9)
        speed = f"{rate:.1f} {self._unit}/s" if rate >= 1 or rate == 0 else f"{60 * rate:.1f} {self._unit}/min"
        part = self._part(self.done) if self._fraction is None else self._fraction
        parts = [f"{self.done}/{self.total} {self._unit}", f"{100 * self._part(self.done):.1f} %", speed]
        left = self._left(part)
        parts += [] if left is None else [f"{format_seconds(left)} left"]
        return "  ".join([*parts, self._note] if self._note else parts)

    def update(
        self, done: int, *, total: int | None = None, fraction: float | None = None, rate: float | None = None,
        note: str | None = None,
    ) -> None:  # fmt: skip
        """Set what is done.

        `fraction` is the part of the work that it is, where units differ; `rate` units a second, where it is known
        better than from the time since the beginning; `note` is put at the end of the line. None leaves each as it was.
        """
        self.done = done
        self.total = self.total if total is None else total
        self._fraction = self._fraction if fraction is None else fraction
        self._rate = self._rate if rate is None else rate
        self._note = self._note if note is None else note
        self.show()

    def show(self) -> None:
        """Print a plain line if it is time for one, or all is done, which is said once."""
        now, last = time.monotonic(), self.done == self.total
        if self._show_line is not None and not (last and self._said_last) and (now >= self._due or last):
            self._due, self._said_last = now + INTERVAL_S, last
            self._show_line(self.line)

    def _part(self, done: int) -> float:
        return done / self.total if self.total else 1.0

    def _left(self, part: float) -> float | None:
        """Return the seconds left, None before anything is done."""
        if self._rate is not None:
            return (self.total - self.done) / self._rate if self._rate > 0 else None
        gained = part - self._part(self._begun_at)
        return self.elapsed * (1 - part) / gained if gained > 0 else None


@contextlib.contextmanager
def progress(
    total: int, unit: str, *, done: int = 0, quiet: bool = False, echo: Callable[[str], None] = print
) -> Iterator[Meter]:
    """Show progress for the block: live on standard error where that is a terminal, else by `echo`, `quiet` not at all.

    `unit` is a plural, like slices; `done` of the `total` were done before. What the run prints meanwhile comes above
    the live line.
    """
    if quiet or not is_live():
        yield Meter(total, unit, done=done, show=None if quiet else echo)
        return
    from rich.console import Console
    from rich.live import Live

    meter = Meter(total, unit, done=done)
    with Live(
        get_renderable=lambda: _render(meter),
        console=Console(stderr=True),
        redirect_stdout=sys.stdout.isatty(),  # else it would go to standard error, not to the file or pipe it is for
        refresh_per_second=4,
    ):
        yield meter


def is_live() -> bool:
    """Whether standard error is a terminal on which a line can be drawn again."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def format_seconds(seconds: float) -> str:
    """Return h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _render(meter: Meter) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    if not meter.total:
        return Text("starting")
    row = Table.grid(padding=(0, 2))
    row.add_row(ProgressBar(total=meter.total, completed=meter.done, width=BAR_WIDTH), Text(meter.line))
    return row
