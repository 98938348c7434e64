"""Bodies of requests: refused by their announced size, cut off at the limit, never held in memory when large."""

from __future__ import annotations

from pathlib import Path

from fastapi import Request

from kdrift_serve.problems import Problem


async def read_json(http: Request, limit: int) -> bytes:
    """Read a body into memory, at most one part beyond `limit`. Raises `Problem` (400, 413)."""
    body = bytearray()
    _check_declared(http, limit, "JSON")
    async for part in http.stream():
        body += part
        if len(body) > limit:
            break  # the parser of the JSON says so
    return bytes(body)


async def receive_file(http: Request, target: Path, limit: int) -> None:
    """Write the body to a file. Raises `Problem` (400, 413)."""
    declared, received = _check_declared(http, limit, "upload"), 0
    with target.open("wb") as file:
        async for part in http.stream():
            received += len(part)
            if received > limit:
                raise _too_large(limit, "upload")
            file.write(part)
    if received == 0:
        raise Problem(400, "the body is empty: send the file as the body of the request")
    if declared is not None and received != declared:
        raise Problem(400, f"the upload is truncated: {declared} bytes were announced, {received} came")


def _check_declared(http: Request, limit: int, what: str) -> int | None:
    """Refuse a body by the size it announces, before any of it is read."""
    text = http.headers.get("content-length")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit():
        raise Problem(400, "Content-Length is not a number")
    if int(text) > limit:
        raise _too_large(limit, what)
    return int(text)


def _too_large(limit: int, what: str) -> Problem:
    size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
    return Problem(413, f"the {what} is larger than {size}; name a file by its path instead")
