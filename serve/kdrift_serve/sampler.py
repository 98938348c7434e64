"""The processes that compute: each prepares slices and runs chunks of chains, one at a time, in one thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import ray
import torch

from kdrift.prior.bundle import Prior
from kdrift.prior.pinned import PinnedPrior, load_pinned
from kdrift.recon.chunks import Chunk, ChunkResult
from kdrift.recon.gather import SliceFacts
from kdrift.recon.resolved import ResolvedPlan
from kdrift.recon.sampling import choose_device, run_chunk
from kdrift.recon.slices import RawSlice, SliceData
from kdrift_serve.serve_config import SamplerConfig

REPORT_INTERVAL_S = 0.2
OWNER_INTERVAL_S = 5.0
SERVE_NAMESPACE = "serve"
Steps = tuple[int, int]
"""Steps of a chunk: done, and in all."""


class Stopped(Exception):
    """Nobody waits for the chunk any more."""


class Sampler:
    """One replica. It is deployed with `max_ongoing_requests=1`: the next request goes to one that is free."""

    def __init__(self, config: SamplerConfig, priors: dict[str, PinnedPrior]) -> None:
        self._device = choose_device(config.device)
        self._priors = {name: load_pinned(pinned, self._device) for name, pinned in priors.items()}
        self._thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(config.num_cpus,))

    async def prepare(self, plan: ResolvedPlan, prior: str, raw: RawSlice) -> tuple[SliceData, SliceFacts] | str:
        """Estimate coil maps, noise and scale of one slice; one that cannot be reconstructed as asked gives why."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._prepare, plan, prior, raw)

    async def run(
        self, plan: ResolvedPlan, prior: str, data: SliceData, chunk: Chunk, owner: str
    ) -> AsyncIterator[Steps | ChunkResult | str]:
        """Yield the progress of a chunk and then its result, or why there is none.

        It stops when it is cancelled, or `owner` is gone.
        """
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Steps | None]()
        stop = threading.Event()
        steps = _reporter(stop, owner, lambda event: loop.call_soon_threadsafe(events.put_nowait, event))
        running = loop.run_in_executor(self._thread, self._run_chunk, plan, prior, data, chunk, steps)
        running.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            yield running.result()
        finally:
            stop.set()
            await asyncio.wait([running])

    def _prepare(self, plan: ResolvedPlan, prior: str, raw: RawSlice) -> tuple[SliceData, SliceFacts] | str:
        began = time.perf_counter()
        try:
            data = plan.prepare(raw.to(self._device), self._prior(plan, prior))
        except ValueError as error:
            return str(error)
        return data.to("cpu"), SliceFacts.of(data, time.perf_counter() - began)

    def _prior(self, plan: ResolvedPlan, name: str) -> Prior | None:
        return self._priors[name] if plan.prior else None

    def _run_chunk(
        self, plan: ResolvedPlan, prior: str, data: SliceData, chunk: Chunk, steps: Callable[[int, int], None]
    ) -> ChunkResult | str:
        try:
            return run_chunk(plan, self._prior(plan, prior), data.to(self._device), chunk, steps)
        except ValueError as error:
            return str(error)


def _reporter(stop: threading.Event, owner: str, send: Callable[[Steps], object]) -> Callable[[int, int], None]:
    """Return a callback of a sampler that reports a few times a second and raises `Stopped` when told to."""
    reported, looked = 0.0, time.monotonic()

    def steps(done: int, total: int) -> None:
        nonlocal reported, looked
        now = time.monotonic()
        if now - looked > OWNER_INTERVAL_S:
            looked = now
            if not is_alive(owner):
                stop.set()
        if stop.is_set():
            raise Stopped
        if now - reported > REPORT_INTERVAL_S or done == total:
            reported = now
            send((done, total))

    return steps


def is_alive(name: str) -> bool:
    """Whether the Serve replica of this Ray name still exists."""
    try:
        ray.get_actor(name, namespace=SERVE_NAMESPACE)
    except ValueError:
        return False
    return True
