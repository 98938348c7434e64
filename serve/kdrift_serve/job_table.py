"""The table of jobs: the one place where their state is. SQLite for one machine, PostgreSQL for several.

A job belongs to the service that took it on. A service that lives says so every few seconds; jobs of one that has not
for `EXPIRES_S` may be taken over, by one statement of which one alone succeeds.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from kdrift.runs.config import parse
from kdrift_serve.jobs import ACTIVE, Job
from kdrift_serve.schema import upgrade

EXPIRES_S = 10.0
"""A service that has not said for so long that it lives is taken for dead."""
_COLUMNS = ("id", "state", "key", "service", "created", "changed", "cancel", "size", "progress", "facts")
logger = logging.getLogger("ray.serve")
_HELD = ("reading", *ACTIVE)
"""States of jobs that take a place of the queue."""
_LOCK = 7_214_331
"""The one of PostgreSQL's advisory locks that is held while places are counted."""


class StateLost(Exception):
    """The table cannot be read or written now; the text says why. What was asked has not been done."""


class DiskFull(StateLost):
    """There is no room for what is to be written."""


FULL = errno.ENOSPC, errno.EDQUOT
"""What the system says then."""


class QueueFull(Exception):
    """Every place is taken; `queued` and `running` say by how many jobs."""

    def __init__(self, queued: int, running: int, *, own: bool) -> None:
        super().__init__(queued, running)
        self.queued, self.running, self.own = queued, running, own


