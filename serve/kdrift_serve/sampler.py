"""The processes that compute: each prepares slices, runs chunks of chains and writes results, one at a time, in one
thread."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch

from kdrift.evaluation.faults import Fault
from kdrift.prior.bundle import Prior
from kdrift.prior.pinned import PinnedPrior, load_pinned
from kdrift.prior.shared_calls import Fill, run_together
from kdrift.recon.chunks import Chunk, ChunkResult
from kdrift.recon.gather import SliceFacts, gather
from kdrift.recon.guard import Diverged
from kdrift.recon.merge import merge_chunks
from kdrift.recon.outputs import read_outputs
from kdrift.recon.report import save_result
from kdrift.recon.resolved import ResolvedPlan
from kdrift.recon.result import ReconstructionResult
from kdrift.recon.sampling import Show, Steps, choose_device, run_chunk
from kdrift.recon.slice_file import read_outcome, write_failure, write_slice
from kdrift.recon.slices import SliceData
from kdrift.runs.files import folder_bytes, write_zip
from kdrift_serve.job_files import JobFiles
from kdrift_serve.job_preview import PREVIEW_S
from kdrift_serve.job_table import StateLost
from kdrift_serve.jobs import OUTPUTS_ZIP, Job, SliceVerdict
from kdrift_serve.pieces import Done, Failed, Found, Piece, Prepared, Step
from kdrift_serve.serve_config import SamplerConfig
from kdrift_serve.service_metrics import BatchMetrics
from kdrift_serve.spool import HEADER, SCAN, read_facts, read_slice, slice_file

logger = logging.getLogger("ray.serve")
REPORT_INTERVAL_S = 0.2
OWNER_INTERVAL_S = 5.0
STUCK_S = 600.0
"""How long work that was told to stop may take to: a step, or the preparation of a slice, ends first."""
SERVE_NAMESPACE = "serve"
SLICES, RESULT = "slices", "result"


class Stopped(Exception):
    """Nobody waits for the work any more."""


class DeviceFailed(RuntimeError):
    """An accelerator raises errors: this process is not to be used again."""


class Sampler:
    """One replica. It is deployed with `max_ongoing_requests=1`: the next request goes to one that is free.

    What cannot be done as asked is returned as a sentence; what is raised may succeed elsewhere.
    """

    def __init__(self, config: SamplerConfig, priors: dict[str, PinnedPrior], storage: str) -> None:
        self._device = choose_device(config.device)
        self._priors = {name: load_pinned(pinned, self._device) for name, pinned in priors.items()}
        self._files = JobFiles(storage)
        self._thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(config.num_cpus,))
        self._failed = ""
        self._stopped: float | None = None
        self._metrics = BatchMetrics()

    def check_health(self) -> None:
        """Raise where the device has failed, or work does not end that was told to: Serve then replaces this process.

        Until then it does nothing more; work that comes to it is done by another one.
        """
        if self._failed:
            raise DeviceFailed(self._failed)
        if self._stopped is not None and time.monotonic() - self._stopped > STUCK_S:
            raise DeviceFailed(f"work that was told to stop has not stopped for {STUCK_S:g} s")

    async def run(
        self, pieces: Sequence[Piece], owner: str, *data: SliceData | None
    ) -> AsyncIterator[tuple[int, Step | Found]]:
        """Do pieces of work that share the network's batches; `data` has the prepared slice of each that has chains.

        Yield, with the position of the piece, the progress of its chains and at last what comes of it. It stops when it
        is cancelled, or `owner` is gone; a piece alone when its job has ended.
        """
        await self._usable()
        loop, events = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Step | Found] | None]()
        stop = threading.Event()

        def send(number: int, event: Step | Found) -> None:
            loop.call_soon_threadsafe(events.put_nowait, (number, event))

        running = loop.run_in_executor(self._thread, self._run, pieces, data, stop, owner, send)
        running.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            running.result()
        finally:
            stop.set()
            self._stopped = None if running.done() else time.monotonic()
            await asyncio.wait([running])
            self._stopped = None

    async def finish_slice(
        self, job_id: str, index: int, facts: SliceFacts | str, results: Sequence[ChunkResult]
    ) -> None:
        """Merge the chunks of a slice and write it, or why there is none (`facts` is then a sentence)."""
        if isinstance(facts, str):
            await self._do(self._write_failure, job_id, index, facts)
        else:
            await self._do(self._write_slice, job_id, facts, results)

    async def finish(self, job: Job, plan: ResolvedPlan, seconds: float) -> Done | str:
        """Put the slices of a job together and write its results."""
        found: Done | str = await self._do(self._finish, job, plan, seconds)
        return found

    async def _usable(self) -> None:
        while self._failed:
            await asyncio.sleep(0.5)  # until this process ends

    async def _do(self, work: Callable[..., Any], *arguments: Any) -> Any:
        await self._usable()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._told, work, *arguments)

    def _told(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do the work; what its data are to blame for is a sentence, a device that fails is not used again."""
        try:
            return work(*arguments)
        except ValueError as error:
            return str(error)
        except RuntimeError as error:
            fault = Fault.of(error)
            if fault.kind == "device":
                self._failed = fault.reason
                raise DeviceFailed(fault.reason) from None
            raise

    def _run(
        self, pieces: Sequence[Piece], data: Sequence[SliceData | None], stop: threading.Event, owner: str,
        send: Callable[[int, Step | Found], None],
    ) -> None:  # fmt: skip
        """Do pieces of work together, in the thread that computes."""

        def work(number: int) -> None:
            piece, prepared = pieces[number], data[number]

            def gone() -> bool:
                return not is_alive(owner) or (len(pieces) > 1 and self._is_over(piece.job_id))

            found: Found
            try:
                if piece.chunk is None or prepared is None:
                    found = self._told(self._prepare, piece)
                else:
                    steps = _reporter(stop, gone, lambda step: send(number, step))
                    found = self._told(self._run_chunk, piece.plan, piece.prior, prepared, piece.chunk, steps)
            except Stopped:
                return
            except DeviceFailed:
                raise
            except StateLost as error:
                found = Failed(type(error).__name__, storage=str(error))
            except Exception as error:
                logger.exception("a piece of job %s failed", piece.job_id)
                found = Failed(type(error).__name__, memory=isinstance(error, torch.OutOfMemoryError))
            send(number, found)

        fill = Fill()
        ends = run_together([partial(work, number) for number in range(len(pieces))], fill)
        self._metrics.add(fill)
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    def _is_over(self, job_id: str) -> bool:
        """Whether a job has ended: its data are then deleted."""
        try:
            return not self._files.names(job_id, SCAN)
        except StateLost:
            return False

    def _prepare(self, piece: Piece) -> Prepared:
        began = time.perf_counter()
        raw = read_slice(self._file(piece.job_id, f"{SCAN}/{slice_file(piece.position)}"))
        data = piece.plan.prepare(raw.to(self._device), self._prior(piece.plan, piece.prior))
        return data.to("cpu"), SliceFacts.of(data, time.perf_counter() - began)

    def _file(self, job_id: str, name: str) -> Path:
        path = self._files.get(job_id, name)
        if path is None:
            raise ValueError("the data of this job are gone: send it again")
        return path

    def _prior(self, plan: ResolvedPlan, name: str) -> Prior | None:
        return self._priors[name] if plan.prior else None

    def _run_chunk(self, plan: ResolvedPlan, prior: str, data: SliceData, chunk: Chunk, steps: Steps) -> ChunkResult:
        return run_chunk(plan, self._prior(plan, prior), data.to(self._device), chunk, steps)

    def _write_slice(self, job_id: str, facts: SliceFacts, chunks: Sequence[ChunkResult]) -> None:
        with self._files.filling(job_id, SLICES) as folder:
            path = folder / slice_file(facts.index)
            try:
                write_slice(path, facts, merge_chunks(chunks))
            except Diverged as error:
                write_failure(path, str(error))

    def _write_failure(self, job_id: str, index: int, reason: str) -> None:
        with self._files.filling(job_id, SLICES) as folder:
            write_failure(folder / slice_file(index), reason)

    def _finish(self, job: Job, plan: ResolvedPlan, seconds: float) -> Done:
        acquisition = read_facts(self._file(job.id, f"{SCAN}/{HEADER}"))
        slices = {index: read_outcome(self._file(job.id, f"{SLICES}/{slice_file(index)}")) for index in job.slices}
        result = gather(slices, acquisition.mask, job.config, seconds=seconds)
        outputs = read_outputs(job.request.get("output", "h5"))
        with self._files.filling(job.id, RESULT) as folder:
            report = save_result(folder, acquisition, result, outputs=outputs)
            if report["outputs"]:
                write_zip(folder / OUTPUTS_ZIP, folder, [folder / name for name in report["outputs"]])
            size = folder_bytes(folder)
        return Done(report, _verdicts(result), size)


