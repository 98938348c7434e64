"""Progress of a run: rank 0 writes a small file once a second, the driver shows it.

A file in the output folder, which all nodes share anyway, needs no further process and can be read by anyone.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdrift.runs.files import read_json, write_json

_PLAIN_INTERVAL_S = 30.0


class ProgressWriter:
    """Write images, loss and speed at most once a second; the loss is smoothed over about 50 steps."""

    def __init__(self, path: Path, start: int) -> None:
        self._path, self._start, self._loss, self._written = path, start, 0.0, 0.0
        self._steps = 0

    def __call__(self, images: int, loss: float, images_per_second: float) -> None:
        """Take note of one step."""
        self._steps += 1
        self._loss += (loss - self._loss) / min(self._steps, 50)
        if time.monotonic() - self._written >= 1:
            self._written = time.monotonic()
            values = {"images": images, "loss": self._loss, "images_per_second": images_per_second}
            write_json(self._path, {**values, "start": self._start, "pid": os.getpid()}, durable=False)


def format_progress(values: dict[str, Any], total: int) -> str:
    """Return one line: images, percentage, loss, speed, time left."""
    images, rate = values["images"], values["images_per_second"]
    return (
        f"{images}/{total} images  {100 * images / total:.1f} %  loss {values['loss']:.4f}  "
        f"{rate:.1f} images/s  {format_seconds((total - images) / max(rate, 1e-9))} left"
    )


def format_seconds(seconds: float) -> str:
    """Return h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def watch(path: Path, total: int, done: threading.Event, echo: Callable[[str], None]) -> None:
    """Show the progress file until `done`: a live line on a terminal, otherwise a plain line every 30 s."""
    if sys.stderr.isatty():
        _watch_live(path, total, done)
        return
    shown, attempt = 0.0, None
    while not done.wait(1.0):
        values = read_json(path)
        if not values:
            continue
        if attempt not in (None, values["pid"]):
            echo(f"a worker was lost: training goes on from image {values['start']}")
            shown = 0.0
        attempt = values["pid"]
        if time.monotonic() - shown >= _PLAIN_INTERVAL_S:
            shown = time.monotonic()
            echo(format_progress(values, total))


def _watch_live(path: Path, total: int, done: threading.Event) -> None:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar

    with Live("starting the workers", console=Console(stderr=True), refresh_per_second=4) as live:
        while not done.wait(0.5):
            values = read_json(path)
            if values:
                bar = ProgressBar(total=total, completed=values["images"], width=60)
                live.update(Group(bar, format_progress(values, total)))
