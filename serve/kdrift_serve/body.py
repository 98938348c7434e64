"""Bodies of requests: refused by their announced size, cut off at the limit or when they stall, never held in memory
when large."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from fastapi import Request

from kdrift_serve.job_files import told
from kdrift_serve.problems import Problem
from kdrift_serve.serve_config import Limits

WINDOW_S = 10.0
"""Over which an upload has to be fast enough, and within which a JSON body has to be there."""


class Receiving:
    """Places for uploads that are received at a time, at most half of them of one key."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, Counter[str]()

    @contextlib.contextmanager
    def place(self, key: str) -> Iterator[None]:
        """Hold a place for the block. Raises `Problem` (429) when none is free."""
        if self._held.total() >= self._most or self._held[key] >= max(1, self._most // 2):
            raise Problem(429, "too many uploads are under way: try again in 10 s", {"Retry-After": "10"})
        self._held[key] += 1
        try:
            yield
        finally:
            self._held[key] -= 1


async def read_json(http: Request, limit: int) -> bytes:
    """Read a body into memory, at most one part beyond `limit`. Raises `Problem` (400, 408, 413)."""
    body = bytearray()
    _check_declared(http, limit, "JSON")
    try:
        async with asyncio.timeout(WINDOW_S):
            async for part in http.stream():
                body += part
                if len(body) > limit:
                    break  # the parser of the JSON says so
    except TimeoutError:
        raise Problem(408, f"the JSON did not come within {WINDOW_S:g} s") from None
    return bytes(body)


async def receive_file(http: Request, target: Path, limits: Limits) -> None:
    """Write the body to a file. Raises `Problem` (400, 408, 413), and `DiskFull`."""
    limit, received = limits.upload_mb << 20, 0
    with told(), target.open("wb") as file:
        async for part in body_parts(http, limit, limits):
            received += len(part)
            await asyncio.to_thread(file.write, part)
    if received == 0:
        raise Problem(400, "the body is empty: send the file as the body of the request")


async def body_parts(http: Request, most: int, limits: Limits, too_large: str = "") -> AsyncIterator[bytes]:
    """Yield a body of at most `most` bytes as it comes, fast enough and whole.

    Raises `Problem`: 413 (with the sentence `too_large`), 408, 400 where less came than was announced.
    """
    declared, received = _check_declared(http, most, "upload", too_large), 0
    async for part in _fast_enough(http, limits.upload_kb_s * 1024):
        received += len(part)
        if received > most:
            raise _too_large(most, "upload", too_large)
        yield part
    if declared is not None and received != declared:
        raise Problem(400, f"the upload is truncated: {declared} bytes were announced, {received} came")


async def _fast_enough(http: Request, least: float) -> AsyncIterator[bytes]:
    """Yield the parts of a body that comes with at least `least` bytes a second."""
    parts = aiter(http.stream())
    began, came = time.monotonic(), 0
    while True:
        try:
            async with asyncio.timeout(WINDOW_S):
                part = await anext(parts)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Problem(408, f"the upload stalled for {WINDOW_S:g} s") from None
        came += len(part)
        seconds = time.monotonic() - began
        if seconds > WINDOW_S:
            if came < least * seconds:
                raise Problem(408, f"the upload is slower than {least / 1024:g} KiB/s")
            began, came = time.monotonic(), 0
        yield part


def _check_declared(http: Request, limit: int, what: str, too_large: str = "") -> int | None:
    """Refuse a body by the size it announces, before any of it is read."""
    text = http.headers.get("content-length")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit():
        raise Problem(400, "Content-Length is not a number")
    if int(text) > limit:
        raise _too_large(limit, what, too_large)
    return int(text)


def _too_large(limit: int, what: str, sentence: str = "") -> Problem:
    size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
    return Problem(413, sentence or f"the {what} is larger than {size}; name a file by its path instead")
