"""Errors as problem details (RFC 9457): a status and a sentence, never a trace or a folder of this machine."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from kdrift_serve.job_table import FULL, DiskFull, StateLost
from kdrift_serve.problem_details import MEDIA_TYPE, NOTHING_HERE, UNEXPECTED, details

logger = logging.getLogger("ray.serve")
_LONGEST = 600


class Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, detail)
        self.status, self.detail, self.headers = status, detail, headers


def answer(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return a response of type application/problem+json."""
    detail = detail if len(detail) <= _LONGEST else f"{detail[:_LONGEST]}..."
    return JSONResponse(details(status, detail), status, headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of the application by a problem."""

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> JSONResponse:
        return answer(error.status, error.detail, error.headers)

    @app.exception_handler(StateLost)
    async def state_lost(request: Request, error: StateLost) -> JSONResponse:
        logger.error("%s", error)
        if isinstance(error, DiskFull):
            return answer(507, f"{error}: nothing was kept of this request")
        return answer(503, f"{error}: try again", {"Retry-After": "10"})

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> JSONResponse:
        return answer(400, "the connection was lost before the body was whole")  # to nobody

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> JSONResponse:
        text = {404: NOTHING_HERE, 405: "this address does not take that method"}
        headers = dict(error.headers or {}) | ({"Allow": _allowed(request)} if error.status_code == 405 else {})
        return answer(error.status_code, text.get(error.status_code, str(error.detail)), headers)

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return answer(422, f"{first['loc'][-1]}: {first['msg']}")

    @app.exception_handler(OSError)
    async def system(request: Request, error: OSError) -> JSONResponse:
        if error.errno in FULL:  # wherever something was written
            return await state_lost(request, DiskFull("the disk of the service is full"))
        return await unexpected(request, error)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        logger.error("unexpected error", exc_info=error)
        return answer(500, UNEXPECTED)


def _allowed(request: Request) -> str:
    """Return the methods that an address takes; HEAD, which `front` makes GET, goes with it."""
    found = [
        method
        for method in ("DELETE", "GET", "OPTIONS", "PATCH", "POST")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]
    return ", ".join(found + ["HEAD"] * ("GET" in found))
