"""The service of reconstructions as the MRD server asks it: over HTTP, again and again while it is busy or away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from kdrift.client import sentence_of
from kdrift_serve.mrd.messages import Refused

WAIT_S = 30
"""How long one request for a status waits for the end of the job."""
_LONGEST_PAUSE_S = 10.0
_PIECE = 1 << 20
_AGAIN = (429, 500, 502, 503, 504)
"""Answers of a service that is busy, starts, or lost the process that would have answered."""


class Service:
    """A service at an address.

    What is asked again may have been heard: a scan whose upload was taken on just as the connection broke is
    reconstructed twice, and its second answer, which is the same, is given.
    """

    def __init__(self, url: str, key: str, patience_s: float) -> None:
        self._patience_s = patience_s
        self._client = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key}"} if key else {}, trust_env=False,
            timeout=httpx.Timeout(600.0, connect=10.0, pool=None), limits=httpx.Limits(max_connections=None),
        )  # fmt: skip

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def submit(self, path: Path, query: str) -> str:
        """Upload a file, and return the id of the job. Raises `Refused` with the service's own sentence."""
        headers = {"content-type": "application/octet-stream", "content-length": str(path.stat().st_size)}

        async def ask() -> httpx.Response:
            return await self._client.post(f"/v1/reconstructions?{query}", content=_pieces(path), headers=headers)

        return str((await self._patiently(ask)).json()["id"])

    async def end_of(self, job_id: str) -> dict[str, Any]:
        """Return the status of a job that is done. Raises `Refused` where it has no result, and why."""

        async def ask() -> httpx.Response:
            return await self._client.get(f"/v1/reconstructions/{job_id}", params={"wait": WAIT_S})

        while True:
            status: dict[str, Any] = (await self._patiently(ask)).json()
            if status["state"] == "done":
                return status
            if status["state"] not in ("queued", "running"):
                became = "failed" if status["state"] == "failed" else f"was {status['state']}"
                raise Refused(f"the reconstruction {became}: {status['detail'] or 'no reason is given'}")

    async def fetch(self, job_id: str, name: str, target: Path) -> None:
        """Write a file of a result to `target`."""

        async def ask() -> httpx.Response:
            async with self._client.stream("GET", f"/v1/reconstructions/{job_id}/{name}") as response:
                if response.status_code != 200:
                    await response.aread()
                    return response
                with target.open("wb") as file:
                    async for piece in response.aiter_bytes(_PIECE):
                        await asyncio.to_thread(file.write, piece)
                return response

        await self._patiently(ask)

    async def _patiently(self, ask: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
        limit, pause = time.monotonic() + self._patience_s, 0.5
        while True:
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            wait = pause
            try:
                response = await ask()
                if response.is_success:
                    return response
                why = sentence_of(response)
                if response.status_code not in _AGAIN:
                    raise Refused(why)
                asked = response.headers.get("retry-after", "")
                wait = min(float(asked), _LONGEST_PAUSE_S) if asked.isdigit() else pause
            except httpx.TransportError:
                why = "the service of reconstructions does not answer"
            if time.monotonic() + wait > limit:
                raise Refused(f"{why} (asked for {self._patience_s:g} s)")
            await asyncio.sleep(wait)


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece
