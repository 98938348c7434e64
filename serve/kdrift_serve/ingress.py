"""A replica that answers HTTP: it checks a request, has its data read, and puts it into the table of jobs."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from ray.serve.handle import DeploymentHandle

from kdrift.prior.pinned import PinnedPrior, load_pinned
from kdrift.recon.plan import DEFAULT_METHOD
from kdrift.recon.resolved import ResolvedPlan
from kdrift.runs.config import to_dict
from kdrift.runs.files import folder_bytes
from kdrift_serve import auth
from kdrift_serve.answers import Answers
from kdrift_serve.body import Receiving, address
from kdrift_serve.catalogue import list_methods, list_priors
from kdrift_serve.job_files import JobFiles
from kdrift_serve.job_request import JobRequest, check_cost, choose_prior, given_files, resolve_plan
from kdrift_serve.job_table import JobTable, QueueFull, StateLost
from kdrift_serve.jobs import Job
from kdrift_serve.pace import Pace, Speeds, check_steps
from kdrift_serve.planner import Planner
from kdrift_serve.problems import Problem
from kdrift_serve.quota import Quota
from kdrift_serve.readers import Found, Readers, Unreadable
from kdrift_serve.readiness import Readiness
from kdrift_serve.reading import Reading
from kdrift_serve.serve_config import ServeConfig
from kdrift_serve.sources import Source, Sources
from kdrift_serve.spool import SCAN
from kdrift_serve.times import Size, Times
from kdrift_serve.uploads import Uploads

ALIVE_S = 2.0
PATIENTS_DATA = {"Cache-Control": "no-store"}
"""Sent with whatever tells of a scan: nothing in between keeps it."""


class Ingress:
    """Answers HTTP. All that it knows of jobs is in the table, so that there may be several."""

    def __init__(
        self, config: ServeConfig, service: str, priors: dict[str, PinnedPrior], planner: DeploymentHandle[Planner]
    ) -> None:
        del planner  # bound, so that Serve runs it: what is asked of it goes through the table
        self._config, self._service, self._pinned, self.limits = config, service, priors, config.limits
        self._keys = auth.load_keys(config.auth)
        self._roots = [Path(root).expanduser() for root in config.roots]
        self._priors = {name: load_pinned(pinned) for name, pinned in priors.items()}
        self._files, self._table = JobFiles(config.storage), JobTable(config.database_url)
        self._speeds = Speeds(self._table, config.samplers)
        self._quota = Quota(config.limits.requests_a_minute, config.limits.waiting)
        self.answers = Answers(self._table, self._files, self._quota)
        self.readiness = Readiness(self._table, self._files, service)
        self.receiving = Receiving(config.limits.uploads)
        self._own = uuid.uuid4().hex
        """Whose jobs are those whose data are read here."""
        self.uploads = Uploads(self._table, self._files, config.limits, self._own)
        self._sources = Sources(config.limits, self._roots, self.uploads, self.receiving, self._resolve)
        self._refused = set[str]()
        """Jobs that are to be forgotten; those that the table did not let go of yet are tried again."""

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application; Serve calls this once the replica is made."""
        from kdrift_serve.routes import create_app

        self._readers = Readers()
        self._living = asyncio.create_task(self._live())
        return create_app(self)

    async def _live(self) -> None:
        """Say that this process lives, and have the process ready that reads data."""
        await self._readers.start()
        while True:
            with contextlib.suppress(StateLost):  # whoever needs the table is told
                await asyncio.to_thread(self._table.live, self._own, version("kdrift"))
                await asyncio.to_thread(self._forget_refused)
                await asyncio.to_thread(self.uploads.let_go_left)
            await asyncio.sleep(ALIVE_S)

    def authenticate(self, request: Request) -> auth.Caller:
        """Return who asks, or raise a `Problem`."""
        caller = auth.check(self._keys, request)
        self._quota.take(caller.name)
        return caller

    @asynccontextmanager
    async def folder(self) -> AsyncIterator[Path]:
        """Yield a folder for what is received or made for an answer; it goes with the block, whoever hangs up."""
        made = await asyncio.to_thread(self._files.temporary, self._own)
        try:
            yield made
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, made, ignore_errors=True))

    # --- new jobs -----------------------------------------------------------------------------------------------------

    async def create(self, http: Request, caller: auth.Caller) -> Response:
        """Take on a job from a file that is sent or was uploaded, a path or the example: 202."""
        async with self.folder() as folder:
            source = await self._sources.take(http, caller, folder)
            job = Job(uuid.uuid4().hex, "reading", source.name, caller.name, self._own, created=time.time())
            async with self._place(job):
                job = await self._read(source, job, folder)
        headers = {"Location": address(http, f"/v1/reconstructions/{job.id}"), **PATIENTS_DATA}
        return JSONResponse(await self.answers.view(job), 202, headers)

    async def inspect(self, http: Request, caller: auth.Caller) -> Response:
        """Tell what a file, which is sent or named as for a job, holds, and what is proposed; nothing of it is kept."""
        async with self.folder() as folder:
            source = await self._sources.take(http, caller, folder)
            out = folder / SCAN
            out.mkdir(mode=0o700)
            try:
                found = await self._readers.inspect(self._reading(source, out))
            except Unreadable as error:
                raise Problem(422, str(error)) from None
        return JSONResponse({"name": source.name, **to_dict(found), "method": DEFAULT_METHOD}, headers=PATIENTS_DATA)

    async def times(self, size: Size) -> dict[str, Any]:
        """Return what each method is expected to cost with data of some size."""
        times = Times(self._priors, self._config.limits, self._speeds, self._config.samplers.replicas)
        found = await asyncio.to_thread(times.of, size)
        return {name: to_dict(each) for name, each in found.items()}

    def _resolve(self, request: JobRequest) -> ResolvedPlan:
        plan = resolve_plan(request, self._priors, self._config.limits)
        if request.max_seconds is not None:
            check_steps(plan)
        return plan

    def _reading(self, source: Source, out: Path) -> Reading:
        limits, roots = self._config.limits, [str(root) for root in self._roots]
        return Reading(
            to_dict(source.request), source.path, source.name, roots, limits.kspace_mb, limits.read_seconds, str(out)
        )

    @asynccontextmanager
    async def _place(self, job: Job) -> AsyncIterator[None]:
        """Hold a place in the queue while a request is read; given back, with what it left, where it is refused.

        Raises `Problem` (429) when all are taken.
        """
        limits = self._config.limits
        if await asyncio.to_thread(self._table.size_of, job.key) > limits.key_mb << 20:
            text = f"jobs and uploads of this key hold more than {limits.key_mb} MiB: delete some"
            raise Problem(429, text, {"Retry-After": "60"})
        try:
            await asyncio.to_thread(self._table.reserve, job, most=limits.jobs, most_of_key=limits.jobs_a_key)
        except QueueFull as full:
            wait = str(await asyncio.to_thread(self._wait_s))
            whose = " of this key" if full.own else ""
            text = f"{full.queued} jobs{whose} wait already: try again in about {wait} s"
            raise Problem(429, text, {"Retry-After": wait}) from None
        try:
            yield
        except BaseException:
            self._refused.add(job.id)
            with contextlib.suppress(StateLost):
                await asyncio.shield(asyncio.to_thread(self._forget_refused))
            raise

    def _wait_s(self) -> int:
        """Return in about how many seconds a place is free."""
        running = self._table.newest(None, count=50, state="running")
        left = [job.progress["seconds_left"] for job in running if job.progress.get("seconds_left")]
        return max(1, min(600, round(min(left, default=10.0))))

    def _forget_refused(self) -> None:
        for job_id in tuple(self._refused):
            self._files.remove(job_id)
            self._table.remove([job_id])
            self._refused.discard(job_id)

    async def _read(self, source: Source, job: Job, folder: Path) -> Job:
        """Have the data read, so that what is wrong with them is told now, and put the job into the queue."""
        request, plan, limits, out = source.request, source.plan, self._config.limits, folder / SCAN
        given_files(request, self._roots)
        out.mkdir(mode=0o700)
        try:
            found = await self._readers.read(self._reading(source, out))
            check_cost(plan, len(found.slices), min(found.coils, request.virtual_coils or found.coils), limits)
        except (Unreadable, ValueError) as error:
            raise Problem(422, str(error)) from None
        size = await asyncio.to_thread(folder_bytes, out)
        await asyncio.to_thread(self._files.put_all, job.id, SCAN, out)
        request, plan, notes = await asyncio.to_thread(self._fitted, request, plan, found)
        job = replace(job, size=size, notes=[*found.notes, *notes])
        return await asyncio.to_thread(self._queue, request, plan, job, found)

    def _fitted(
        self, request: JobRequest, plan: ResolvedPlan, found: Found
    ) -> tuple[JobRequest, ResolvedPlan, list[str]]:
        """Return the request with as many steps as its time is for, its plan, and what is to be said of it."""
        if request.max_seconds is None:
            return request, plan, []
        speed = self._speeds.get(plan.prior.sha256, plan.plan.method, found.pixels) if plan.prior else None
        pace = Pace(self._priors, self._config.limits, self._config.samplers.replicas)
        request, plan, note = pace.fit(request, plan, found, speed)
        return request, plan, [note]

    def _queue(self, request: JobRequest, plan: ResolvedPlan, job: Job, found: Found) -> Job:
        served = choose_prior(request, self._priors)
        prior = self._pinned[served].describe() if plan.prior else {}
        job = replace(
            job, request=to_dict(replace(request, prior=served if plan.prior else request.prior)), prior=prior,
            config=request.config(plan, prior), sampling=found.sampling, slices=found.slices,
        )  # fmt: skip
        self._table.hand_over(job, self._service)
        return replace(job, state="queued", service=self._service)

    # --- what there is ------------------------------------------------------------------------------------------------

    def priors(self) -> list[dict[str, Any]]:
        """Return the priors that are served, the default first."""
        return list_priors(self._priors, self._pinned)

    def methods(self) -> dict[str, Any]:
        """Return what a request may name: samplers, classical methods and masks."""
        return list_methods(self._priors)

    def warnings(self) -> list[str]:
        """Return what an operator is to mend, in words that need no key."""
        self._keys.all()
        return [self._keys.fault.partition(":")[0]] if self._keys.fault else []

    async def health(self) -> dict[str, Any]:
        """Return that this process answers, whether it asks for keys, and how busy the service is."""
        jobs = None
        with contextlib.suppress(StateLost):  # `readiness` tells
            jobs = await asyncio.to_thread(self._table.counts)
        return {"status": "ok", "version": version("kdrift"), "api_keys": bool(self._keys), "jobs": jobs}
