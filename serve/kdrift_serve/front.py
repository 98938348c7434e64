"""What every HTTP answer has, and every connection must do: in Ray Serve's proxy, before a request reaches the service.

Serve's proxy calls `guard` where its environment names it (`ENVIRONMENT`; `kdrift serve` sets it, on a cluster the
environment of Ray does). It is the one hook that Serve has for its server.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.h11_impl import H11Protocol

from kdrift_serve.flow import MARK, Window
from kdrift_serve.problem_details import MEDIA_TYPE, NOTHING_HERE, UNEXPECTED, details

ENVIRONMENT = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "kdrift_serve.front.guard"}
"""What Ray's processes need to be told so that Serve's proxy is guarded."""
HEADERS_S = 10.0
"""Within which the headers of a request have to be there."""
_PROBLEM = MEDIA_TYPE.encode()
_HARMLESS = (b"x-content-type-options", b"nosniff")
_NOT_FOR_CLIENTS = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled", MARK[0])
"""Headers by which a client would set Serve's time limits, and our own."""


def guard() -> list[Middleware]:
    """Make the proxy's server strict, and return what its answers go through."""
    HTTP_PROTOCOLS["auto"] = "kdrift_serve.front:StrictProtocol"
    return [Middleware(Front)]


class StrictProtocol(H11Protocol):
    """HTTP/1.1 as RFC 9112 has it: one Host, one length, headers of at most 16 KiB, in time; no web sockets."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state, _loop)
        config.encoded_headers = [each for each in config.encoded_headers if each[0] != b"server"]
        server_state.default_headers = [each for each in server_state.default_headers if each[0] != b"server"]
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for headers."""
        super().connection_made(transport)
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        """Take bytes; once the headers are whole, nobody waits for them."""
        super().data_received(data)
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop to wait."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_headers(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEADERS_S, self._too_late)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        idle = self.timeout_keep_alive_task is not None  # between two requests: the server's own limit holds
        if self.conn.their_state is h11.IDLE and not idle and not self.transport.is_closing():
            self.transport.close()

    def _should_upgrade(self) -> bool:
        return False

    def send_400_response(self, msg: str) -> None:
        """Say by a problem that what came is no HTTP, and hang up."""
        if self.transport.is_closing() or self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        body = _problem(400, msg)
        headers = [
            (b"content-type", _PROBLEM), (b"content-length", str(len(body)).encode()),
            _HARMLESS, (b"connection", b"close"),
        ]  # fmt: skip
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Front:
    """HEAD answers as GET does; every error is a problem, those of Serve's proxy too; no answer is guessed at."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = scope["method"] == "HEAD"
        headers = [(name, value) for name, value in scope["headers"] if name not in _NOT_FOR_CLIENTS]
        scope = {**scope, "headers": [*headers, MARK], "method": "GET" if head else scope["method"]}
        replaced: bytes | None = None
        window, begun = Window(receive), False

        async def answer(message: Message) -> None:
            nonlocal replaced, begun
            if window.taken(message):
                return
            if message["type"] == "http.response.start":
                begun = True
                given = [(name.lower(), value) for name, value in message.get("headers", [])]
                kind = dict(given).get(b"content-type", b"")
                if message["status"] >= 400 and not kind.startswith(_PROBLEM):
                    replaced = _problem(
                        message["status"], _SENTENCES.get(message["status"], "the service cannot answer")
                    )
                    given = [each for each in given if each[0] not in (b"content-type", b"content-length")]
                    given += [(b"content-type", _PROBLEM), (b"content-length", str(len(replaced)).encode())]
                if _HARMLESS[0] not in dict(given):
                    given.append(_HARMLESS)
                await send({**message, "headers": given})
                if head:  # the rest of an answer, which may never end, is not waited for
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            elif head:
                pass
            elif message["type"] == "http.response.body" and replaced is not None:
                if not message.get("more_body", False):
                    await send({"type": "http.response.body", "body": replaced, "more_body": False})
            else:
                await send(message)

        await self._app(scope, window.receive, answer)
        if not begun:  # Serve's proxy says nothing where the application said anything before, be it what it took
            problem = {"type": "http.response.start", "status": 503, "headers": []}
            for part in (problem, {"type": "http.response.body", "body": b"", "more_body": False}):
                await answer(part)


_SENTENCES = {
    400: "the request, or one of its headers, cannot be understood",
    404: NOTHING_HERE,
    408: "the request took too long",
    416: "the file has no such range: Content-Range says how many bytes it has",
    500: UNEXPECTED,
    503: "the service cannot answer now: try again in a few seconds",
}


def _problem(status: int, detail: str) -> bytes:
    return json.dumps(details(status, detail)).encode()
