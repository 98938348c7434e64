"""Waits for changes of jobs: one look at the table for all who wait, a few times a second."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable

from kdrift_serve.job_table import JobTable, StateLost
from kdrift_serve.jobs import ACTIVE

LOOK_S = 0.25
Seen = tuple[str, float]
"""State of a job, and when it last changed; ("gone", 0) where there is none any more."""


class Watch:
    """Looks at the table while anybody waits."""

    def __init__(self, table: JobTable) -> None:
        self._table = table
        self._asked: Counter[str] = Counter()
        self._seen: dict[str, Seen] = {}
        self._looked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def end(self, job_id: str, seconds: float) -> None:
        """Return when a job has ended, or the time is over."""
        await self._until(job_id, lambda seen: seen[0] not in ACTIVE, seconds)

    async def change(self, job_id: str, since: float, seconds: float) -> None:
        """Return when a job has changed after `since` (its own `changed`), or the time is over."""
        await self._until(job_id, lambda seen: seen[1] > since or seen[0] == "gone", seconds)

    async def _until(self, job_id: str, wanted: Callable[[Seen], bool], seconds: float) -> None:
        self._asked[job_id] += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(seconds):
                while job_id not in self._seen or not wanted(self._seen[job_id]):
                    await self._looked.wait()
        except TimeoutError:
            pass
        finally:
            self._asked[job_id] -= 1
            if not self._asked[job_id]:
                del self._asked[job_id]
                self._seen.pop(job_id, None)

    async def _look(self) -> None:
        while self._asked:
            with contextlib.suppress(StateLost):
                found = await asyncio.to_thread(self._table.changes, list(self._asked))
                before, self._seen = self._seen, {job_id: found.get(job_id, ("gone", 0.0)) for job_id in self._asked}
                if self._seen != before:
                    self._looked.set()
                    self._looked = asyncio.Event()
            await asyncio.sleep(LOOK_S)
