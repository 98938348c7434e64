"""The table of jobs in both databases: places, takeovers, what is written by whom, and when it cannot be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from kdrift_serve import job_table as table_module
from kdrift_serve.job_table import JobTable, QueueFull, StateLost
from kdrift_serve.jobs import Job, SliceVerdict
from kdrift_serve.schema import SCHEMA
from postgres_helpers import Postgres, postgres

ME, OTHER = "a" * 32, "b" * 32


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with postgres() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    server: Postgres = request.getfixturevalue("server")
    name = f"t{abs(hash(str(tmp_path)))}"
    engine = sa.create_engine(server.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.url.replace("/postgres", f"/{name}")


@pytest.fixture
def table(url: str) -> Iterator[JobTable]:
    made = JobTable(url)
    made.live(ME, "1")
    yield made
    made.close()


def job(number: int, **values: Any) -> Job:
    fields: dict[str, Any] = {"state": "reading", "name": "scan.h5", "key": "ward", "service": ME, "created": number}
    return Job(f"{number:032x}", **{**fields, **values})


def queued(table: JobTable, number: int, **values: Any) -> Job:
    each = job(number, **values)
    table.reserve(each, most=100, most_of_key=100)
    table.hand_over(each, each.service)
    found = table.get(each.id)
    assert found is not None
    return found


def test_a_job_comes_back_as_it_was_written(table: JobTable) -> None:
    verdict = SliceVerdict("not trusted", "not trusted: TV predicts left-out k-space better", "tv")
    found = queued(table, 1, request={"plan": {"seed": 2**62}}, slices=[3], notes=["a \N{SNOWMAN}"])
    assert (found.state, found.request, found.notes) == ("queued", {"plan": {"seed": 2**62}}, ["a \N{SNOWMAN}"])
    done = replace(found, state="done", verdicts={"3": verdict}, report={"errors": [1.0, math.inf]}, size=2**40)
    assert table.write(done)
    again = table.get(found.id)
    assert again is not None
    assert again == replace(done, changed=again.changed)
    assert again.changed >= found.changed > 1e9
    assert not table.write(replace(done, state="failed")), "what has ended stays as it is"
    assert table.size_of("ward") == 2**40
    for name in ("../../etc", "A" * 32, "a" * 31, f"{2:032x}"):
        assert table.get(name) is None


def test_places_are_counted_by_one_statement_for_all(table: JobTable) -> None:
    """Of many requests at once no more are taken than there are places, in all and of a key."""

    def ask(number: int) -> bool:
        try:
            table.reserve(job(number, key=f"key{number % 2}"), most=7, most_of_key=5)
        except QueueFull:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(ask, range(1, 33)))
    assert sum(taken) == 7
    assert max(sum(taken[0::2]), sum(taken[1::2])) <= 5
    with pytest.raises(QueueFull) as error:
        table.reserve(job(99, key="key0"), most=100, most_of_key=1)
    assert error.value.own


def test_newest_first_of_a_key_and_of_all(table: JobTable) -> None:
    for number in range(1, 5):
        queued(table, number, key=f"key{number % 2}")
    table.reserve(job(9), most=100, most_of_key=100)
    assert [each.created for each in table.newest("key0", count=10)] == [4.0, 2.0]
    assert [each.created for each in table.newest(None, count=2)] == [4.0, 3.0]
    assert [each.created for each in table.newest(None, count=2, before=3.0)] == [2.0, 1.0]
    assert table.newest(None, count=5, state="running") == []
    assert table.counts() == {"running": 0, "queued": 4}
    last = table.get(f"{4:032x}")
    assert last is not None
    assert table.ahead_of(last) == 3


def test_jobs_of_a_dead_service_are_taken_over_once(table: JobTable, monkeypatch: pytest.MonkeyPatch) -> None:
    table.live(OTHER, "2")
    mine, orphan = queued(table, 1), queued(table, 2, service=OTHER)
    table.reserve(job(3, service=OTHER), most=100, most_of_key=100)
    assert table.take_over(ME) == ([], []), "it lives"
    assert table.services() == {ME, OTHER}
    table.leave(OTHER)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: table.take_over(ME), range(4)))
    assert sorted(each for taken, _ in found for each in taken) == [orphan.id]
    assert [each for _, unread in found for each in unread] == [f"{3:032x}"], "data that nobody reads any more"
    assert table.of_service(ME) == {mine.id: False, orphan.id: False}
    assert not table.write(replace(orphan, state="done")), "the service that was taken for dead writes nothing"
    monkeypatch.setattr(table_module, "EXPIRES_S", -1.0)
    assert set(table.take_over(OTHER)[0]) == {mine.id, orphan.id}, "one that has not said for long that it lives"


def test_cancel_is_asked_for_and_seen(table: JobTable) -> None:
    first = queued(table, 1)
    assert table.ask_to_cancel(first.id)
    assert table.of_service(ME) == {first.id: True}
    assert table.write(replace(first, state="running")), "whoever writes does not know yet"
    assert table.of_service(ME) == {first.id: True}
    assert table.write(replace(first, state="cancelled"))
    assert not table.ask_to_cancel(first.id)
    table.tell_progress({first.id: {"fraction": 1.0}})
    found = table.get(first.id)
    assert found is not None
    assert found.progress == {}, "what has ended has no progress"
    assert table.changes([first.id, "gone"]) == {first.id: ("cancelled", found.changed)}
    assert [(each[0], each[2]) for each in table.finished()] == [(first.id, 0)]
    table.remove([first.id])
    assert table.ids() == set()


def test_a_table_of_a_newer_kdrift_is_refused(url: str) -> None:
    JobTable(url).close()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM serve_version")).scalar_one() == SCHEMA
        connection.execute(sa.text("UPDATE serve_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(ValueError, match=r"of a newer kdrift \(its version is 9999\)"):
        JobTable(url)


def test_a_database_that_is_gone_is_told_and_comes_back(server: Postgres) -> None:
    found = JobTable(server.url)
    queued(found, 1)
    server.stop()
    for ask in (lambda: found.get(f"{1:032x}"), lambda: found.reserve(job(2), most=9, most_of_key=9)):
        with pytest.raises(StateLost, match="the table of jobs does not answer"):
            ask()
    server.start()
    assert found.counts() == {"running": 0, "queued": 1}
    found.close()
