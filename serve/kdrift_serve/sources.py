"""Where the data of a new job come from: the body, a form, a path, the built-in example, or a finished upload."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fastapi import Request

from kdrift.recon.resolved import ResolvedPlan
from kdrift.runs.files import put_file
from kdrift_serve.auth import Caller
from kdrift_serve.body import Receiving, body_parts, read_json, receive_file
from kdrift_serve.job_request import (
    MAX_JSON_BYTES,
    JobRequest,
    allowed_path,
    from_json,
    from_query,
    upload_name,
)
from kdrift_serve.multipart import FORM, FORM_BYTES, receive_form
from kdrift_serve.problems import Problem
from kdrift_serve.serve_config import Limits
from kdrift_serve.uploads import Uploads

EXAMPLE_NAME = "phantom"
JSON, BYTES = "application/json", "application/octet-stream"
_NAMED = "a file is sent: leave out path, example and upload, or send them as application/json"


@dataclass(frozen=True)
class Source:
    """A request, and the data that it is about."""

    request: JobRequest
    plan: ResolvedPlan
    path: str | None
    """None: the built-in example."""
    name: str
    """What people are told that it is called."""


class Sources:
    """Takes requests; `resolve` says what is wrong with one before any data are received."""

    def __init__(
        self, limits: Limits, roots: list[Path], uploads: Uploads, receiving: Receiving,
        resolve: Callable[[JobRequest], ResolvedPlan],
    ) -> None:  # fmt: skip
        self._limits, self._roots, self._uploads, self._receiving = limits, roots, uploads, receiving
        self._resolve = resolve

    async def take(self, http: Request, caller: Caller, folder: Path) -> Source:
        """Return what a request asks for; files that are sent lie below `folder`. Raises `Problem`, `DiskFull`."""
        given = http.headers.get("content-type", "")
        kind = given.partition(";")[0].strip().lower()
        folder = folder / "upload"
        await asyncio.to_thread(folder.mkdir, mode=0o700)
        if kind == JSON:
            return await self._named(from_json(await read_json(http, MAX_JSON_BYTES)), caller, folder)
        if kind == BYTES:
            return await self._body(http, caller, folder)
        if kind == FORM:
            return await self._form(http, given, caller, folder)
        raise Problem(415, f"expected {BYTES} (a file), {FORM} (a form with one) or {JSON}, got {kind or 'nothing'!r}")

    async def _named(self, request: JobRequest, caller: Caller, folder: Path) -> Source:
        named = [each for each in (request.path, request.example, request.upload) if each is not None]
        if len(named) != 1 or (request.name is not None and request.upload is None):
            raise Problem(422, 'expected either "path" or "example" or "upload" in the JSON, "name" with upload alone')
        plan = self._resolve(request)
        if request.path is not None:
            return Source(request, plan, str(allowed_path(request.path, self._roots)), request.path)
        if request.example is not None:
            return Source(request, plan, None, EXAMPLE_NAME)
        assert request.upload is not None
        name = None if request.name is None else upload_name(request.name)
        path = await self._uploads.fetch(request.upload.rpartition("/")[2], caller, folder, name)
        return Source(request, plan, str(path), path.name)

    async def _body(self, http: Request, caller: Caller, folder: Path) -> Source:
        request = _of_a_file(from_query(http.query_params.multi_items()))
        plan, name = self._resolve(request), upload_name(request.name)
        with self._receiving.place(caller.name):
            await receive_file(http, folder / name, self._limits)
        return Source(request, plan, str(folder / name), name)

    async def _form(self, http: Request, kind: str, caller: Caller, folder: Path) -> Source:
        """Options may come before the file or after it."""
        limit, found = self._limits.upload_mb << 20, list[tuple[JobRequest, ResolvedPlan]]()
        names = list[str]()

        def options(content: bytes) -> None:
            request = _of_a_file(from_json(content))
            found.append((request, self._resolve(request)))

        async def file(name: str) -> Path:
            names.append(upload_name(name))
            return folder / names[0]

        if http.query_params:
            raise Problem(400, "options of a form go into its field options, not into the query")
        with self._receiving.place(caller.name):
            body = body_parts(http, limit + FORM_BYTES, self._limits)
            await receive_form(kind, body, limit, file, options)
        if not found:
            options(b"{}")
        request, plan = found[0]
        path = folder / names[0]
        if request.name is not None:
            received, path = path, folder / upload_name(request.name)
            put_file(received, path, mode=0o600)
        return Source(replace(request, name=path.name), plan, str(path), path.name)


def _of_a_file(request: JobRequest) -> JobRequest:
    if (request.path, request.example, request.upload) != (None, None, None):
        raise Problem(422, _NAMED)
    return request
