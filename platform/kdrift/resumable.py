"""Uploads that go on after a lost connection or a restart of the service: what `kdrift.client` sends large files by."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

import httpx

Progress = Callable[[int, int], object]
"""Called with the bytes that the service has, and those of the whole file."""
REQUEST_BYTES = 64 << 20
"""Sent by one request: well within the time that the service gives each."""
PATIENCE_S = 120.0
"""How long without a byte more the service is tried again."""
_UPLOADS = "/v1/uploads"
_TUS = {"Tus-Resumable": "1.0.0"}
_BLOCK_BYTES = 1 << 20
_LONGEST_PAUSE_S = 10.0
_LATER = (408, 409, 423, 429, 460, 502, 503, 504)
"""What is put right by asking where the upload is, and sending again."""


def send(http: httpx.Client, file: BinaryIO, size: int, name: str, progress: Progress | None = None) -> str:
    """Send `size` bytes of a file, from its beginning, by the protocol tus, and return the address of the upload.

    Raises `httpx.HTTPStatusError` where the service refuses, and the last `httpx.HTTPError` where it is away for
    `PATIENCE_S`.
    """
    filename = base64.b64encode(name.encode()).decode()
    headers = {**_TUS, "Upload-Length": str(size), "Upload-Metadata": f"filename {filename}"}
    address = http.post(_UPLOADS, headers=headers).raise_for_status().headers["Location"]
    offset, until, pause = 0, time.monotonic() + PATIENCE_S, 0.5
    while True:
        if progress is not None:
            progress(offset, size)
        if offset == size:
            return str(address)
        before = offset
        try:
            offset = _send_some(http, address, file, offset, size)
        except httpx.HTTPError as error:
            if _is_final(error) or time.monotonic() > until:
                raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            offset = _ask_where(http, address, offset)
        if offset != before:
            until, pause = time.monotonic() + PATIENCE_S, 0.5


def remove(http: httpx.Client, address: str) -> None:
    """Delete an upload; what fails is put right by the service, which keeps it for a while only."""
    with contextlib.suppress(httpx.HTTPError):
        http.delete(address, headers=_TUS)


def _send_some(http: httpx.Client, address: str, file: BinaryIO, offset: int, size: int) -> int:
    """Send what comes at `offset` and return where the upload ends then."""
    count = min(REQUEST_BYTES, size - offset)
    kind = {"Content-Type": "application/offset+octet-stream", "Content-Length": str(count)}
    headers = {**_TUS, **kind, "Upload-Offset": str(offset)}
    answer = http.patch(address, content=_blocks(file, offset, count), headers=headers).raise_for_status()
    return int(answer.headers["Upload-Offset"])


def _ask_where(http: httpx.Client, address: str, believed: int) -> int:
    """Return where an upload ends, or what was believed where the service does not answer."""
    try:
        return int(http.head(address, headers=_TUS).raise_for_status().headers["Upload-Offset"])
    except httpx.HTTPError:
        return believed


def _is_final(error: httpx.HTTPError) -> bool:
    """Whether the service refuses; a 404 while it starts is not its own."""
    if not isinstance(error, httpx.HTTPStatusError):
        return False
    status = error.response.status_code
    return status not in _LATER and not (status == 404 and "no upload" not in error.response.text)


def _blocks(file: BinaryIO, offset: int, count: int) -> Iterator[bytes]:
    file.seek(offset)
    while count > 0:
        block = file.read(min(_BLOCK_BYTES, count))
        if not block:
            raise ValueError("the file became shorter while it was sent: send it again")
        count -= len(block)
        yield block
