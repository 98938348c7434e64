"""Uploads that come in several requests: parts in the storage, a row in the table, whatever process answers.

What a request brings is written to a file of the process that answers, and becomes a part, which is whole or not at
all, every `PART_BYTES` or `PART_S` and when the request ends, broken off or not. So a process that dies loses no more
than that, and any other goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import shutil
import threading
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.requests import ClientDisconnect

from kdrift_serve.auth import Caller
from kdrift_serve.job_files import JobFiles, told
from kdrift_serve.job_table import JobTable, StateLost
from kdrift_serve.problems import Problem
from kdrift_serve.serve_config import Limits
from kdrift_serve.upload_table import Locked, Moved, TooMany, Upload, UploadTable

PART_BYTES, PART_S = 32 << 20, 10.0
CHECKSUMS = ("sha1", "sha256")
"""What a client may send of the body of a request; for one with such a sum all of its body is kept, or nothing."""
_PARTS = "parts"


class Uploads:
    """The uploads of all keys, as one process that answers sees them; `own` is its name among the services."""

    def __init__(self, table: JobTable, files: JobFiles, limits: Limits, own: str) -> None:
        self._table, self._files, self._limits, self._own = UploadTable(table), files, limits, own
        self._held = set[tuple[str, str]]()
        """Uploads that the table was not told yet to let go of, and their writers."""

    async def create(self, caller: Caller, length: int, name: str, metadata: str) -> Upload:
        """Begin an upload. Raises `Problem` (429) where the key has too many, or too many bytes."""
        limits = self._limits
        upload = Upload(uuid.uuid4().hex, caller.name, name, metadata, length, 0, 0.0)
        most = {"most": limits.uploads_a_key, "most_bytes": limits.key_mb << 20}
        try:
            return await asyncio.to_thread(self._table.create, upload, **most)
        except TooMany as error:
            raise Problem(429, str(error), {"Retry-After": "60"}) from None

    async def find(self, upload_id: str, caller: Caller) -> Upload:
        """Return an upload or raise a `Problem` (404)."""
        upload = await asyncio.to_thread(self._table.get, upload_id)
        if upload is None or not caller.may_see(upload.key) or self.ends(upload) < time.time():
            raise Problem(404, "there is no upload of this id, or any more")
        return upload

    async def of_key(self, caller: Caller) -> list[Upload]:
        """Return the uploads of a key, the newest first."""
        return await asyncio.to_thread(self._table.of_key, caller.name)

    @property
    def most(self) -> int:
        """Bytes of the largest file."""
        return self._limits.upload_mb << 20

    def ends(self, upload: Upload) -> float:
        """Return when an upload is deleted unless it is written to or used before, in seconds since 1970."""
        return upload.changed + self._limits.upload_hours * 3600

    async def remove(self, upload: Upload) -> None:
        """Delete an upload; a request that writes to it finds out."""
        await asyncio.to_thread(self._table.remove, upload.id)
        with contextlib.suppress(StateLost):  # the sweep takes files of no upload
            await asyncio.to_thread(self._files.remove, upload.id)

    async def append(
        self, upload: Upload, offset: int, body: AsyncIterator[bytes], checksum: tuple[str, bytes] | None = None
    ) -> Upload:
        """Add what a request brings at `offset` and return the upload as it is then.

        Raises `Problem`: 409 where the upload ends elsewhere, 423 while another request writes, 460 where `checksum`,
        of `CHECKSUMS`, is not that of the body; and what `body` raises, whose bytes until then are kept where the
        request stalled or was broken off.
        """
        writer = uuid.uuid4().hex
        try:
            await asyncio.to_thread(self._table.hold, upload.id, offset, self._own, writer)
        except (Moved, Locked) as error:
            raise _refusal(error) from None
        writing = None
        try:
            writing = await asyncio.to_thread(self._writing, upload.id, offset, writer, checksum)
            async for data in body:
                await asyncio.to_thread(writing.write, data)
            await asyncio.to_thread(writing.end)
        except (ClientDisconnect, asyncio.CancelledError, Problem) as error:
            resumed = not isinstance(error, Problem) or error.status == 408
            if writing is not None and resumed and checksum is None:
                with contextlib.suppress(Moved, StateLost):
                    await asyncio.shield(asyncio.to_thread(writing.end))
            raise
        except Moved as error:
            with contextlib.suppress(StateLost):  # the sweep does it
                if await asyncio.to_thread(self._table.get, upload.id) is None:
                    await asyncio.to_thread(self._files.remove, upload.id)
            raise _refusal(error) from None
        finally:
            if writing is not None:
                await asyncio.shield(asyncio.to_thread(writing.close))
            with contextlib.suppress(StateLost):
                await asyncio.shield(asyncio.to_thread(self._let_go, upload.id, writer))
        found = await asyncio.to_thread(self._table.get, upload.id)
        if found is None:
            raise _refusal(Moved())
        return found

    def _writing(self, upload_id: str, start: int, writer: str, checksum: tuple[str, bytes] | None) -> _Writing:
        folder = self._files.temporary(self._own)
        return _Writing(self._files, self._table, folder, upload_id, start, writer, checksum)

    def let_go_left(self) -> None:
        """Let others write to what the table was not told of: it did not answer."""
        for upload_id, writer in tuple(self._held):
            self._let_go(upload_id, writer)

    def _let_go(self, upload_id: str, writer: str) -> None:
        self._held.add((upload_id, writer))
        self._table.let_go(upload_id, writer)
        self._held.discard((upload_id, writer))

    async def fetch(self, upload_id: str, caller: Caller, folder: Path, name: str | None) -> Path:
        """Write a finished upload to a file in `folder`, called `name` or as the client named it, and return its path.

        Raises `Problem` (400, 404, 409), and `DiskFull`.
        """
        upload = await self.find(upload_id, caller)
        if upload.offset < upload.length:
            raise Problem(409, f"this upload is not finished: {upload.offset} of {upload.length} bytes are there")
        if upload.length == 0:
            raise Problem(400, "this upload is empty: send a file")
        target = folder / (name or upload.name)
        await asyncio.to_thread(self._join, upload, target)
        return target

    def _join(self, upload: Upload, target: Path) -> None:
        with told(), target.open("wb") as file:
            for name in self._table.parts(upload.id):
                path = self._files.get(upload.id, f"{_PARTS}/{name}")
                if path is None:
                    raise Problem(404, "this upload was deleted")
                with path.open("rb") as part:
                    shutil.copyfileobj(part, file, 1 << 20)


class _Writing:
    """What one request writes from `start` on. Its methods block, and know that a call before may still run, given up
    by the request that made it."""

    def __init__(
        self, files: JobFiles, table: UploadTable, folder: Path, upload_id: str, start: int, writer: str,
        checksum: tuple[str, bytes] | None,
    ) -> None:  # fmt: skip
        self._files, self._table, self._folder = files, table, folder
        self._id, self._start, self._writer, self._lock = upload_id, start, writer, threading.Lock()
        self._wanted = checksum[1] if checksum is not None else b""
        self._sum = hashlib.new(checksum[0]) if checksum is not None else None
        self._open()

    def _open(self) -> None:
        with told():
            self._file = (self._folder / "part").open("wb")
        self._size, self._began = 0, time.monotonic()

    def write(self, data: bytes) -> None:
        """Take what came; now and then it becomes a part."""
        with self._lock:
            if self._file.closed:
                return
            with told():
                self._file.write(data)
            self._size += len(data)
            if self._sum is not None:
                self._sum.update(data)
            elif self._size >= PART_BYTES or time.monotonic() - self._began >= PART_S:
                self._keep()
                self._open()

    def end(self) -> None:
        """Make the rest a part. Raises `Problem` (460) where it is not what the client meant to send."""
        with self._lock:
            if self._file.closed:
                return
            if self._sum is not None and not hmac.compare_digest(self._sum.digest(), self._wanted):
                raise Problem(
                    460, f"the {self._sum.name} of what came is another: nothing of it is kept, send it again"
                )
            self._keep()

    def _keep(self) -> None:
        with told():
            self._file.close()
        if self._size:
            name = f"{self._start:015d}-{self._writer}"
            self._files.put(self._id, f"{_PARTS}/{name}", self._folder / "part")
            self._table.add_part(self._id, self._writer, self._start, self._size, name)
            self._start += self._size

    def close(self) -> None:
        """Delete what did not become a part."""
        with self._lock, contextlib.suppress(OSError):  # a full disk has no room for what was not yet written
            self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _refusal(error: Moved | Locked) -> Problem:
    if isinstance(error, Locked):
        return Problem(423, "another request writes to this upload: try again in a few seconds", {"Retry-After": "5"})
    return Problem(409, "Upload-Offset is not where this upload ends: ask for it by HEAD")
