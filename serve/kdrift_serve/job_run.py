"""Jobs on the samplers: their slices, the chains of these, the results; equal work shares calls, and what a sampler
that dies was doing is done again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError, WorkerCrashedError
from ray.serve.exceptions import RequestCancelledError
from ray.serve.handle import DeploymentHandle

from kdrift.prior.network_score import batch_images
from kdrift.recon.chunks import Chunk, ChunkResult
from kdrift.recon.gather import SliceFacts
from kdrift.recon.looks import Look
from kdrift.recon.resolved import ResolvedPlan
from kdrift.recon.slices import SliceData
from kdrift_serve.job_preview import Preview
from kdrift_serve.job_progress import Progress, SliceProgress
from kdrift_serve.job_table import StateLost
from kdrift_serve.jobs import Job
from kdrift_serve.lanes import Lanes, Work
from kdrift_serve.pace import Measured, chunks_a_slice
from kdrift_serve.pieces import Done, Failed, Piece, Prepared, Step
from kdrift_serve.sampler import DeviceFailed, Sampler
from kdrift_serve.serve_config import SamplerConfig

logger = logging.getLogger("ray.serve")
FINISH, CHUNK, PREPARE = 0.0, 1.0, 2.0
"""What a job does first: fewer slices lie prepared that way."""
MENDED_S = 2.0
"""How long work waits before it tries again to use storage that is full or gone."""
SAMPLER_LOST = (RayActorError, ActorUnavailableError, WorkerCrashedError)
"""What Ray raises when the process of a replica has died."""
T = TypeVar("T")


class JobFailed(Exception):
    """A job that has no result, and the sentence that says why."""


class PieceFailed(Exception):
    """A piece of a job that raised what is not its data's fault; `failed` says what."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(f"a sampler raised {failed.error}")
        self.failed = failed


@dataclass
class RunningJob:
    """A job that this service runs."""

    job: Job
    plan: ResolvedPlan
    prior: str
    """Served name of the prior; a classical method does not use it."""
    channels: int
    """Images of a network's batch that a complex image takes."""
    progress: Progress
    shape: tuple[int, ...] = ()
    """Rows and columns of its slices; empty: not known."""
    preview: Preview = field(default_factory=Preview)
    measured: Measured = field(default_factory=Measured)
    task: asyncio.Task[None] | None = None
    cancelled: bool = False


@dataclass
class _Asked:
    """A piece of work for a sampler, and who is told of it."""

    piece: Piece
    data: Any = None
    """The prepared slice, in the store of objects, where chains are to run."""
    began: Callable[[], Awaitable[None]] | None = None
    """Awaited when a sampler has it."""
    told: Callable[[Any], None] | None = None
    """Called with how far it is."""


