"""Uploads in several requests, by the parts of two processes on one table: what is kept, who may write."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from starlette.requests import ClientDisconnect

from kdrift_serve import uploads as uploads_module
from kdrift_serve.auth import Caller
from kdrift_serve.job_files import JobFiles
from kdrift_serve.job_table import DiskFull, JobTable, StateLost
from kdrift_serve.problems import Problem
from kdrift_serve.serve_config import Limits
from kdrift_serve.sweep import sweep
from kdrift_serve.upload_table import Moved, Upload
from kdrift_serve.uploads import Uploads
from postgres_helpers import Postgres, postgres
from s3_helpers import Server

ONE, TWO = "a" * 32, "b" * 32
WARD, OTHER = Caller("ward", frozenset(("read", "submit"))), Caller("other", frozenset(("read", "submit")))
LIMITS = Limits(uploads_a_key=3, key_mb=4)


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


@pytest.fixture(params=["folder and SQLite", "S3 and PostgreSQL"])
def places(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Storage and database."""
    if request.param == "folder and SQLite":
        return str(tmp_path / "store"), f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    s3: Server = request.getfixturevalue("server")
    postgresql: Postgres = request.getfixturevalue("database")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return f"s3://{s3.bucket()}/serve", postgresql.url


class Process:
    """What an ingress has for uploads."""

    made: ClassVar[list[JobTable]] = []

    def __init__(self, storage: str, database: str, own: str, limits: Limits = LIMITS) -> None:
        self.table, self.files, self.own = JobTable(database), JobFiles(storage), own
        self.made.append(self.table)
        self.table.live(own, "1")
        self.uploads = Uploads(self.table, self.files, limits, own)

    def create(self, length: int = 6, caller: Caller = WARD) -> Upload:
        return asyncio.run(self.uploads.create(caller, length, "scan.h5", ""))

    def append(self, upload: Upload, offset: int, *body: bytes | BaseException, **values: Any) -> Upload:
        return asyncio.run(self.uploads.append(upload, offset, coming(*body), **values))

    def offset(self, upload: Upload, caller: Caller = WARD) -> int:
        return asyncio.run(self.uploads.find(upload.id, caller)).offset

    def content(self, upload: Upload, folder: Path) -> bytes:
        folder.mkdir(exist_ok=True)
        return asyncio.run(self.uploads.fetch(upload.id, WARD, folder, None)).read_bytes()


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while Process.made:
        Process.made.pop().close()


async def coming(*parts: bytes | BaseException) -> AsyncIterator[bytes]:
    for part in parts:
        if isinstance(part, BaseException):
            raise part
        yield part


def status_of(error: pytest.ExceptionInfo[Problem]) -> int:
    return error.value.status


def test_any_process_goes_on_where_another_stopped(places: tuple[str, str], tmp_path: Path) -> None:
    first, second = Process(*places, ONE), Process(*places, TWO)
    upload = first.create()
    with pytest.raises(ClientDisconnect):
        first.append(upload, 0, b"a", b"b", ClientDisconnect())
    assert second.offset(upload) == 2, "what came is kept"
    with pytest.raises(Problem, match="408"):
        second.append(upload, 2, b"c", Problem(408, "408"))
    assert first.append(upload, 3, b"de").offset == 5
    with pytest.raises(Problem, match="5 of 6 bytes") as error:
        first.content(upload, tmp_path / "x")
    assert status_of(error) == 409
    with pytest.raises(Problem, match="where this upload ends") as error:
        second.append(upload, 3, b"x")
    assert status_of(error) == 409
    with pytest.raises(Problem, match="413"):
        second.append(upload, 5, b"f", Problem(413, "413"))
    assert first.offset(upload) == 5, "of a request that is wrong nothing is kept"
    assert second.append(upload, 5, b"f").offset == 6
    assert first.content(upload, tmp_path / "y") == b"abcdef"
    assert second.content(upload, tmp_path / "z") == b"abcdef", "it may be used again"
    with pytest.raises(Problem, match="no upload") as error:
        first.offset(upload, OTHER)
    assert status_of(error) == 404
    asyncio.run(first.uploads.remove(upload))
    with pytest.raises(Problem, match="no upload"):
        second.offset(upload)
    for each in (first, second):
        assert not list(each.files.incoming.iterdir())
        assert each.files.jobs() == set()


def test_one_writes_at_a_time_and_a_dead_one_not_for_long(places: tuple[str, str]) -> None:
    first, second = Process(*places, ONE), Process(*places, TWO)
    upload = first.create()

    async def both() -> None:
        began, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"ab"
            began.set()
            await go_on.wait()
            yield b"c"

        writing = asyncio.create_task(first.uploads.append(upload, 0, slow()))
        await began.wait()
        for each in (first, second):
            with pytest.raises(Problem, match="another request writes") as error:
                await each.uploads.append(upload, 0, coming(b"x"))
            assert status_of(error) == 423
        go_on.set()
        assert (await writing).offset == 3

    asyncio.run(both())
    first.uploads._table.hold(upload.id, 3, ONE, "w" * 32)  # a process that was killed
    with pytest.raises(Problem, match="another request writes"):
        second.append(upload, 3, b"d")
    first.table.leave(ONE)
    assert second.append(upload, 3, b"def").offset == 6
    with pytest.raises(Moved):
        first.uploads._table.add_part(upload.id, "w" * 32, 3, 1, "late")


