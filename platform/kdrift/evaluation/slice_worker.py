"""The sampler actor of a batch: runs units of any task, and turns finished slices into a volume's results."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

import torch

from kdrift.evaluation.faults import Fault
from kdrift.evaluation.partial import load_slice, mark_finished
from kdrift.evaluation.work import Unit, VolumeTask
from kdrift.prior.bundle import Prior
from kdrift.recon.acquisition import load_acquisition
from kdrift.recon.chunks import ChunkResult
from kdrift.recon.gather import SliceFacts, gather
from kdrift.recon.report import save_result
from kdrift.recon.resolved import ResolvedPlan, UsedPrior
from kdrift.recon.sampling import run_chunk
from kdrift.recon.slices import SliceData
from kdrift.runs.nodes import on_node
from kdrift.runs.stopwatch import now


def write_volume_results(task: VolumeTask) -> None:
    """Turn the slices of a volume, which are done or have failed, into its results."""
    acquisition = load_acquisition(replace(task.request, slices=(task.slices[0], task.slices[-1] + 1)))
    found = {index: load_slice(task, index) for index in task.slices}
    result = gather(found, acquisition.mask, task.plan.config)
    save_result(task.out, acquisition, result, outputs=task.outputs)
    mark_finished(task)


class SliceWorker:
    """Holds the priors, and the slice it prepared last: several units may be of one slice."""

    def __init__(self, priors: Iterable[Prior], device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._device = torch.device(device)
        self._priors = {UsedPrior.of(prior): replace(prior, network=prior.network.to(self._device)) for prior in priors}
        self._prepared: tuple[tuple[str, int], SliceData, float] | None = None

    def process(self) -> int:
        """Return the process id: the actor is up."""
        return os.getpid()

    def run(self, unit: Unit) -> tuple[SliceFacts, list[ChunkResult]] | Fault:
        """Run the chunks of a unit; where that cannot be done, what was wrong."""
        try:
            plan = unit.task.plan
            prior = self._prior(plan)
            data, seconds = self._prepare(unit.task, unit.index)
            return SliceFacts.of(data, seconds), [run_chunk(plan, prior, data, chunk) for chunk in unit.chunks]
        except Exception as error:  # one bad slice must not stop the others; its reason is reported
            return Fault.of(error)

    def finish(self, task: VolumeTask) -> Fault | None:
        """Write the results of a volume whose slices are done or have failed; return what went wrong, if anything."""
        try:
            if task.node is None:
                write_volume_results(task)
            else:
                on_node(task.node, write_volume_results, task)
        except Exception as error:  # the other volumes go on
            return Fault.of(error)
        return None

    def _prior(self, plan: ResolvedPlan) -> Prior | None:
        """Return the prior that a plan was resolved with."""
        return None if plan.prior is None else self._priors[plan.prior]

    def _prepare(self, task: VolumeTask, index: int) -> tuple[SliceData, float]:
        """Read and prepare a slice; return it with the seconds that took, 0 where it was at hand."""
        name = (str(task.out), index)
        if self._prepared is None or self._prepared[0] != name:
            began = now(self._device)
            acquisition = load_acquisition(replace(task.request, slices=(index, index + 1)))
            data = task.plan.prepare(acquisition.raw(0).to(self._device), self._prior(task.plan))
            self._prepared = (name, data, now(self._device) - began)
        return self._prepared[1], self._prepared[2]