class JobTable:
    """Jobs and services in a database; every method is one transaction, and may be called from any thread.

    Raises `StateLost` where the database does not answer, ValueError where its tables were made by a newer kdrift.
    """

    def __init__(self, url: str) -> None:
        self._sqlite = url.startswith("sqlite")
        options: dict[str, Any] = {"connect_args": {"timeout": 10}} if self._sqlite else {"pool_pre_ping": True}
        self._engine = sa.create_engine(url, pool_size=4, **options)
        if self._sqlite:
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
            sa.event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        metadata = sa.MetaData()
        try:
            with self.begin() as connection:
                upgrade(connection)
                self._jobs = sa.Table("serve_jobs", metadata, autoload_with=connection)
                self._services = sa.Table("serve_services", metadata, autoload_with=connection)
                self._uploads = sa.Table("serve_uploads", metadata, autoload_with=connection)
        except BaseException:
            self.close()
            raise
        seconds = (
            "(julianday('now') - 2440587.5) * 86400.0" if self._sqlite else "extract(epoch from clock_timestamp())"
        )
        self.now: sa.ColumnElement[float] = sa.literal_column(seconds, sa.Float(53))
        """The clock of the database, the same for all services."""

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    @contextlib.contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """Yield a connection in a transaction. Raises `StateLost`."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            said = " ".join(str(error.orig).split())
            if error.connection_invalidated:
                self._engine.dispose()
            if ("disk" in said and "full" in said) or "No space left" in said:
                raise DiskFull("the disk of the table of jobs is full") from None
            logger.error("the table of jobs does not answer: %.400s", said)  # whose address is not for clients
            raise StateLost("the table of jobs does not answer") from None
        except SQLAlchemyError as error:
            raise StateLost(f"the table of jobs does not answer ({type(error).__name__})") from None

    def alone(self, connection: sa.Connection) -> None:
        """Let no other transaction that says so run beside this one: for what is counted and then added to."""
        if not self._sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def reserve(self, job: Job, *, most: int, most_of_key: int) -> None:
        """Add a job whose data are about to be read. Raises `QueueFull` where `most` jobs, or `most_of_key` of its key,
        wait or run."""
        jobs = self._jobs
        with self.begin() as connection:
            self.alone(connection)
            held = sa.select(jobs.c.state, jobs.c.key).where(jobs.c.state.in_(_HELD))
            states = [(row.state, row.key) for row in connection.execute(held)]
            own = sum(key == job.key for _, key in states)
            if len(states) >= most or own >= most_of_key:
                running = sum(state == "running" for state, _ in states)
                raise QueueFull(len(states) - running, running, own=own >= most_of_key)
            connection.execute(jobs.insert().values(self._values(job)))

    def get(self, job_id: str) -> Job | None:
        """Return a job, None where there is none of this id."""
        found = self._find(self._jobs.c.id == job_id)
        return found[0] if found else None

    def changes(self, job_ids: Iterable[str]) -> dict[str, tuple[str, float]]:
        """Return state and time of the last change of these jobs; one that is gone is left out."""
        jobs = self._jobs
        with self.begin() as connection:
            wanted = jobs.c.id.in_(list(job_ids))
            rows = connection.execute(sa.select(jobs.c.id, jobs.c.state, jobs.c.changed).where(wanted))
            return {str(row.id): (str(row.state), float(row.changed)) for row in rows}

    def newest(
        self, key: str | None, *, count: int, before: float | None = None, state: str | None = None
    ) -> list[Job]:
        """Return the newest jobs of a key (None: of all), without those whose data are being read."""
        jobs = self._jobs
        where = [jobs.c.state != "reading"]
        where += [jobs.c.key == key] if key is not None else []
        where += [jobs.c.created < before] if before is not None else []
        where += [jobs.c.state == state] if state is not None else []
        return self._find(*where, order=jobs.c.created.desc(), count=count)

    def counts(self) -> dict[str, int]:
        """Return how many jobs run and wait."""
        jobs = self._jobs
        with self.begin() as connection:
            rows = connection.execute(
                sa.select(jobs.c.state, sa.func.count()).where(jobs.c.state.in_(ACTIVE)).group_by(jobs.c.state)
            )
            found = {str(state): int(count) for state, count in rows}
        return {"running": found.get("running", 0), "queued": found.get("queued", 0)}

    def ahead_of(self, job: Job) -> int:
        """Return how many jobs that wait were accepted before one."""
        jobs = self._jobs
        with self.begin() as connection:
            where = (jobs.c.state == "queued") & (jobs.c.created < job.created)
            return int(connection.execute(sa.select(sa.func.count()).where(where)).scalar_one())

    def write(self, job: Job) -> bool:
        """Replace an unfinished job of the same service. False: it has ended, was taken over, or is gone."""
        jobs = self._jobs
        values = self._values(job)
        del values["cancel"]  # asked for by others
        mine = (jobs.c.id == job.id) & (jobs.c.service == job.service) & jobs.c.state.in_(_HELD)
        with self.begin() as connection:
            return bool(connection.execute(jobs.update().where(mine).values(values)).rowcount)

    def hand_over(self, job: Job, service: str) -> None:
        """Put a job whose data were read into the queue of a service."""
        jobs = self._jobs
        values = self._values(replace(job, state="queued", service=service))
        with self.begin() as connection:
            if not connection.execute(jobs.update().where(jobs.c.id == job.id).values(values)).rowcount:
                raise StateLost("the place of this request was given to another: send it again")

    def tell_progress(self, progress: Mapping[str, Mapping[str, Any]]) -> None:
        """Write how far jobs are, by their ids."""
        jobs = self._jobs
        with self.begin() as connection:
            for job_id, values in progress.items():
                where = (jobs.c.id == job_id) & jobs.c.state.in_(ACTIVE)
                connection.execute(jobs.update().where(where).values(progress=json.dumps(values), changed=self.now))

    def ask_to_cancel(self, job_id: str) -> bool:
        """Ask for the end of a job that waits or runs; False: there is nothing to cancel."""
        jobs = self._jobs
        with self.begin() as connection:
            where = (jobs.c.id == job_id) & jobs.c.state.in_(ACTIVE)
            return bool(connection.execute(jobs.update().where(where).values(cancel=True)).rowcount)

    def remove(self, job_ids: Iterable[str]) -> None:
        """Forget jobs that have ended, or whose data were refused."""
        with self.begin() as connection:
            connection.execute(self._jobs.delete().where(self._jobs.c.id.in_(list(job_ids))))

    def finished(self) -> list[tuple[str, float, int]]:
        """Return id, last change and size of all jobs that have ended, the newest first."""
        jobs = self._jobs
        with self.begin() as connection:
            columns = sa.select(jobs.c.id, jobs.c.changed, jobs.c.size).where(jobs.c.state.not_in(_HELD))
            rows = connection.execute(columns.order_by(jobs.c.changed.desc()))
            return [(str(row.id), float(row.changed), int(row.size)) for row in rows]

    def size_of(self, key: str) -> int:
        """Return how many bytes the jobs and uploads of a key hold."""
        with self.begin() as connection:
            return self.held_by(connection, key)

    def held_by(self, connection: sa.Connection, key: str) -> int:
        """Return how many bytes the jobs and uploads of a key hold, within a transaction."""
        columns = (self._jobs.c.key, self._jobs.c.size), (self._uploads.c.key, self._uploads.c.length)
        sums = [sa.select(sa.func.coalesce(sa.func.sum(size), 0)).where(owner == key) for owner, size in columns]
        return sum(int(connection.execute(each).scalar_one()) for each in sums)

    def ids(self, *, held: bool = False) -> set[str]:
        """Return the ids of all jobs, or of those that have not ended."""
        jobs = self._jobs
        query = sa.select(jobs.c.id)
        with self.begin() as connection:
            return {str(row.id) for row in connection.execute(query.where(jobs.c.state.in_(_HELD)) if held else query)}

    # --- services -----------------------------------------------------------------------------------------------------

    def live(self, service: str, version: str) -> None:
        """Say that a service lives."""
        services = self._services
        with self.begin() as connection:
            values = {"seen": self.now, "version": version}
            if not connection.execute(services.update().where(services.c.id == service).values(values)).rowcount:
                connection.execute(services.insert().values(id=service, **values))

    def services(self) -> set[str]:
        """Return the services that live."""
        with self.begin() as connection:
            return {str(row.id) for row in connection.execute(self.alive())}

    def alive(self) -> sa.Select[tuple[str]]:
        """Return the query for the services that live."""
        services = self._services
        return sa.select(services.c.id).where(services.c.seen > self.now - EXPIRES_S)

    def leave(self, service: str) -> None:
        """Say that a service ends: its jobs may be taken over at once."""
        with self.begin() as connection:
            connection.execute(self._services.delete().where(self._services.c.id == service))

    def of_service(self, service: str) -> dict[str, bool]:
        """Return the jobs that wait or run of a service: whether their end was asked for, by their ids, the oldest
        first."""
        jobs = self._jobs
        with self.begin() as connection:
            mine = (jobs.c.service == service) & jobs.c.state.in_(ACTIVE)
            rows = connection.execute(sa.select(jobs.c.id, jobs.c.cancel).where(mine).order_by(jobs.c.created))
            return {row.id: bool(row.cancel) for row in rows}

    def take_over(self, service: str) -> tuple[list[str], list[str]]:
        """Make the jobs of services that are dead those of `service`.

        Return the ids of those taken over, and of those whose data nobody reads any more: these are forgotten.
        """
        jobs, services = self._jobs, self._services
        orphans = jobs.c.state.in_(_HELD) & jobs.c.service.not_in(self.alive())
        with self.begin() as connection:
            connection.execute(services.delete().where(services.c.seen < self.now - 100 * EXPIRES_S))
            found = list(connection.execute(sa.select(jobs.c.id, jobs.c.state).where(orphans)))
            gone = orphans & (jobs.c.state == "reading")
            unread = [str(row.id) for row in connection.execute(jobs.delete().where(gone).returning(jobs.c.id))]
            taken = []
            for row in found:
                if row.state != "reading":
                    mine = orphans & (jobs.c.id == row.id)
                    if connection.execute(jobs.update().where(mine).values(service=service)).rowcount:
                        taken.append(str(row.id))
            return taken, unread

    # ------------------------------------------------------------------------------------------------------------------

    def _values(self, job: Job) -> dict[str, Any]:
        values = asdict(job)
        own = {name: values.pop(name) for name in _COLUMNS if name in values}
        return own | {
            "changed": self.now, "progress": json.dumps(own["progress"]), "facts": json.dumps(values),
        }  # fmt: skip

    def _find(self, *where: Any, order: Any = None, count: int | None = None) -> list[Job]:
        query = sa.select(self._jobs).where(*where)
        query = query if order is None else query.order_by(order)
        with self.begin() as connection:
            return [_job(dict(row._mapping)) for row in connection.execute(query.limit(count))]


_OWN = {each.name for each in fields(Job)} & set(_COLUMNS)


def _job(row: Mapping[str, Any]) -> Job:
    own = {name: row[name] for name in _OWN} | {"progress": json.loads(row["progress"]), "cancel": bool(row["cancel"])}
    return parse(Job, {**own, **json.loads(row["facts"])}, "job")


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """Readers and one writer at a time, each commit on the disk; SQLAlchemy begins transactions, not the driver."""
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
