"""What a command takes, with all processes that it starts: seconds, memory, bytes read and written."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

INTERVAL_S = 0.1
"""How often the processes are looked at; what a process reads between the last look and its end is not counted."""


@dataclass(frozen=True)
class Usage:
    """What a command took."""

    seconds: float
    peak_bytes: int
    """Most memory of all processes at a time, what they share counted once (proportional set size)."""
    read_bytes: int
    """What its processes asked the system to read, from the disk or from its cache (rchar of `/proc/PID/io`): modules
    that Python imports are in it too."""
    written_bytes: int
    output: str
    """What it printed."""


@dataclass
class _Watch:
    """Looks at a process and all below it until told to stop."""

    root: psutil.Process
    over: threading.Event = field(default_factory=threading.Event)
    peak: int = 0
    io: dict[tuple[int, float], tuple[int, int]] = field(default_factory=dict)
    """Bytes read and written by each process, by its id and birth."""

    def look(self) -> None:
        memory = 0
        for process in [self.root, *self._below()]:
            try:
                key = process.pid, process.create_time()
                counters = process.io_counters()
                self.io[key] = counters.read_chars, counters.write_chars
                memory += process.memory_full_info().pss
            except psutil.Error:  # it ended while it was looked at
                continue
        self.peak = max(self.peak, memory)

    def run(self) -> None:
        while not self.over.wait(INTERVAL_S):
            self.look()

    def _below(self) -> list[psutil.Process]:
        try:
            found: list[psutil.Process] = self.root.children(recursive=True)
        except psutil.Error:
            return []
        return found


def measured(command: Sequence[str]) -> Usage:
    """Run a command; raise RuntimeError with the end of what it said where it fails."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watch = _Watch(psutil.Process(process.pid))
    thread = threading.Thread(target=watch.run)
    thread.start()
    try:
        output, _ = process.communicate()
    finally:
        watch.over.set()
        thread.join()
    seconds = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}: {output[-2000:]}")
    read, written = (sum(each[i] for each in watch.io.values()) for i in range(2))
    return Usage(seconds, watch.peak, read, written, output)
