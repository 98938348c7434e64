"""Who is next: work of all jobs waits in one queue for the samplers there are, fairly between the keys that sent it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

Rank = tuple[float, ...]
"""What is done first of two pieces of work of a key: the one of lower rank."""


@dataclass
class _Waiting:
    key: str
    rank: Rank
    number: int
    turn: asyncio.Future[None]


@dataclass
class Lanes:
    """Turns on `count` samplers. Whoever's key has the fewest at work is next, then whose key waits the longest."""

    count: int
    _waiting: list[_Waiting] = field(default_factory=list)
    _busy: Counter[str] = field(default_factory=Counter)
    _served: dict[str, int] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    @contextlib.asynccontextmanager
    async def turn(self, key: str, rank: Rank) -> AsyncIterator[None]:
        """Wait for a sampler, and have it for the block."""
        mine = _Waiting(key, rank, next(self._numbers), asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        self._hand_out()
        try:
            await mine.turn
        except BaseException:
            if mine in self._waiting:
                self._waiting.remove(mine)
            else:  # it came in the same moment
                self._give_back(key)
            raise
        try:
            yield
        finally:
            self._give_back(key)

    @property
    def waiting(self) -> int:
        """How many pieces of work wait."""
        return len(self._waiting)

    @property
    def busy(self) -> int:
        """How many samplers have work."""
        return self._busy.total()

    def _give_back(self, key: str) -> None:
        self._busy[key] -= 1
        self._hand_out()

    def _hand_out(self) -> None:
        while self._busy.total() < self.count:
            ready = [each for each in self._waiting if not each.turn.done()]  # others are being cancelled
            if not ready:
                return
            chosen = min(
                ready,
                key=lambda each: (self._busy[each.key], self._served.get(each.key, -1), each.rank, each.number),
            )
            self._waiting.remove(chosen)
            self._busy[chosen.key] += 1
            self._served[chosen.key] = next(self._numbers)
            chosen.turn.set_result(None)
