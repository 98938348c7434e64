"""Progress of a training: rank 0 writes a small file once a second, the driver shows it.

A file in the output folder, which all nodes share anyway, needs no further process and can be read by anyone.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kdrift.runs.files import read_json
from kdrift.runs.progress import Meter
from kdrift.training.workers import told


class ProgressWriter:
    """Give images, loss and speed to `write` at most once a second; the loss is smoothed over about 50 steps."""

    def __init__(
        self, write: Callable[[dict[str, Any]], None], start: int, workers: Sequence[dict[str, Any]] = ()
    ) -> None:
        self._write, self._start, self._loss, self._written = write, start, 0.0, 0.0
        self._workers = list(workers)
        self._steps = 0

    def __call__(self, images: int, loss: float, images_per_second: float) -> None:
        """Take note of one step."""
        self._steps += 1
        self._loss += (loss - self._loss) / min(self._steps, 50)
        if time.monotonic() - self._written >= 1:
            self._written = time.monotonic()
            values: dict[str, Any] = {"images": images, "loss": self._loss, "images_per_second": images_per_second}
            self._write(values | {"start": self._start, "workers": self._workers, "pid": os.getpid()})


@contextlib.contextmanager
def watching(path: Path, meter: Meter, echo: Callable[[str], None]) -> Iterator[None]:
    """Show the progress file on a meter during the block; say when a worker was lost, and what workers note."""
    done = threading.Event()

    def watch() -> None:
        attempt, count, noted = None, 0, 0
        while not done.wait(1.0):
            values = read_json(path)
            if not values:
                continue
            if attempt not in (None, values["pid"]):
                now = len(values["workers"])
                why = "a worker was lost" if now <= count else f"there is room for {now} workers"
                echo(f"{why}: training goes on from image {values['start']} with {now} worker(s)")
            if attempt != values["pid"]:
                for worker in values["workers"]:
                    echo(told(worker))
                noted = 0
            for note in values["notes"][noted:]:
                echo(f"note: {note}")
            noted = len(values["notes"])
            attempt, count = values["pid"], len(values["workers"])
            meter.update(values["images"], rate=values["images_per_second"], note=f"loss {values['loss']:.4f}")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
