"""What clients are told of jobs: all of it from the table, results from the files."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdrift_serve.auth import Caller, Scope
from kdrift_serve.job_files import JobFiles
from kdrift_serve.job_preview import PREVIEW_FILE
from kdrift_serve.job_table import JobTable, StateLost
from kdrift_serve.job_watch import Watch
from kdrift_serve.jobs import ACTIVE, OUTPUTS_ZIP, Job
from kdrift_serve.problems import Problem
from kdrift_serve.quota import Quota
from kdrift_serve.sampler import RESULT

logger = logging.getLogger("ray.serve")
INTERNAL = ("key", "service", "cancel", "size", "changed")
"""Fields of a job that clients never see."""
BRIEF = ("id", "state", "name", "method", "created", "started", "finished", "progress", "detail", "links")
"""What a list tells of each job."""
CANCEL_S = 10.0
"""How long a request to cancel waits for the end of the job."""


class Answers:
    """Finds jobs for who asks, and says what became of them."""

    def __init__(self, table: JobTable, files: JobFiles, quota: Quota) -> None:
        self.quota = quota
        self._table, self._files, self._watch = table, files, Watch(table)

    async def find(self, job_id: str, caller: Caller, scope: Scope = "read") -> Job:
        """Return a job to a caller of some scope or raise a `Problem` (403, 404)."""
        caller.need(scope)
        job = await asyncio.to_thread(self._table.get, job_id)
        if job is None or job.state == "reading" or not caller.may_see(job.key):
            raise Problem(404, "there is no reconstruction of this id")
        return job

    async def newest(self, caller: Caller, *, count: int, before: float | None, state: str | None) -> dict[str, Any]:
        """Return the newest jobs of the caller, of all keys for an admin, and where the list goes on."""
        caller.need("read")
        key = None if "admin" in caller.scopes else caller.name
        found = await asyncio.to_thread(self._table.newest, key, count=count + 1, before=before, state=state)
        shown = found[:count]
        views = [await self.view(job) for job in shown]
        following = None
        if len(found) > count:
            chosen = f"&state={state}" if state is not None else ""
            following = f"/v1/reconstructions?count={count}&before={shown[-1].created!r}{chosen}"
        return {
            "reconstructions": [{name: view[name] for name in BRIEF} for view in views],
            "links": {"next": following},
        }

    async def result(self, job_id: str, name: str, caller: Caller) -> tuple[Job, Path]:
        """Return a result file or raise a `Problem` (404, 409)."""
        job = await self.find(job_id, caller)
        if job.state != "done":
            why = f": {job.detail}" if job.detail else ", ask for its status"
            raise Problem(409, f"this reconstruction is {job.state}{why}")
        path = await asyncio.to_thread(self._files.get, job_id, f"{RESULT}/{name}")
        if path is None:
            raise Problem(404, "this result was deleted")
        return job, path

    async def view(self, job: Job) -> dict[str, Any]:
        """Return a job as clients see it."""
        values = asdict(job)
        for name in INTERNAL:
            del values[name]
        values["method"] = job.config.get("method", "")
        base = f"/v1/reconstructions/{job.id}"
        if job.state == "queued":
            values["progress"] = {**job.progress, "jobs_ahead": await asyncio.to_thread(self._table.ahead_of, job)}
        elif job.state not in ACTIVE:
            values["progress"] = None
        values["links"] = {"self": base, "events": f"{base}/events"}
        if job.state == "done":
            names = ["result", "images", "panel.png", "mean.png", "std.png"] + [OUTPUTS_ZIP] * bool(
                job.report.get("outputs")
            )
            values["links"] |= {name: f"{base}/{name}" for name in names}
        found: dict[str, Any] = json.loads(json.dumps(values), parse_constant=lambda _: None)  # JSON has no infinity
        return found

    async def preview(self, job: Job) -> dict[str, Any] | None:
        """Return what the images of a job look like so far, None where there is nothing."""
        content = await asyncio.to_thread(self._files.read, job.id, PREVIEW_FILE)
        values: dict[str, Any] | None = None if content is None else json.loads(content)
        return values

    async def wait(self, job_id: str, seconds: float, caller: Caller) -> Job:
        """Return a job, when it has ended or the time is over."""
        job = await self.find(job_id, caller)
        if job.state in ACTIVE and seconds > 0:
            with self.quota.wait(caller.name):
                await self._watch.end(job_id, seconds)
            job = await self.find(job_id, caller)
        return job

    async def change(self, job: Job, seconds: float) -> None:
        """Return when a job is no longer as it is here, or the time is over."""
        await self._watch.change(job.id, job.changed, seconds)

    async def cancel(self, job_id: str, caller: Caller) -> Job:
        """Cancel a job or raise a `Problem` (404, 409)."""
        job = await self.find(job_id, caller, "submit")
        if not await asyncio.to_thread(self._table.ask_to_cancel, job_id):
            state = (await self.find(job_id, caller, "submit")).state
            raise Problem(409, f"this reconstruction is {state} already; with ?results=true it is deleted")
        await self._watch.end(job_id, CANCEL_S)
        job = await self.find(job_id, caller, "submit")
        return job

    async def delete(self, job_id: str, caller: Caller) -> None:
        """Delete a job that has ended with all that it has, or raise a `Problem` (404, 409)."""
        job = await self.find(job_id, caller, "submit")
        if job.state in ACTIVE:
            raise Problem(409, f"this reconstruction is {job.state}: cancel it first, by DELETE without results")
        await asyncio.to_thread(self._table.remove, [job_id])
        try:
            await asyncio.to_thread(self._files.remove, job_id)
        except StateLost as error:
            logger.error("files of job %s stay until old jobs are deleted: %s", job_id, error)
