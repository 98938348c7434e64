"""Seconds of work that an accelerator does on its own: measured on the device, waited for once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch


def now(device: torch.device) -> float:
    """Return a clock's seconds once all that was asked of a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Stopwatch:
    """Adds up what happens in `measure` blocks; a GPU's part is marked in its own queue, so that no block waits."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: list[tuple[Any, Any]] = []

    @contextlib.contextmanager
    def measure(self) -> Iterator[None]:
        """Measure the block."""
        began = self._mark()
        yield
        self._spans.append((began, self._mark()))

    @property
    def seconds(self) -> float:
        """Sum of all blocks; waits for the device."""
        if self._device.type != "cuda":
            return float(sum(end - began for began, end in self._spans))
        torch.cuda.synchronize(self._device)
        return float(sum(began.elapsed_time(end) for began, end in self._spans)) / 1000

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
