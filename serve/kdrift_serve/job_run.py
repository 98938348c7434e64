"""One job on the samplers: its slices, their chains, the results; done again where a sampler dies."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError, WorkerCrashedError
from ray.serve.exceptions import RequestCancelledError
from ray.serve.handle import DeploymentHandle

from kdrift.recon.chunks import Chunk, ChunkResult
from kdrift.recon.gather import SliceFacts
from kdrift.recon.resolved import ResolvedPlan
from kdrift.recon.slices import SliceData
from kdrift_serve.job_preview import Preview
from kdrift_serve.job_progress import Progress, SliceProgress
from kdrift_serve.job_table import StateLost
from kdrift_serve.jobs import Job
from kdrift_serve.lanes import Lanes
from kdrift_serve.pace import Measured, chunks_a_slice
from kdrift_serve.sampler import DeviceFailed, Done, Prepared, Sampler

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


@dataclass
class RunningJob:
    """A job that this service runs."""

    job: Job
    plan: ResolvedPlan
    prior: str
    """Served name of the prior; a classical method does not use it."""
    progress: Progress
    preview: Preview = field(default_factory=Preview)
    measured: Measured = field(default_factory=Measured)
    task: asyncio.Task[None] | None = None
    cancelled: bool = False


class JobRuns:
    """Runs jobs on the samplers there are."""

    def __init__(self, samplers: DeploymentHandle[Sampler], replicas: int, retries: int) -> None:
        self._samplers, self._replicas, self._retries = samplers, replicas, retries
        self._chunk_of = samplers.options(method_name="run", stream=True)
        # a call that finds no free replica is tried again after a pause that grows: never make more than can run
        self._lanes = Lanes(replicas)
        self._entries = list[RunningJob]()
        self._owner = ray.get_runtime_context().get_actor_name() or ""

    @property
    def work(self) -> tuple[int, int]:
        """How many pieces of work wait for a sampler, and are done by one."""
        return self._lanes.waiting, self._lanes.busy

    async def run(self, entry: RunningJob, done: Collection[int], began: Callable[[], Awaitable[None]]) -> Done | str:
        """Do the slices of a job that are not in `done`, and write its results; return what it has, or why nothing.

        `began` is awaited once, when it has its first sampler. Raises `JobFailed` where samplers die again and again.
        """
        self._entries.append(entry)
        positions = [position for position, index in enumerate(entry.job.slices) if index not in done]
        try:
            await _together([self._slice(entry, position, began) for position in positions])
            seconds = time.time() - (entry.job.started or time.time())
            finish = self._samplers.finish.remote
            found: Done | str = await self._again(entry, FINISH, finish, entry.job, entry.plan, seconds)
            return found
        finally:
            self._entries.remove(entry)

    async def _slice(self, entry: RunningJob, position: int, began: Callable[[], Awaitable[None]]) -> None:
        job, plan, index = entry.job, entry.plan, entry.job.slices[position]

        async def prepare() -> Prepared | str:
            if entry.progress.began is None:
                entry.progress.began = time.monotonic()
                await began()
            found: Prepared | str = await self._samplers.prepare.remote(plan, entry.prior, job.id, position)
            return found

        prepared = await self._again(entry, PREPARE + position, prepare)
        facts: SliceFacts | str = prepared if isinstance(prepared, str) else prepared[1]
        results = list[ChunkResult]()
        if not isinstance(prepared, str):
            found = await self._chunks(entry, index, prepared[0])
            said = [each for each in found if isinstance(each, str)]
            if said:
                facts = said[0]
            else:
                results = [each for each in found if not isinstance(each, str)]
        await self._again(entry, FINISH, self._samplers.finish_slice.remote, job.id, index, facts, results)
        entry.progress.running.pop(index, None)
        entry.preview.end(index)
        entry.progress.slices_done += 1
        entry.measured.num_slices += 1

    async def _chunks(self, entry: RunningJob, index: int, data: SliceData) -> list[ChunkResult | str]:
        """Run all chains of a slice."""
        plan, coils = entry.plan, len(data.kspace)
        here = entry.progress.running[index] = SliceProgress()
        left = sum(each.progress.num_slices - each.progress.slices_done for each in self._entries)
        chunks = plan.split(coils, chunks_a_slice(self._replicas, left))
        here.costs = {chunk: plan.evaluations(coils, chunk) for chunk in chunks}
        entry.progress.evaluations = entry.progress.evaluations or here.total
        chunks.sort(key=lambda chunk: -here.costs[chunk])  # the longest first, so that samplers end together
        entry.preview.begin(index, chunks)
        entry.measured.evaluations += here.total
        entry.measured.pixels = data.mask.numel()
        shared = await asyncio.to_thread(ray.put, data)
        return await _together(
            [self._again(entry, CHUNK, self._chunk, entry, shared, chunk, index) for chunk in chunks]
        )

    async def _chunk(self, entry: RunningJob, data: Any, chunk: Chunk, index: int) -> ChunkResult | str:
        """Run one chunk of a slice on whichever sampler is free."""
        shares = entry.progress.running[index].shares
        shares[chunk] = 0.0
        response: Any = self._chunk_of.remote(entry.plan, entry.prior, data, chunk, self._owner)
        try:
            async for event in response:
                if isinstance(event, tuple):
                    done, steps, look = event
                    shares[chunk] = done / steps
                    if look is not None:
                        entry.preview.take(index, look)
                else:
                    found: ChunkResult | str = event
                    return found
        except BaseException:
            response.cancel()
            raise
        raise RuntimeError("a sampler ended without a result")

    async def _again(self, entry: RunningJob, rank: float, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Do the work of a replica in turn, again on another one where it died: seeded chains give the same answer."""
        for attempt in range(self._retries + 1):
            try:
                return await patiently(entry, self._turn, entry, rank, work, *arguments)
            except (RayError, RequestCancelledError) as error:
                if _is_cancelled():  # what the call says then is of no account
                    raise asyncio.CancelledError from None
                cause = cause_of(error)
                if not isinstance(error, SAMPLER_LOST) and not isinstance(cause, DeviceFailed):
                    raise
                logger.warning("a sampler was lost (%s: %s), attempt %d", type(cause).__name__, cause, attempt + 1)
            await asyncio.sleep(0.2 * 2**attempt)
        times = self._retries + 1
        raise JobFailed(f"the sampler died {times} times at this job: is it too large for its memory?")

    async def _turn(self, entry: RunningJob, rank: float, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        async with self._lanes.turn(entry.job.key, (entry.job.created, rank)):
            began = time.monotonic()
            found = await work(*arguments)
            kind = "chunks" if rank == CHUNK else "slices"
            setattr(entry.measured, kind, getattr(entry.measured, kind) + time.monotonic() - began)
            return found


async def patiently(entry: RunningJob, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Do the work; where storage is full or gone, say so in the progress of the job and wait until it is not."""
    while True:
        try:
            found = await work(*arguments)
        except Exception as error:
            cause = cause_of(error)
            if _is_cancelled() or not isinstance(cause, StateLost):
                raise
            logger.error("job %s waits: %s", entry.job.id, cause)
            entry.progress.waits_for = str(cause)
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