def test_an_upload_that_is_deleted_while_it_comes_is_gone(tmp_path: Path) -> None:
    process = Process(str(tmp_path), f"sqlite:///{tmp_path / 'jobs.sqlite'}", ONE)
    upload = process.create()

    async def deleted() -> AsyncIterator[bytes]:
        yield b"ab"
        await process.uploads.remove(upload)
        yield b"c"

    with pytest.raises(Problem) as error:
        asyncio.run(process.uploads.append(upload, 0, deleted()))
    assert status_of(error) == 409
    assert process.files.jobs() == set()
    assert not list(process.files.incoming.iterdir())


def test_parts_are_kept_while_a_request_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies loses what came since the last part."""
    monkeypatch.setattr(uploads_module, "PART_BYTES", 4)
    process = Process(str(tmp_path), f"sqlite:///{tmp_path / 'jobs.sqlite'}", ONE)
    upload = process.create(10)
    seen = []

    async def body() -> AsyncIterator[bytes]:
        for part in (b"012", b"345", b"678", b"9"):
            yield part
            seen.append((await asyncio.to_thread(process.uploads._table.get, upload.id)).offset)  # type: ignore[union-attr]

    assert asyncio.run(process.uploads.append(upload, 0, body())).offset == 10
    assert seen == [0, 6, 6, 10]
    assert process.content(upload, tmp_path / "out") == b"0123456789"


def test_a_request_that_is_cancelled_keeps_what_came(tmp_path: Path) -> None:
    process = Process(str(tmp_path), f"sqlite:///{tmp_path / 'jobs.sqlite'}", ONE)
    upload = process.create()

    async def cancelled() -> None:
        came = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield b"abc"
            came.set()
            await asyncio.sleep(60)

        task = asyncio.create_task(process.uploads.append(upload, 0, body()))
        await came.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert process.append(upload, 3, b"def").offset == 6
    assert process.content(upload, tmp_path / "out") == b"abcdef"


def test_a_checksum_holds_for_all_of_a_request(tmp_path: Path) -> None:
    process = Process(str(tmp_path), f"sqlite:///{tmp_path / 'jobs.sqlite'}", ONE)
    upload = process.create()
    good = ("sha1", hashlib.sha1(b"abc").digest())
    for body in ((b"ab", b"d"), (b"ab", ClientDisconnect()), ()):
        with pytest.raises((Problem, ClientDisconnect)) as error:
            process.append(upload, 0, *body, checksum=good)
        assert isinstance(error.value, ClientDisconnect) or error.value.status == 460
        assert process.offset(upload) == 0
    assert process.append(upload, 0, b"ab", b"c", checksum=good).offset == 3
    assert process.append(upload, 3, b"def", checksum=("sha256", hashlib.sha256(b"def").digest())).offset == 6


def test_a_key_has_so_many_uploads_and_bytes(tmp_path: Path) -> None:
    process = Process(str(tmp_path), f"sqlite:///{tmp_path / 'jobs.sqlite'}", ONE)
    made = [process.create(1 << 20) for _ in range(3)]
    for refused, sentence in ((1, "3 uploads, more are not kept"),):
        with pytest.raises(Problem, match=sentence) as error:
            process.create(refused)
        assert status_of(error) == 429
    asyncio.run(process.uploads.remove(made[0]))
    with pytest.raises(Problem, match="hold more than 4 MiB") as error:
        process.create((2 << 20) + 1)
    assert status_of(error) == 429
    assert process.table.size_of("ward") == 2 << 20
    process.create(2 << 20)
    process.create(4 << 20, OTHER)
    assert [each.length >> 20 for each in asyncio.run(process.uploads.of_key(WARD))] == [2, 1, 1]


def test_the_sweep_takes_what_nobody_goes_on_with(tmp_path: Path) -> None:
    store, database = str(tmp_path / "store"), f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    process = Process(store, database, ONE)
    old, held, new = (process.create(3) for _ in range(3))
    for each in (old, held, new):
        process.append(each, 0, b"a")
    process.uploads._table.hold(held.id, 1, ONE, "w" * 32)
    engine = sa.create_engine(database)
    with engine.begin() as connection:
        where = f"id IN ('{old.id}', '{held.id}')"
        connection.execute(sa.text(f"UPDATE serve_uploads SET changed = changed - 90000 WHERE {where}"))
    engine.dispose()
    with pytest.raises(Problem, match="or any more"):
        process.offset(old)
    sweep(process.table, process.files, LIMITS)
    assert process.files.jobs() == {held.id, new.id}
    assert process.uploads._table.ids() == {held.id, new.id}
    assert process.append(new, 1, b"bc").offset == 3
    assert time.time() < process.uploads.ends(new) < time.time() + 86401


def test_a_full_disk_and_a_table_that_is_away_leave_nothing_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here: that needs root")
    try:
        process = Process(str(small), f"sqlite:///{tmp_path / 'jobs.sqlite'}", ONE)
        upload = process.create(4 << 20)
        assert process.append(upload, 0, bytes(1 << 20)).offset == 1 << 20
        with pytest.raises(DiskFull, match="the disk of the service is full"):
            process.append(upload, 1 << 20, *(bytes(1 << 18) for _ in range(12)))
        assert process.offset(upload) == 1 << 20
        assert not list(process.files.incoming.iterdir())
        assert process.append(upload, 1 << 20, bytes(1000)).offset == (1 << 20) + 1000, "there is room again"
        away = process.uploads._table

        def lost(*_: Any) -> None:
            raise StateLost("the table of jobs does not answer")

        with monkeypatch.context() as patch:
            patch.setattr(away, "let_go", lost)
            process.append(upload, (1 << 20) + 1000, b"x")
            with pytest.raises(Problem, match="another request writes"):
                process.append(upload, (1 << 20) + 1001, b"x")
        process.uploads.let_go_left()
        assert process.append(upload, (1 << 20) + 1001, b"x").offset == (1 << 20) + 1002
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
