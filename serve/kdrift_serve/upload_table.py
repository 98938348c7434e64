"""The table of uploads that come in several requests, in the database of the jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from kdrift_serve.job_table import JobTable


@dataclass(frozen=True)
class Upload:
    """An upload, and how much of it is there."""

    id: str
    key: str
    """Name of the API key that it belongs to; empty where the service asks for none."""
    name: str
    """Name of the file, harmless."""
    metadata: str
    """What the client said of it, as it said it."""
    length: int
    """Bytes of the whole file."""
    offset: int
    """Bytes that are there."""
    changed: float
    """When it was last written to or used, by the clock of the table."""


class Locked(Exception):
    """Another request writes to the upload."""


class Moved(Exception):
    """The upload is not as the writer believes: elsewhere, or gone."""


class TooMany(Exception):
    """The key has too many uploads, or too many bytes; the text says which."""


class UploadTable:
    """Uploads; every method is one transaction. Raises `StateLost` as `JobTable` does.

    One request writes at a time: it holds the upload while the process that answers it (`holder`) lives.
    """

    def __init__(self, table: JobTable) -> None:
        self._table = table
        with table.begin() as connection:
            self._uploads, self._parts = (
                sa.Table(name, sa.MetaData(), autoload_with=connection)
                for name in ("serve_uploads", "serve_upload_parts")
            )

    def create(self, upload: Upload, *, most: int, most_bytes: int) -> Upload:
        """Add an upload and return it. Raises `TooMany` where its key would have more than `most`, or its jobs and
        uploads more than `most_bytes`."""
        uploads = self._uploads
        with self._table.begin() as connection:
            self._table.alone(connection)
            mine = uploads.c.key == upload.key
            count = connection.execute(sa.select(sa.func.count()).select_from(uploads).where(mine)).scalar_one()
            if count >= most:
                raise TooMany(f"this key has {count} uploads, more are not kept: delete some, or wait for their end")
            if self._table.held_by(connection, upload.key) + upload.length > most_bytes:
                raise TooMany(f"jobs and uploads of this key would hold more than {most_bytes >> 20} MiB: delete some")
            values = {name: getattr(upload, name) for name in ("id", "key", "name", "metadata", "length", "offset")}
            connection.execute(uploads.insert().values(**values, changed=self._table.now, holder="", writer=""))
        made = self.get(upload.id)
        assert made is not None
        return made

    def get(self, upload_id: str) -> Upload | None:
        """Return an upload, None where there is none of this id."""
        with self._table.begin() as connection:
            row = connection.execute(self._select().where(self._uploads.c.id == upload_id)).one_or_none()
            return None if row is None else _upload(row)

    def of_key(self, key: str) -> list[Upload]:
        """Return the uploads of a key, the newest first."""
        uploads = self._uploads
        with self._table.begin() as connection:
            rows = connection.execute(self._select().where(uploads.c.key == key).order_by(uploads.c.changed.desc()))
            return [_upload(row) for row in rows]

    def hold(self, upload_id: str, offset: int, holder: str, writer: str) -> None:
        """Let `writer`, a request to the process `holder`, alone write at `offset`. Raises `Moved` and `Locked`."""
        uploads, alive = self._uploads, self._table.alive()
        here = (uploads.c.id == upload_id) & (uploads.c.offset == offset)
        free = (uploads.c.holder == "") | uploads.c.holder.not_in(alive)
        with self._table.begin() as connection:
            values = {"holder": holder, "writer": writer, "changed": self._table.now}
            if connection.execute(uploads.update().where(here & free).values(values)).rowcount:
                return
            if connection.execute(sa.select(uploads.c.id).where(here)).first() is None:
                raise Moved
            raise Locked

    def let_go(self, upload_id: str, writer: str) -> None:
        """Let others write."""
        uploads = self._uploads
        with self._table.begin() as connection:
            mine = (uploads.c.id == upload_id) & (uploads.c.writer == writer)
            connection.execute(uploads.update().where(mine).values(holder="", writer="", changed=self._table.now))

    def add_part(self, upload_id: str, writer: str, start: int, size: int, name: str) -> None:
        """Say that the file `name` holds what comes next. Raises `Moved` where the upload is held no more."""
        uploads = self._uploads
        with self._table.begin() as connection:
            mine = (uploads.c.id == upload_id) & (uploads.c.writer == writer) & (uploads.c.offset == start)
            values = {"offset": start + size, "changed": self._table.now}
            if not connection.execute(uploads.update().where(mine).values(values)).rowcount:
                raise Moved
            connection.execute(self._parts.insert().values(upload=upload_id, start=start, name=name))

    def parts(self, upload_id: str) -> list[str]:
        """Return the names of the files that hold it, in order; its end is put off."""
        parts, uploads = self._parts, self._uploads
        with self._table.begin() as connection:
            connection.execute(uploads.update().where(uploads.c.id == upload_id).values(changed=self._table.now))
            rows = connection.execute(
                sa.select(parts.c.name).where(parts.c.upload == upload_id).order_by(parts.c.start)
            )
            return [str(row.name) for row in rows]

    def remove(self, upload_id: str) -> None:
        """Forget an upload."""
        self._remove(self._uploads.c.id == upload_id)

    def remove_older(self, seconds: float) -> None:
        """Forget uploads that were not written to or used for so long, and are not written to now."""
        uploads = self._uploads
        free = (uploads.c.holder == "") | uploads.c.holder.not_in(self._table.alive())
        self._remove(free & (uploads.c.changed < self._table.now - seconds))

    def ids(self) -> set[str]:
        """Return the ids of all uploads."""
        with self._table.begin() as connection:
            return {str(row.id) for row in connection.execute(sa.select(self._uploads.c.id))}

    def _select(self) -> sa.Select[Any]:
        return sa.select(*(self._uploads.c[name] for name in Upload.__dataclass_fields__))

    def _remove(self, which: sa.ColumnElement[bool]) -> None:
        with self._table.begin() as connection:
            gone = [
                row.id for row in connection.execute(self._uploads.delete().where(which).returning(self._uploads.c.id))
            ]
            connection.execute(self._parts.delete().where(self._parts.c.upload.in_(gone)))


def _upload(row: sa.Row[Any]) -> Upload:
    return Upload(**{name: getattr(row, name) for name in Upload.__dataclass_fields__})
