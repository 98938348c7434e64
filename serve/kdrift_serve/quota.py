"""How often a key may ask, and how many of its requests may wait."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from kdrift_serve.problems import Problem

BURST_S = 10.0
"""Requests of so many seconds may come at once."""


@dataclass
class Quota:
    """What each key may do at one ingress: `a_minute` requests, and `waiting` that wait for the end of a job."""

    a_minute: int
    waiting: int
    clock: Callable[[], float] = time.monotonic
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By key: requests that are left, and when that was."""
    _waiting: Counter[str] = field(default_factory=Counter)

    def take(self, key: str) -> None:
        """Count a request. Raises `Problem` (429) where its key has none left."""
        rate, now = self.a_minute / 60, self.clock()
        most = max(1.0, rate * BURST_S)
        left, then = self._left.get(key, (most, now))
        left = min(most, left + rate * (now - then))
        if left < 1:
            wait = str(max(1, round((1 - left) / rate)))
            text = f"more than {self.a_minute} requests a minute: try again in {wait} s"
            raise Problem(429, text, {"Retry-After": wait})
        self._left[key] = left - 1, now

    @contextlib.contextmanager
    def wait(self, key: str) -> Iterator[None]:
        """Count a request that waits, for the block. Raises `Problem` (429) where too many of its key do."""
        self.check(key)
        self._waiting[key] += 1
        try:
            yield
        finally:
            self._waiting[key] -= 1

    def check(self, key: str) -> None:
        """Raise `Problem` (429) where too many requests of a key wait already."""
        if self._waiting[key] >= self.waiting:
            raise Problem(429, f"{self.waiting} requests of this key wait already", {"Retry-After": "10"})
