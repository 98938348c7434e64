"""The sampler actor of a batch: runs units of any task; and what turns finished slices into a volume's results."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from kdrift.data.volume import Volume
from kdrift.evaluation.faults import Fault
from kdrift.evaluation.partial import load_seen, load_slice, mark_finished
from kdrift.evaluation.work import Unit, VolumeTask
from kdrift.prior.bundle import Prior
from kdrift.recon.acquisition import join_slices, open_source, read_slice, see_slice
from kdrift.recon.chunks import ChunkResult
from kdrift.recon.gather import SliceFacts, gather
from kdrift.recon.report import save_result
from kdrift.recon.resolved import ResolvedPlan, UsedPrior
from kdrift.recon.sampling import run_chunk
from kdrift.recon.seen import Seen
from kdrift.recon.slices import RawSlice, SliceData
from kdrift.runs.stopwatch import now

SliceName = tuple[Path, int]
Done = tuple[SliceFacts, list[ChunkResult], Seen]
"""What comes of a unit."""


def finish_volume(task: VolumeTask, threads: int) -> Fault | None:
    """Turn the slices of a volume, which are done or have failed, into its results; return what went wrong.

    Their k-space is not read again, but for that of slices that were lost with the actors that read them.
    """
    torch.set_num_threads(threads)
    try:
        request = replace(task.request, slices=(task.slices[0], task.slices[-1] + 1))
        with open_source(request) as opened:
            seen = [load_seen(task, index) or see_slice(opened, request, index) for index in task.slices]
            facts = join_slices(opened, request, seen)
        found = {index: load_slice(task, index) for index in task.slices}
        save_result(task.out, facts, gather(found, facts.mask, task.plan.config), outputs=task.outputs)
        mark_finished(task)
    except Exception as error:  # the other volumes go on
        return Fault.of(error)
    return None


class SliceWorker:
    """Holds the priors, the volume it read last, and the slice it prepared last: several units may be of one slice.

    A thread of its own reads, so that the next slice is read while one is prepared and sampled.
    """

    def __init__(self, priors: Iterable[Prior], device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._device = torch.device(device)
        self._priors = {UsedPrior.of(prior): replace(prior, network=prior.network.to(self._device)) for prior in priors}
        self._reader = ThreadPoolExecutor(1)
        self._reading: dict[SliceName, Future[tuple[RawSlice, Seen]]] = {}
        self._opened: tuple[str, Volume] | None = None
        self._prepared: tuple[SliceName, SliceData, float] | None = None

    def process(self) -> int:
        """Return the process id: the actor is up."""
        return os.getpid()

    def run(self, unit: Unit, ahead: Unit | None = None) -> Done | Fault:
        """Run the chunks of a unit, and read the slice of the one ahead meanwhile; where that cannot be done, say what
        was wrong."""
        seen = None
        try:
            began, plan = now(self._device), unit.task.plan
            self._read(unit, *([] if ahead is None else [ahead]))
            raw, seen = self._reading[unit.slice_name].result()
            data, seconds = self._prepare(unit, raw, began)
            prior = self._prior(plan)
            return SliceFacts.of(data, seconds), [run_chunk(plan, prior, data, chunk) for chunk in unit.chunks], seen
        except Exception as error:  # one bad slice must not stop the others; its reason is reported
            self._reading.pop(unit.slice_name, None)  # if it is done again, it is read again
            return Fault.of(error, seen)

    def _prior(self, plan: ResolvedPlan) -> Prior | None:
        """Return the prior that a plan was resolved with."""
        return None if plan.prior is None else self._priors[plan.prior]

    def _read(self, *units: Unit) -> None:
        """Begin to read the slices of units, in their order, unless that has begun; others are forgotten."""
        self._reading = {
            unit.slice_name: self._reading.get(unit.slice_name) or self._reader.submit(self._load, unit)
            for unit in units
        }

    def _load(self, unit: Unit) -> tuple[RawSlice, Seen]:
        request = unit.task.request
        if self._opened is None or self._opened[0] != request.source:
            self._opened = request.source, open_source(request)
        return read_slice(self._opened[1], request, unit.index)

    def _prepare(self, unit: Unit, raw: RawSlice, began: float) -> tuple[SliceData, float]:
        """Return a slice prepared, and the seconds since work on it began; those of before where it is at hand."""
        if self._prepared is None or self._prepared[0] != unit.slice_name:
            data = unit.task.plan.prepare(raw.to(self._device), self._prior(unit.task.plan))
            self._prepared = unit.slice_name, data, now(self._device) - began
        return self._prepared[1:]
