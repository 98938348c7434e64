"""One coroutine a job: prepare each slice, spread its chains over the samplers, merge, write the result."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import zipfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError, WorkerCrashedError
from ray.serve.handle import DeploymentHandle

from kdrift.recon.acquisition import Acquisition
from kdrift.recon.chunks import Chunk, ChunkResult
from kdrift.recon.gather import Outcome, SliceFacts, gather
from kdrift.recon.guard import Diverged
from kdrift.recon.merge import SliceResult, merge_chunks
from kdrift.recon.outputs import read_outputs
from kdrift.recon.report import save_result
from kdrift.recon.resolved import ResolvedPlan
from kdrift.recon.result import ReconstructionResult
from kdrift.recon.sentences import named
from kdrift.recon.slices import RawSlice
from kdrift.runs.files import whole_file
from kdrift_serve.problems import Problem
from kdrift_serve.sampler import Sampler, is_alive
from kdrift_serve.serve_config import ServeConfig
from kdrift_serve.storage import ACTIVE, OUTPUTS_ZIP, Job, JobFolder, SliceVerdict

logger = logging.getLogger("ray.serve")
LOST = (RayActorError, ActorUnavailableError, WorkerCrashedError)
"""What Ray raises when the process of a replica has died."""
T = TypeVar("T")


class JobFailed(Exception):
    """A job that has no result, and the sentence that says why."""


class SliceFailed(JobFailed):
    """A slice that has no images, which costs itself alone."""


@dataclass
class Progress:
    """How far a running job is."""

    num_slices: int
    slices_done: int = 0
    began: float | None = None
    """When sampling began, monotonic seconds."""
    costs: dict[Chunk, int] = field(default_factory=dict)
    """Network evaluations of each chunk of a slice, all of its chains: chunks differ in length."""
    shares: dict[Chunk, float] = field(default_factory=dict)
    """What is done of each chunk of the current slice, 0 to 1."""

    def view(self) -> dict[str, Any]:
        """Return evaluations and slices done and in all, and the seconds left, as JSON values."""
        per_slice = sum(self.costs.values())  # 0: not known yet, or a classical method
        here = sum(cost * self.shares.get(chunk, 0.0) for chunk, cost in self.costs.items())
        fraction = (self.slices_done + (here / per_slice if per_slice else 0.0)) / self.num_slices
        left = None
        if self.began is not None and fraction > 0:
            left = round((time.monotonic() - self.began) * (1 - fraction) / fraction, 1)
        return {
            "evaluations_done": round(self.slices_done * per_slice + here),
            "evaluations_total": per_slice * self.num_slices or None,
            "slices_done": self.slices_done,
            "slices_total": self.num_slices,
            "fraction": round(fraction, 4),
            "seconds_left": left,
        }


@dataclass
class _Running:
    """A job that this process has taken on."""

    job: Job
    plan: ResolvedPlan
    prior: str
    """Served name of the prior; a classical method does not use it."""
    acquisition: Acquisition
    """What was read, once, when the job was accepted."""
    progress: Progress
    task: asyncio.Task[None] | None = None


class Planner:
    """Runs jobs in the order they came in, `limits.running` at a time."""

    def __init__(self, config: ServeConfig, store: JobFolder, samplers: DeploymentHandle[Sampler]) -> None:
        self._config, self._store = config, store
        self._prepare = samplers.prepare
        self._run_chunk = samplers.options(method_name="run", stream=True)
        self._slots = asyncio.Semaphore(config.limits.running)
        # a call that finds no free replica is tried again after a pause that grows: never make more than can run
        self._lanes = asyncio.Semaphore(config.samplers.replicas)
        self._active: dict[str, _Running] = {}
        self._admitted = 0
        self.owner = ray.get_runtime_context().get_actor_name() or ""
        for job in store.jobs():
            self.find(job.id)

    @contextlib.contextmanager
    def admission(self) -> Iterator[None]:
        """Hold a place for a request while it is read. Raises `Problem` (429) when all are taken."""
        limits = self._config.limits
        if len(self._active) + self._admitted >= limits.running + limits.queued:
            left = [entry.progress.view()["seconds_left"] for entry in self._active.values()]
            seconds = min((value for value in left if value is not None), default=10.0)
            wait = str(max(1, min(600, round(seconds))))
            raise Problem(429, f"{limits.queued} jobs wait already: try again in about {wait} s", {"Retry-After": wait})
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    def submit(self, job: Job, plan: ResolvedPlan, prior: str, acquisition: Acquisition) -> None:
        """Take on a job that has passed all checks. Raises `Problem` (429) where its k-space has no room."""
        held = sum(entry.acquisition.kspace.nbytes for entry in self._active.values())
        limit = self._config.limits.held_mb << 20
        if self._active and held + acquisition.kspace.nbytes > limit:
            text = f"the jobs that wait hold {held >> 20} MiB of k-space, at most {limit >> 20} MiB: try again in 60 s"
            raise Problem(429, text, {"Retry-After": "60"})
        self._store.put(job)
        entry = _Running(job, plan, prior, acquisition, Progress(len(job.slices)))
        self._active[job.id] = entry
        entry.task = asyncio.create_task(self._keep(entry))

    def find(self, job_id: str) -> Job | None:
        """Return a job; one whose process has died is `interrupted`."""
        if job_id in self._active:
            return self._active[job_id].job
        job = self._store.get(job_id)
        if job is not None and job.state in ACTIVE and (job.owner == self.owner or not is_alive(job.owner)):
            text = "the service was restarted while this job ran: send it again"
            job = replace(job, state="interrupted", detail=text, finished=time.time())
            self._store.put(job)
            self._store.drop_upload(job.id)
        return job

    def progress(self, job_id: str) -> dict[str, Any] | None:
        """Return the progress of a job that waits or runs here."""
        entry = self._active.get(job_id)
        if entry is None:
            return None
        queued = [other for other in self._active.values() if other.job.state == "queued"]
        ahead = {"jobs_ahead": queued.index(entry)} if entry.job.state == "queued" else {}
        return entry.progress.view() | ahead

    def counts(self) -> dict[str, int]:
        """Return how many jobs run and wait."""
        states = [entry.job.state for entry in self._active.values()]
        return {"running": states.count("running"), "queued": states.count("queued")}

    async def wait(self, job_id: str, seconds: float) -> None:
        """Return when a job that waits or runs here has ended, or the time is over."""
        entry = self._active.get(job_id)
        if entry is not None and entry.task is not None:
            await asyncio.wait([entry.task], timeout=seconds)

    async def cancel(self, job_id: str) -> None:
        """Stop a job that waits or runs here, and wait until it has stopped."""
        entry = self._active[job_id]
        assert entry.task is not None
        entry.task.cancel()
        await asyncio.wait([entry.task], timeout=10)

    async def _keep(self, entry: _Running) -> None:
        """Run a job and write down what became of it."""
        state, detail, report = "failed", "", dict[str, Any]()
        try:
            async with self._slots:
                entry.job = replace(entry.job, state="running", started=time.time())
                self._store.put(entry.job)
                line = entry.plan.headline(self._config.samplers.device)
                logger.info("job %s: %s", entry.job.id, line)
                async with asyncio.timeout(self._config.limits.job_seconds):
                    report = await self._run(entry)
            state = "done"
        except asyncio.CancelledError:
            state, detail = "cancelled", "cancelled on request"
        except TimeoutError:
            detail = f"stopped: it ran longer than {self._config.limits.job_seconds:g} s"
        except JobFailed as error:
            detail = str(error)
        except Exception as error:
            logger.exception("job %s failed", entry.job.id)
            detail = f"the reconstruction failed ({type(_cause(error)).__name__}); the service's log has the details"
        finally:
            fields: dict[str, Any] = {"state": state, "detail": detail, "report": report}
            self._store.put(replace(entry.job, **fields, finished=time.time()))
            self._store.drop_upload(entry.job.id)
            del self._active[entry.job.id]
        await asyncio.to_thread(self._store.prune, self._config.limits.kept_jobs)

    async def _run(self, entry: _Running) -> dict[str, Any]:
        job, acquisition = entry.job, entry.acquisition
        began = time.perf_counter()
        entry.progress.began = time.monotonic()
        slices: dict[int, Outcome] = {}
        for position, index in enumerate(acquisition.slice_indices):
            try:
                slices[index] = await self._slice(entry, acquisition.raw(position))
            except SliceFailed as error:
                slices[index] = named(index, str(error))
            entry.progress.slices_done += 1
        seconds = time.perf_counter() - began
        if all(isinstance(outcome, str) for outcome in slices.values()):
            raise JobFailed(next(iter(slices.values())))
        result = gather(slices, acquisition.mask, job.config, seconds=seconds)
        entry.job = replace(job, verdicts=_verdicts(result))
        folder, outputs = self._store.result_folder(job.id), read_outputs(job.request.get("output", "h5"))
        return await asyncio.to_thread(_save, folder, acquisition, result, outputs)

    async def _slice(self, entry: _Running, raw: RawSlice) -> tuple[SliceFacts, SliceResult]:
        plan = entry.plan
        answer = await self._again(self._prepare.remote, plan, entry.prior, raw)
        if isinstance(answer, str):
            raise SliceFailed(answer)
        data, facts = answer
        chunks, coils = plan.split(len(data.kspace), self._config.samplers.replicas), len(data.kspace)
        costs = {chunk: plan.evaluations(coils, chunk) for chunk in chunks}
        chunks.sort(key=lambda chunk: -costs[chunk])  # the longest first, so that samplers end together
        shared = await asyncio.to_thread(ray.put, data)
        entry.progress.costs, entry.progress.shares = costs, {}
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._again(self._chunk, entry, shared, chunk)) for chunk in chunks]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        try:
            merged = merge_chunks([task.result() for task in tasks])
        except Diverged as error:
            raise SliceFailed(str(error)) from None
        entry.progress.shares = {}
        return facts, merged

    async def _chunk(self, entry: _Running, data: Any, chunk: Chunk) -> ChunkResult:
        """Run one chunk on whichever sampler is free."""
        entry.progress.shares[chunk] = 0.0
        response: Any = self._run_chunk.remote(entry.plan, entry.prior, data, chunk, self.owner)
        try:
            async for event in response:
                if isinstance(event, ChunkResult):
                    return event
                if isinstance(event, str):
                    raise SliceFailed(event)
                done, total = event
                entry.progress.shares[chunk] = done / total
        except BaseException:
            response.cancel()
            raise
        raise RuntimeError("a sampler ended without a result")

    async def _again(self, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Do the work of a replica, again on another one where it died: seeded chains give the same answer."""
        retries = self._config.limits.retries
        for attempt in range(retries + 1):
            try:
                async with self._lanes:
                    return await work(*arguments)
            except LOST as error:
                logger.warning("a sampler was lost (%s), attempt %d", type(error).__name__, attempt + 1)
                await asyncio.sleep(0.2 * 2**attempt)
        raise JobFailed(f"the sampler died {retries + 1} times at this job: is it too large for its memory?")


def _verdicts(result: ReconstructionResult) -> dict[str, SliceVerdict]:
    found = {index: result.verdict_of(index) for index in result.numbers if result.nfe}
    return {str(index): SliceVerdict(v.level, str(v), v.given) for index, v in found.items()}


def _save(
    folder: Path, acquisition: Acquisition, result: ReconstructionResult, outputs: Sequence[str]
) -> dict[str, Any]:
    """Write the results, and the outputs that were asked for once more as one archive; return the report."""
    report = save_result(folder, acquisition, result, outputs=outputs)
    if report["outputs"]:
        with whole_file(folder / OUTPUTS_ZIP) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name in report["outputs"]:
                path = folder / name
                for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                    archive.write(file, file.relative_to(folder))
    return report


def _cause(error: BaseException) -> BaseException:
    return error.cause if isinstance(error, RayTaskError) and error.cause else error
