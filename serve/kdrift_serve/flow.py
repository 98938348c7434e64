"""Bodies come no faster than they are read. Ray Serve passes them on through queues without a bound: a large one that
comes faster than it is written would lie in the memory of its proxy and of the ingress.

The proxy's end (`Window`) marks a request, and passes on no more than `WINDOW` bytes that the application has not
taken. The application's end (`Taking`) says of a marked one what it took, by messages beside those of its answer.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MARK = (b"x-kdrift-window", b"1")
"""Header of a request whose proxy waits to be told; a client's own is taken away."""
TAKEN = "kdrift.taken"
WINDOW, STEP = 8 << 20, 1 << 20


class Window:
    """The proxy's end of one request."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._ahead, self._room = receive, 0, asyncio.Event()

    async def receive(self) -> Message:
        """Return the next message, when there is room for it."""
        while self._ahead >= WINDOW:
            self._room.clear()
            await self._room.wait()
        message = await self._receive()
        self._ahead += len(message.get("body", b""))
        return message

    def taken(self, message: Message) -> bool:
        """Whether a message of the application is none of its answer, but says what it took."""
        if message["type"] != TAKEN:
            return False
        self._ahead -= message["bytes"]
        self._room.set()
        return True


class Taking:
    """The application's end: middleware around it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and say what of its body is taken."""
        if scope["type"] != "http" or dict(scope["headers"]).get(MARK[0]) != MARK[1]:
            await self._app(scope, receive, send)
            return
        taken = 0

        async def take() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken >= STEP:
                await send({"type": TAKEN, "bytes": taken})
                taken = 0
            return message

        await self._app(scope, take, send)