def _verdicts(result: ReconstructionResult) -> dict[str, SliceVerdict]:
    found = {index: result.verdict_of(index) for index in result.numbers if result.nfe}
    return {str(index): SliceVerdict(v.level, str(v), v.given) for index, v in found.items()}


def _reporter(stop: threading.Event, gone: Callable[[], bool], send: Callable[[Step], object]) -> Steps:
    """Return a callback of a sampler that reports a few times a second, with a look at the images once a second and at
    the end, and raises `Stopped` when told to, or when who waited is gone."""
    reported, shown, asked = 0.0, 0.0, time.monotonic()

    def steps(done: int, total: int, show: Show) -> None:
        nonlocal reported, shown, asked
        now = time.monotonic()
        if now - asked > OWNER_INTERVAL_S:
            asked = now
            if gone():
                raise Stopped
        if stop.is_set():
            raise Stopped
        if now - reported > REPORT_INTERVAL_S or done == total:
            reported, look = now, None
            if now - shown > PREVIEW_S or done == total:
                shown, look = now, show()
            send(Step(done, total, look))

    return steps


def is_alive(name: str) -> bool:
    """Whether the Serve replica of this Ray name still exists."""
    try:
        ray.get_actor(name, namespace=SERVE_NAMESPACE)
    except ValueError:
        return False
    return True
