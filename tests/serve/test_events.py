"""The stream of a job's events by itself: it is kept alive, ends, and says what it could not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdrift_serve import events as events_module
from kdrift_serve.answers import Answers
from kdrift_serve.auth import Caller
from kdrift_serve.events import events
from kdrift_serve.job_files import JobFiles
from kdrift_serve.job_preview import PREVIEW_FILE
from kdrift_serve.job_table import JobTable, StateLost
from kdrift_serve.jobs import Job
from kdrift_serve.problems import Problem
from kdrift_serve.quota import Quota

ID, CALLER = "a" * 32, Caller("ward", frozenset(("read",)))


@pytest.fixture
def table(tmp_path: Path) -> Iterator[JobTable]:
    made = JobTable(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    job = Job(ID, "reading", "scan.h5", "ward", "s", created=1.0, slices=[0])
    made.reserve(job, most=9, most_of_key=9)
    made.hand_over(job, "s")
    yield made
    made.close()


@pytest.fixture
def answers(table: JobTable, tmp_path: Path) -> Answers:
    return Answers(table, JobFiles(str(tmp_path / "files")), Quota(6000, 2))


def told(table: JobTable, answers: Answers, *, then: Any = None, most: int = 99) -> list[str]:
    """What a stream says; `then` is called once its first event is there."""

    async def follow() -> list[str]:
        job, found = await answers.find(ID, CALLER), list[str]()
        async for text in events(answers, job, CALLER):
            found.append(text)
            if then is not None and len(found) == 2:
                then()
            if len(found) == most:
                break
        return found

    return asyncio.run(follow())


def names(found: list[str]) -> list[str]:
    return [text.partition("\n")[0].removeprefix("event: ") for text in found]


def test_a_quiet_stream_is_kept_alive_and_ends(
    table: JobTable, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "KEEP_ALIVE_S", 0.2)
    monkeypatch.setattr(events_module, "STREAM_S", 0.7)
    found = names(told(table, answers))
    assert found[:2] == ["retry: 1000", "state"]
    assert len(found) >= 4
    assert set(found[2:]) == {": nothing new"}


def test_a_preview_is_sent_once_a_version(table: JobTable, answers: Answers, tmp_path: Path) -> None:
    place = tmp_path / "files" / ID / PREVIEW_FILE
    place.parent.mkdir(parents=True)

    def show() -> None:
        place.write_text(json.dumps({"version": 7}))
        table.tell_progress({ID: {"fraction": 0.5, "preview": 7}})

    found = names(told(table, answers, then=show, most=4))
    assert found == ["retry: 1000", "state", "progress", "preview"]

    def end() -> None:
        job = table.get(ID)
        assert job is not None
        table.write(replace(job, state="done", progress={}))

    found = names(told(table, answers, then=end))
    assert found == ["retry: 1000", "state", "preview", "state"]


def test_a_job_that_is_deleted_meanwhile_is_gone(table: JobTable, answers: Answers) -> None:
    found = told(table, answers, then=lambda: table.remove([ID]))
    assert names(found)[-1] == "gone"
    assert "no reconstruction of this id" in found[-1]


def test_a_table_that_comes_back_goes_on(table: JobTable, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, failing = table.get, [True]

    def lost(job_id: str) -> Job | None:
        if failing and failing.pop():
            raise StateLost("the table of jobs does not answer")
        return whole(job_id)

    def stop() -> None:
        monkeypatch.setattr(table, "get", lost)
        table.tell_progress({ID: {"fraction": 0.5}})

    assert "progress" in names(told(table, answers, then=stop, most=4))


def test_streams_count_as_requests_that_wait() -> None:
    quota = Quota(6000, 2)
    with quota.wait("ward"), quota.wait("ward"):
        quota.check("other")
        with pytest.raises(Problem, match="2 requests of this key wait") as error:
            quota.check("ward")
        assert error.value.status == 429
    quota.check("ward")
