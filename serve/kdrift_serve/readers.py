"""Reads strangers' files in processes of their own: asked from here, done in `kdrift_serve.reading`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import math
import os
import signal
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdrift.runs.config import parse, to_dict
from kdrift_serve.job_table import FULL, DiskFull
from kdrift_serve.reading import ANSWER, Reading

logger = logging.getLogger("ray.serve")
LONGEST_ANSWER = 1 << 20
GONE = -99
"""The status of a child whose parent is gone."""


class Unreadable(ValueError):
    """Data that cannot be used, and the sentence that says why."""


class _Gone(Unreadable):
    """The process that parses is gone, perhaps for another request."""


@dataclass(frozen=True)
class Found:
    """What was read."""

    slices: list[int]
    """Numbers of the slices in their volume."""
    coils: int
    shape: list[int]
    """Rows and columns of k-space."""
    sampling: str
    notes: list[str]

    @property
    def pixels(self) -> int:
        """Positions of a slice."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Inspected:
    """What a file holds, by its header and one slice, and what is proposed to be done with it."""

    slices: int
    coils: int
    shape: list[int]
    """Rows and columns of k-space, readout oversampling removed."""
    image_shape: list[int]
    """Rows and columns of its images."""
    undersampled: bool
    """Whether it was measured with gaps: then nothing can be drawn of it, and it is reconstructed as it is."""
    net_acceleration: float
    """Positions that could be measured, divided by those that were."""
    sampling: str
    """How it was measured, in words."""
    has_reference: bool
    """Whether an image of full data is stored in it."""
    simulated: bool
    stated: dict[str, str]
    """What its header says of itself: acquisition, source_format, field_T."""
    notes: list[str]
    """What was guessed, left out or is doubtful."""
    mask: dict[str, Any] | None
    """Undersampling that is proposed, as a request takes it; null: none."""
    why: str
    """Why, in a sentence."""


@dataclass
class _Asked:
    pid: asyncio.Future[int]
    status: asyncio.Future[int]


@dataclass
class Readers:
    """The parsing process and its children, at most `most` at a time."""

    most: int = 2
    _process: asyncio.subprocess.Process | None = None
    _listening: asyncio.Task[None] | None = None
    _asked: dict[int, _Asked] = field(default_factory=dict)
    _count: int = 0
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self._places = asyncio.Semaphore(self.most)

    async def read(self, reading: Reading) -> Found:
        """Read what is asked for into its folder. Raises `Unreadable`, and `DiskFull`; a call that is cancelled ends
        its process."""
        return parse(Found, await self._ask(reading), "answer")

    async def inspect(self, reading: Reading) -> Inspected:
        """Tell what a file holds. Raises as `read` does."""
        return parse(Inspected, await self._ask(replace(reading, inspect=True)), "answer")

    async def _ask(self, reading: Reading) -> dict[str, Any]:
        async with self._places:
            try:
                answer = await self._answer(reading)
            except _Gone:  # with what another request had in it
                answer = await self._answer(reading)
        if "error" in answer:
            if "fault" in answer:
                logger.error("a file was not read: %s", answer["fault"])
            raise Unreadable(answer["error"])
        if "fault" in answer:
            if answer.get("errno") in (*FULL, errno.EFBIG):
                raise DiskFull("the disk of the service has no room for the data of this request")
            raise Unreadable(f"{reading.shown} cannot be read: {answer['fault']}")
        return answer

    async def _answer(self, reading: Reading) -> dict[str, Any]:
        process = await self._running()
        loop = asyncio.get_running_loop()
        self._count += 1
        number, asked = self._count, _Asked(loop.create_future(), loop.create_future())
        self._asked[number] = asked
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"number": number, "reading": to_dict(reading)}).encode() + b"\n")
            status = await asyncio.wait_for(asyncio.shield(asked.status), reading.seconds)
        except TimeoutError:
            raise Unreadable(f"{reading.shown}: reading it took longer than {reading.seconds:g} s") from None
        finally:
            if not asked.status.done() and asked.pid.done():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(asked.pid.result(), signal.SIGKILL)
            del self._asked[number]
        if status == GONE:
            logger.error("the process that reads files is gone")
            raise _Gone(f"{reading.shown} cannot be read: its parser broke down")
        path = Path(reading.out) / ANSWER
        if status != 0 or not path.is_file():
            logger.error("a process that read a file ended with status %d", status)
            if status == -signal.SIGXCPU:
                raise Unreadable(f"{reading.shown}: reading it took longer than {reading.seconds:g} s")
            raise Unreadable(f"{reading.shown} cannot be read: its parser broke down")
        if path.stat().st_size > LONGEST_ANSWER:
            raise Unreadable(f"{reading.shown}: there is too much to say of it")
        found: dict[str, Any] = json.loads(path.read_text())
        path.unlink()
        return found

    async def _running(self) -> asyncio.subprocess.Process:
        """Return the parsing process; it is started again where it is gone."""
        async with self._starting:
            if self._process is None or self._process.returncode is not None:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "kdrift_serve.reading",
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )  # fmt: skip
                self._listening = asyncio.create_task(self._listen(self._process))
            return self._process

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            said = json.loads(line)
            asked = self._asked.get(said["number"])
            if asked is not None:
                future, value = (asked.pid, said["pid"]) if "pid" in said else (asked.status, said["status"])
                if not future.done():
                    future.set_result(value)
            elif "pid" in said:  # nobody waits for it any more
                with contextlib.suppress(ProcessLookupError):
                    os.kill(said["pid"], signal.SIGKILL)
        if self._process is process:
            self._process = None
        for asked in self._asked.values():
            if not asked.status.done():
                asked.status.set_result(GONE)
        await process.wait()

    async def start(self) -> None:
        """Have the process ready before the first request."""
        await self._running()

    async def stop(self) -> None:
        """End the process and its children."""
        if self._process is not None and self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            await self._process.wait()
