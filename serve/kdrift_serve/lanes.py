"""Who is next: work of all jobs waits in one queue for the samplers there are, fairly between the keys that sent it;
equal work that waits at the same time is done by one call."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

Rank = tuple[float, ...]
"""What is done first of two pieces of work of a key: the one of lower rank."""
GATHER_S = 0.02
"""How long work waits for its like where it alone does not fill a call."""


@dataclass(eq=False)
class Work:
    """A piece of work for a sampler."""

    key: str
    rank: Rank
    call: Any
    """What is to be done; `Lanes.run` knows."""
    share: Hashable = None
    """Work of an equal one may be done by the same call; None: by a call of its own."""
    images: int = 1
    """Images that it brings to a network's batch."""
    room: int = 1
    """Images that a call may have."""
    done: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """What comes of it."""
    seconds: float = 0.0
    """Its part of the time of the call that did it."""
    shared: int = 0
    """How many pieces of work that call did."""
    number: int = 0
    asked: float = 0.0
    began: float = 0.0

    def settle(self, found: Any) -> None:
        """Say what has come of it: a value, or an exception. It may have been given up in the meantime."""
        if not self.done.done():
            self.seconds = (time.monotonic() - self.began) / self.shared
            self.done.set_exception(found) if isinstance(found, BaseException) else self.done.set_result(found)


class Lanes:
    """Calls of at most `count` samplers at a time.

    Whoever's key has the least work at samplers is next, then whose key waits the longest. `run` does the work of one
    call and settles each piece of it; what it raises is what came of those that are left.
    """

    def __init__(self, count: int, run: Callable[[list[Work]], Awaitable[None]]) -> None:
        self._count, self._run = count, run
        self._waiting = list[Work]()
        self._calls = dict[asyncio.Task[None], list[Work]]()
        self._busy = Counter[str]()
        self._served = dict[str, int]()
        self._numbers = itertools.count()

    async def do(self, work: Work) -> Any:
        """Have work done in turn and return what comes of it. A call ends early once all of its work is given up."""
        work.number, work.asked = next(self._numbers), time.monotonic()
        self._waiting.append(work)
        self._hand_out()
        try:
            return await work.done
        except asyncio.CancelledError:
            if work in self._waiting:
                self._waiting.remove(work)
            for task, works in self._calls.items():
                if work in works and all(each.done.done() for each in works):
                    task.cancel()
            raise

    @property
    def count(self) -> int:
        """Calls at a time."""
        return self._count

    @count.setter
    def count(self, count: int) -> None:
        self._count = count
        self._hand_out()

    @property
    def waiting(self) -> int:
        """How many pieces of work wait."""
        return len(self._waiting)

    @property
    def busy(self) -> int:
        """How many pieces of work samplers have."""
        return self._busy.total()

    def _hand_out(self) -> None:
        while len(self._calls) < self._count:
            now = time.monotonic()
            # others are being cancelled
            left = [each for each in self._waiting if not each.done.done()]
            ready = [each for each in left if each.share is None or each.images >= each.room
                     or now - each.asked >= GATHER_S or self._together(each, left)[1]]  # fmt: skip
            if not ready:
                if left:
                    soonest = min(each.asked for each in left) + GATHER_S - now
                    asyncio.get_running_loop().call_later(max(0.001, soonest), self._hand_out)
                return
            works, _ = self._together(min(ready, key=self._order), left)
            for each in works:
                self._waiting.remove(each)
                self._busy[each.key] += 1
                self._served[each.key] = next(self._numbers)
                each.began, each.shared = now, len(works)
            task = asyncio.get_running_loop().create_task(self._call(works))
            self._calls[task] = works

    def _order(self, work: Work) -> tuple[Any, ...]:
        return self._busy[work.key], self._served.get(work.key, -1), work.rank, work.number

    def _together(self, first: Work, left: list[Work]) -> tuple[list[Work], bool]:
        """Return the work of one call with `first`, spread over the samplers that are free, and whether it is full."""
        if first.share is None:
            return [first], True
        alike = sorted((each for each in left if each.share == first.share and each is not first), key=self._order)
        total = first.images + sum(each.images for each in alike)
        room = min(first.room, max(first.images, -(-total // (self._count - len(self._calls)))))
        works, images, keys = [first], first.images, Counter({first.key: 1})
        while alike:
            # one of each key in turn
            nearest = min(alike, key=lambda each: (keys[each.key], self._order(each)))
            alike.remove(nearest)
            if images + nearest.images <= room:
                works.append(nearest)
                images, keys[nearest.key] = images + nearest.images, keys[nearest.key] + 1
        return works, images >= first.room

    async def _call(self, works: list[Work]) -> None:
        found: BaseException = RuntimeError("a sampler ended without a result")
        try:
            await self._run(works)
        except asyncio.CancelledError:  # all is given up, or the service stops
            for each in works:
                each.done.cancel()
        except Exception as error:
            found = error
        for each in works:
            self._busy[each.key] -= 1
            each.settle(found)
        task = asyncio.current_task()
        assert task is not None
        del self._calls[task]
        self._hand_out()
