"""The replica that runs jobs: it takes them from the table, spreads their slices and chains over the samplers, and
writes down what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from kdrift.prior.bundle import Prior
from kdrift.prior.pinned import PinnedPrior, load_pinned
from kdrift.recon.resolved import ResolvedPlan
from kdrift.recon.slice_file import has_images
from kdrift.runs.config import parse
from kdrift_serve.job_files import JobFiles
from kdrift_serve.job_preview import PREVIEW, write_preview
from kdrift_serve.job_progress import Progress
from kdrift_serve.job_request import JobRequest, choose_prior, resolve_plan
from kdrift_serve.job_run import JobFailed, JobRuns, RunningJob, name_of, patiently
from kdrift_serve.job_table import JobTable, StateLost
from kdrift_serve.jobs import ACTIVE, Job
from kdrift_serve.pace import Speeds
from kdrift_serve.pieces import Done
from kdrift_serve.problems import Problem
from kdrift_serve.readiness import running_samplers
from kdrift_serve.sampler import SLICES, Sampler
from kdrift_serve.serve_config import ServeConfig
from kdrift_serve.service_metrics import Metrics
from kdrift_serve.spool import HEADER, SCAN, OtherFormat, read_facts, slice_file
from kdrift_serve.sweep import sweep

logger = logging.getLogger("ray.serve")
LOOK_S, TELL_S, SHOW_S, COUNT_S, SWEEP_S = 0.25, 0.5, 0.25, 1.0, 60.0
"""How often the table is looked at, progress is written, previews are asked for, samplers are counted, and old jobs are
deleted."""


class Planner:
    """Runs the jobs of its service; jobs of services that died it makes its own."""

    def __init__(
        self, config: ServeConfig, service: str, priors: dict[str, PinnedPrior], samplers: DeploymentHandle[Sampler]
    ) -> None:
        self._config, self.service, self._pinned = config, service, priors
        self._priors: dict[str, Prior] = {name: load_pinned(pinned) for name, pinned in priors.items()}
        self._files, self._table = JobFiles(config.storage), JobTable(config.database_url)
        self._speeds = Speeds(self._table, config.samplers)
        self._runs = JobRuns(samplers, config.samplers, config.limits.retries)
        self._running: dict[str, RunningJob] = {}
        self._metrics = Metrics()
        loops = [self._look, self._tell, self._show, self._sweep]
        if config.samplers.most > config.samplers.replicas:
            loops.append(self._count)
        self._tasks = [asyncio.get_running_loop().create_task(each()) for each in loops]

    async def check_health(self) -> None:
        """Raise where a loop of this process has ended: Serve then replaces it."""
        for task in self._tasks:
            if task.done():
                task.result()
                raise RuntimeError("the planner does not look at its table any more")

    def __del__(self) -> None:
        """Stop; jobs stay as they are, for whoever takes them over. Serve calls this when the replica is to end."""
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(StateLost):
            self._table.leave(self.service)

    async def _look(self) -> None:
        """Begin and cancel the jobs that the table says, and say that this service lives."""
        lived, unreadable = 0.0, set[str]()
        while True:
            try:
                if time.monotonic() - lived > 2:
                    await asyncio.to_thread(self._table.live, self.service, version("kdrift"))
                    taken, unread = await asyncio.to_thread(self._table.take_over, self.service)
                    lived = time.monotonic()
                    for job_id in unread:
                        await asyncio.to_thread(self._files.remove, job_id)
                    if taken:
                        logger.warning("took over %d jobs of a service that ended", len(taken))
                for job_id, cancel in (await asyncio.to_thread(self._table.of_service, self.service)).items():
                    entry = self._running.get(job_id)
                    if entry is None and job_id not in unreadable:
                        try:
                            job = await asyncio.to_thread(self._table.get, job_id)
                        except ValueError as error:
                            logger.error("job %s is not run, its row cannot be read: %s", job_id, error)
                            unreadable.add(job_id)
                            continue
                        if job is not None and job.state in ACTIVE and job.service == self.service:
                            await self._begin(job)
                    elif entry is not None and cancel and not entry.cancelled:
                        entry.cancelled = True
                        assert entry.task is not None
                        entry.task.cancel()
            except StateLost as error:
                logger.error("%s; jobs go on, new ones wait", error)
                await asyncio.sleep(1)
            await asyncio.sleep(LOOK_S)

    async def _tell(self) -> None:
        """Write down how far the jobs are."""
        told: dict[str, dict[str, Any]] = {}
        while True:
            await asyncio.sleep(TELL_S)
            views = {
                job_id: {**entry.progress.view(), "preview": entry.preview.version}
                for job_id, entry in self._running.items()
                if entry.job.started
            }
            changed = {job_id: view for job_id, view in views.items() if told.get(job_id) != view}
            with contextlib.suppress(StateLost):
                if changed:
                    await asyncio.to_thread(self._table.tell_progress, changed)
                told = views
                self._metrics.now(await asyncio.to_thread(self._table.counts), *self._runs.work)

    async def _count(self) -> None:
        """See how many samplers run, as Ray Serve starts and ends some."""
        while True:
            try:
                self._runs.resize(await asyncio.to_thread(running_samplers))
            except (RayError, RayServeException, KeyError) as error:
                logger.error("Ray Serve does not tell of its samplers: %s", error)
            await asyncio.sleep(COUNT_S)

    async def _show(self) -> None:
        """Write what the images of jobs look like so far."""
        while True:
            await asyncio.sleep(SHOW_S)
            for job_id, entry in list(self._running.items()):
                shown, version = entry.preview.newest(), entry.preview.version + 1
                if not shown:
                    continue
                with contextlib.suppress(StateLost):  # the next one may be written
                    made = await asyncio.to_thread(write_preview, self._files, job_id, version, shown)
                    entry.preview.version = version if made else version - 1

    async def _sweep(self) -> None:
        """Delete jobs that are too old, too many or too large together, and files of none."""
        while True:
            try:
                await asyncio.to_thread(sweep, self._table, self._files, self._config.limits)
            except StateLost as error:
                logger.error("old jobs are not deleted: %s", error)
            await asyncio.sleep(SWEEP_S)

    async def _begin(self, job: Job) -> None:
        """Take on a job of the table: a new one, or one that another process had begun."""
        try:
            request = parse(JobRequest, job.request, "request")
            plan, prior = self._resolved(request, job)
        except (ValueError, Problem) as error:
            detail = error.detail if isinstance(error, Problem) else str(error)
            text = f"the service that took this job over cannot run it: {detail}"
            await self._end(replace(job, state="interrupted", detail=text, finished=time.time()))
            return
        config = request.config(plan, job.prior)
        if config != job.config:
            note = "run with other settings than those it was accepted with, by another version of the service"
            job = replace(job, config=config, notes=[*job.notes, note])
        channels = 1 if self._priors[prior].network_config.images == "complex" else 2
        entry = RunningJob(job, plan, prior, channels, Progress(len(job.slices)))
        self._running[job.id] = entry
        entry.task = asyncio.create_task(self._keep(entry))

    def _resolved(self, request: JobRequest, job: Job) -> tuple[ResolvedPlan, str]:
        """Return the plan, and the served name of the prior of the same weights."""
        if job.prior:
            same = [name for name, pinned in self._pinned.items() if pinned.sha256 == job.prior["sha256"]]
            if not same:
                raise ValueError(f"it does not serve the prior {job.prior['name']} of this job: send it again")
            request = replace(request, prior=request.prior if request.prior in same else same[0])
        else:
            request = replace(request, prior=None)
        return resolve_plan(request, self._priors, self._config.limits), choose_prior(request, self._priors)

    async def _keep(self, entry: RunningJob) -> None:
        """Run a job and write down what became of it."""
        fields: dict[str, Any] = {"state": "failed"}
        try:
            done = await self._run(entry)
            await self._measure(entry, done)
            fields = {"state": "done", "report": done.report, "verdicts": done.verdicts, "size": done.size}
        except asyncio.CancelledError:
            if not entry.cancelled:  # the service stops: another one goes on
                del self._running[entry.job.id]
                raise
            fields = {"state": "cancelled", "detail": "cancelled on request"}
        except TimeoutError:
            fields["detail"] = f"stopped: it ran longer than {self._config.limits.job_seconds:g} s"
        except JobFailed as error:
            fields["detail"] = str(error)
        except Exception as error:
            logger.exception("job %s failed", entry.job.id)
            fields["detail"] = f"the reconstruction failed ({name_of(error)}); the service's log has the details"
        job = replace(entry.job, **fields, finished=time.time(), progress={})
        self._metrics.ended(job)
        await self._end(job)
        del self._running[entry.job.id]

    async def _measure(self, entry: RunningJob, done: Done) -> None:
        """Keep how fast a job ran whose chains all came to their end."""
        measured, prior = entry.measured, entry.plan.prior
        speed, sha256 = measured.speed(), prior.sha256 if prior else ""
        if speed is not None and not (done.report["failed"] or done.report["diverged"]):
            with contextlib.suppress(StateLost):  # the next job is measured too
                await asyncio.to_thread(self._speeds.put, sha256, entry.plan.plan.method, measured.pixels, speed)

    async def _end(self, job: Job) -> None:
        """Delete the data of a job and write down what became of it, again and again until the table takes it."""
        await asyncio.to_thread(self._files.remove_half_written, job.id)
        for folder in (SCAN, SLICES, PREVIEW):
            with contextlib.suppress(StateLost):  # the sweep takes them with the job
                await asyncio.to_thread(self._files.remove, job.id, folder)
        while True:
            try:
                if not await asyncio.to_thread(self._table.write, job):
                    logger.warning("job %s is no longer this service's", job.id)
                return
            except StateLost as error:
                logger.error("job %s is %s, which cannot be written down: %s", job.id, job.state, error)
                await asyncio.sleep(1)

    async def _run(self, entry: RunningJob) -> Done:
        job, progress = entry.job, entry.progress
        done = await patiently(entry, asyncio.to_thread, self._done_before, job)
        progress.began_with = progress.slices_done = len(done)
        entry.shape = await patiently(entry, asyncio.to_thread, self._shape, job)
        left = self._config.limits.job_seconds - (0.0 if job.started is None else time.time() - job.started)
        async with asyncio.timeout(None) as limit:

            async def began() -> None:
                limit.reschedule(asyncio.get_running_loop().time() + left)
                logger.info("job %s: %s", job.id, entry.plan.headline(self._config.samplers.device))
                entry.job = replace(job, state="running", started=job.started or time.time())
                with contextlib.suppress(StateLost):  # its end is written as well
                    await asyncio.to_thread(self._table.write, entry.job)

            found = await self._runs.run(entry, done, began)
        if isinstance(found, str):
            raise JobFailed(found)
        return found

    def _shape(self, job: Job) -> tuple[int, ...]:
        """Return rows and columns of the slices of a job; nothing where its data are gone, as a sampler will say."""
        path = self._files.get(job.id, f"{SCAN}/{HEADER}")
        try:
            return () if path is None else tuple(read_facts(path).mask.shape[-2:])
        except OtherFormat:
            return ()

    def _done_before(self, job: Job) -> set[int]:
        """Return the slices of a job that are done already, by this service or one before it."""
        names = self._files.names(job.id, SLICES)
        paths = {index: self._files.get(job.id, f"{SLICES}/{slice_file(index)}") for index in job.slices
                 if slice_file(index) in names}  # fmt: skip
        return {index for index, path in paths.items() if path is not None and has_images(path)}
