"""Server-sent events: what becomes of a job, told as it happens."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from kdrift_serve.answers import Answers
from kdrift_serve.auth import Caller
from kdrift_serve.job_table import StateLost
from kdrift_serve.jobs import ACTIVE, Job
from kdrift_serve.problems import Problem

KEEP_ALIVE_S = 10.0
"""A comment is sent after so long without an event, so that nothing in between takes the connection for dead."""
STREAM_S = 300.0
"""A stream ends after so long, within `http_options.request_timeout_s`: whoever follows a longer job asks again."""
MEDIA_TYPE = "text/event-stream"


async def events(answers: Answers, job: Job, caller: Caller) -> AsyncIterator[str]:
    """Yield the events of a job until it has ended: `state` with the job, `progress` and `preview`.

    `gone` is the last event of a job that was deleted meanwhile.
    """
    until, told = time.monotonic() + STREAM_S, dict[str, Any]()
    yield "retry: 1000\n\n"
    while True:
        try:
            for name, values in await _news(answers, job, told):
                yield _event(name, values)
            if job.state not in ACTIVE or time.monotonic() > until:
                return
            before = job.changed
            await answers.change(job, KEEP_ALIVE_S)
            job = await answers.find(job.id, caller)
        except StateLost:  # it may answer again
            await asyncio.sleep(1)
            before = job.changed
        except Problem as problem:
            yield _event("gone", {"detail": problem.detail})
            return
        if job.changed == before:
            yield ": nothing new\n\n"


async def _news(answers: Answers, job: Job, told: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the events that were not told yet, and note in `told` what they say."""
    found = list[tuple[str, dict[str, Any]]]()
    view = await answers.view(job)
    if told.get("state") != job.state:
        told["state"], told["progress"] = job.state, view["progress"]
        found.append(("state", view))
    elif view["progress"] is not None and told["progress"] != view["progress"]:
        told["progress"] = view["progress"]
        found.append(("progress", view["progress"]))
    version = job.progress.get("preview", 0)
    if version and told.get("preview") != version:
        shown = await answers.preview(job)
        if shown is not None:
            told["preview"] = version
            if told.get("shown") != shown["version"]:  # the file may be ahead of the table
                told["shown"] = shown["version"]
                found.append(("preview", shown))
    return found


def _event(name: str, values: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(values)}\n\n"