class JobRuns:
    """Runs jobs on the samplers there are."""

    def __init__(self, samplers: DeploymentHandle[Sampler], config: SamplerConfig, retries: int) -> None:
        self._samplers, self._retries, self._most = samplers, retries, config.most
        self._running = config.replicas
        self._run_pieces = samplers.options(method_name="run", stream=True)
        self._room = batch_images(config.on_accelerator)
        self._lanes = Lanes(self._calls, self._call)
        self._entries = list[RunningJob]()
        self._owner = ray.get_runtime_context().get_actor_name() or ""

    @property
    def work(self) -> tuple[int, int]:
        """How many pieces of work wait for a sampler, and are done by one."""
        return self._lanes.waiting, self._lanes.busy

    @property
    def _calls(self) -> int:
        """How many calls may be made at a time. More than samplers run where more may start: Ray Serve sees by calls
        that wait how many are wanted. Never more than can run: such a call is tried again after a pause that grows."""
        return min(self._most, 2 * self._running)

    def resize(self, running: int) -> None:
        """Say how many samplers run."""
        self._running = max(1, running)
        self._lanes.count = self._calls

    async def run(self, entry: RunningJob, done: Collection[int], began: Callable[[], Awaitable[None]]) -> Done | str:
        """Do the slices of a job that are not in `done`, and write its results; return what it has, or why nothing.

        `began` is awaited once, when it has its first sampler. Raises `JobFailed` where samplers die again and again.
        """
        self._entries.append(entry)
        positions = [position for position, index in enumerate(entry.job.slices) if index not in done]
        try:
            await _together([self._slice(entry, position, began) for position in positions])
            seconds = time.time() - (entry.job.started or time.time())
            finish = partial(self._samplers.finish.remote, entry.job, entry.plan, seconds)
            found: Done | str = await self._again(entry, FINISH, finish)
            return found
        finally:
            self._entries.remove(entry)

    async def _slice(self, entry: RunningJob, position: int, began: Callable[[], Awaitable[None]]) -> None:
        job, plan, index = entry.job, entry.plan, entry.job.slices[position]

        async def begin() -> None:
            if entry.progress.began is None:
                entry.progress.began = time.monotonic()
                await began()

        asked = _Asked(Piece(plan, entry.prior, job.id, position), began=begin)
        prepared: Prepared | str = await self._again(entry, PREPARE + position, asked, plan.fits_maps)
        facts: SliceFacts | str = prepared if isinstance(prepared, str) else prepared[1]
        results = list[ChunkResult]()
        if not isinstance(prepared, str):
            found = await self._chunks(entry, position, prepared[0])
            said = [each for each in found if isinstance(each, str)]
            if said:
                facts = said[0]
            else:
                results = [each for each in found if not isinstance(each, str)]
        await self._again(entry, FINISH, partial(self._samplers.finish_slice.remote, job.id, index, facts, results))
        entry.progress.running.pop(index, None)
        entry.preview.end(index)
        entry.progress.slices_done += 1
        entry.measured.num_slices += 1

    async def _chunks(self, entry: RunningJob, position: int, data: SliceData) -> list[ChunkResult | str]:
        """Run all chains of a slice."""
        plan, coils, index = entry.plan, len(data.kspace), data.index
        here = entry.progress.running[index] = SliceProgress()
        left = sum(each.progress.num_slices - each.progress.slices_done for each in self._entries)
        chunks = plan.split(coils, chunks_a_slice(self._running, left))
        here.costs = {chunk: plan.evaluations(coils, chunk) for chunk in chunks}
        entry.progress.evaluations = entry.progress.evaluations or here.total
        chunks.sort(key=lambda chunk: -here.costs[chunk])  # the longest first, so that samplers end together
        entry.preview.begin(index, chunks)
        entry.measured.evaluations += here.total
        entry.measured.pixels = data.mask.numel()
        shared = await asyncio.to_thread(ray.put, data)

        def told(chunk: Chunk, done: int, steps: int, look: Look | None) -> None:
            here.shares[chunk] = done / steps
            if look is not None:
                entry.preview.take(index, look)

        def asked(chunk: Chunk) -> _Asked:
            piece = Piece(plan, entry.prior, entry.job.id, position, chunk)
            return _Asked(piece, shared, told=lambda step: told(chunk, *step))

        shares = plan.method.samples and not plan.method.through_network
        chains = {chunk: plan.chains(coils, chunk) if shares else 0 for chunk in chunks}
        return await _together([self._again(entry, CHUNK, asked(chunk), chains[chunk]) for chunk in chunks])

    async def _again(
        self, entry: RunningJob, rank: float, call: _Asked | Callable[[], Awaitable[Any]], chains: int = 0
    ) -> Any:
        """Do the work of a replica in turn, again on another one where it died: seeded chains give the same answer.

        `chains` ask the network together; where these are fewer than its batch holds, equal work shares the call, but
        not after the first try: one piece may have ended the sampler, or taken the memory, of all.
        """
        images, label = chains * entry.channels, None
        if isinstance(call, _Asked) and entry.shape and 0 < images < self._room:
            part = call.piece.chunk and call.piece.chunk.part
            label = entry.prior, entry.shape, entry.plan.plan.precision, str(entry.plan.calibrated_settings), part
        for attempt in range(self._retries + 1):
            try:
                found = await patiently(entry, self._once, entry, rank, call, label, images)
                if not isinstance(found, Failed):
                    return found
            except (RayError, RequestCancelledError) as error:
                if _is_cancelled():  # what the call says then is of no account
                    raise asyncio.CancelledError from None
                cause = cause_of(error)
                if not isinstance(error, SAMPLER_LOST) and not isinstance(cause, DeviceFailed):
                    raise
                logger.warning("a sampler was lost (%s: %s), attempt %d", type(cause).__name__, cause, attempt + 1)
                await asyncio.sleep(0.2 * 2**attempt)
            label = None
        times = self._retries + 1
        raise JobFailed(f"the sampler died {times} times at this job: is it too large for its memory?")

    async def _once(
        self, entry: RunningJob, rank: float, call: _Asked | Callable[[], Awaitable[Any]], label: Any, images: int
    ) -> Any:
        """Do the work of a replica in turn. `Failed` is returned where it had too little memory, which it shared."""
        work = Work(entry.job.key, (entry.job.created, rank), call, label, images, self._room)
        found = await self._lanes.do(work)
        if isinstance(found, Failed):
            if found.memory and work.shared > 1:
                return found
            raise PieceFailed(found)
        kind = "chunks" if rank == CHUNK else "slices"
        setattr(entry.measured, kind, getattr(entry.measured, kind) + work.seconds)
        return found

    async def _call(self, works: list[Work]) -> None:
        """Have a sampler do work: pieces together, anything else by itself."""
        if not isinstance(works[0].call, _Asked):
            works[0].settle(await works[0].call())
            return
        asked: list[_Asked] = [work.call for work in works]
        await asyncio.gather(*[each.began() for each in asked if each.began is not None])
        data = [each.data for each in asked]
        response: Any = self._run_pieces.remote([each.piece for each in asked], self._owner, *data)
        try:
            async for number, event in response:
                if not isinstance(event, Step):
                    works[number].settle(event)
                elif (told := asked[number].told) is not None:
                    told(event)
        except BaseException:
            response.cancel()
            raise


async def patiently(entry: RunningJob, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Do the work; where storage is full or gone, say so in the progress of the job and wait until it is not."""
    while True:
        try:
            found = await work(*arguments)
        except Exception as error:
            cause = cause_of(error)
            why = error.failed.storage if isinstance(error, PieceFailed) else ""
            if isinstance(cause, StateLost):
                why = str(cause)
            if _is_cancelled() or not why:
                raise
            logger.error("job %s waits: %s", entry.job.id, why)
            entry.progress.waits_for = why
            await asyncio.sleep(MENDED_S)
        else:
            entry.progress.waits_for = ""
            return found


async def _together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Do work at once; the first error ends all of it."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def cause_of(error: BaseException) -> BaseException:
    """Return what went wrong in another process, where that is what an error says."""
    return error.cause if isinstance(error, RayTaskError) and error.cause else error


def name_of(error: Exception) -> str:
    """Return the class of what went wrong, here or in another process."""
    return error.failed.error if isinstance(error, PieceFailed) else type(cause_of(error)).__name__
