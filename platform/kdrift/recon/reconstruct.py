"""Undersampled k-space in, posterior mean and uncertainty out: the one way to an image.

The command line, jobs and services all go through `reconstruct` or the steps it is made of: `Plan.resolve` once, then
`ResolvedPlan.prepare` on each slice, `run_chunk` on the chunks of `ResolvedPlan.split`, and `merge_chunks`. Slices are
independent: scale, noise, coils and their maps come from each slice's own undersampled data, so an answer does not
depend on which slices are asked for together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kdrift.mri.map_sets import stack_maps
from kdrift.prior.bundle import Prior
from kdrift.recon.chunks import ChunkResult
from kdrift.recon.gather import Outcome, SliceFacts, gather
from kdrift.recon.guard import Diverged
from kdrift.recon.merge import merge_chunks
from kdrift.recon.plan import Plan, load_prior_of
from kdrift.recon.resolved import ResolvedPlan
from kdrift.recon.result import ReconstructionResult
from kdrift.recon.sampling import Steps, choose_device, run_chunk
from kdrift.recon.sentences import named
from kdrift.recon.slices import Coils, RawSlice
from kdrift.runs.stopwatch import now

SLICE_FAULTS: tuple[type[Exception], ...] = (
    ValueError,
    ArithmeticError,
    torch.linalg.LinAlgError,  # type: ignore[attr-defined]
)
"""What the data of a slice may raise; a plan's own mistakes are found before."""
Progress = Callable[[int, int, int], None]
"""Called with (slice position, network evaluations done, evaluations in all)."""


def reconstruct(
    kspace: Tensor,
    mask: Tensor,
    *,
    plan: Plan | ResolvedPlan | None = None,
    prior: Prior | str | None = None,
    smaps: Tensor | None = None,
    slice_indices: list[int] | None = None,
    noise_sigma: float | None = None,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
) -> ReconstructionResult:
    """Reconstruct a volume of undersampled k-space slice by slice, from arrays alone; see `reconstruct_slices`.

    A slice that cannot be reconstructed (it is zero, or its samples all diverged and the plan asks for no fallback)
    costs itself alone: its images are zero, and the result names it under `failed`.

    Parameters
    ----------
    kspace
        Complex `(slice, coil, row, col)`; what `mask` leaves out is ignored.
    mask
        Boolean `(col,)`, `(row, col)`, or one a slice `(slice, row, col)`.
    plan
        What to run; a resolved one goes with the loaded prior that it was resolved with. None: `Plan()`.
    prior
        A loaded prior, or a shipped name or path; only samplers need one. None: the method's shipped prior.
    smaps
        Coil maps `(slice, [set,] coil, row, col)`; None: ESPIRiT on the ACS of this undersampled k-space.
    slice_indices
        Numbers of the slices in their volume, for the chains' seeds; None: 0, 1, ...
    noise_sigma, device, progress
        As in `kdrift.reconstruct`.

    Raises
    ------
    ValueError
        Shapes that do not fit, an unknown method, preset or setting, or a prior that cannot serve; or where no slice
        could be reconstructed, the reason of the first.
    """
    if kspace.ndim != 4 or not kspace.is_complex():
        raise ValueError(f"kspace must be complex (slice, coil, row, col), got {tuple(kspace.shape)} {kspace.dtype}")
    if not len(kspace):
        raise ValueError("kspace has no slices: nothing to reconstruct")
    masks = mask.to(kspace.device).expand(len(kspace), *kspace.shape[-2:])
    indices = slice_indices if slice_indices is not None else list(range(len(kspace)))
    if len(indices) != len(kspace):
        raise ValueError(f"slice_indices are {indices}, expected a number of its own for each of {len(kspace)} slices")
    given, coils = smaps if smaps is not None else [None] * len(kspace), Coils(noise_sigma=noise_sigma)
    slices = [
        RawSlice(index, torch.where(kept, data, 0), kept, maps, coils=coils)
        for index, data, kept, maps in zip(indices, kspace, masks, given, strict=True)
    ]
    return reconstruct_slices(slices, plan=plan, prior=prior, device=device, progress=progress)


def reconstruct_slices(
    raw_slices: Sequence[RawSlice],
    *,
    plan: Plan | ResolvedPlan | None = None,
    prior: Prior | str | None = None,
    device: str | torch.device = "auto",
    progress: Progress | None = None,
) -> ReconstructionResult:
    """Reconstruct the slices of a volume, at least one, with all that was read or given with them.

    Parameters and errors as in `reconstruct`.
    """
    started, device = time.perf_counter(), choose_device(device)
    if isinstance(plan, ResolvedPlan):
        resolved, loaded = plan, prior if isinstance(prior, Prior) else None
    else:
        plan = plan or Plan()
        loaded = prior if isinstance(prior, Prior) else load_prior_of(plan.method, prior, device)
        resolved = plan.resolve(loaded)
    indices = [raw.index for raw in raw_slices]
    if len(set(indices)) != len(indices):
        raise ValueError(f"slice_indices are {indices}, expected a number of its own for each of {len(indices)} slices")
    slices: dict[int, Outcome] = {}
    maps: dict[int, Tensor] = {}
    for position, raw in enumerate(raw_slices):
        began = now(device)
        try:
            prepared = resolved.prepare(raw.to(device), loaded)
            facts = SliceFacts.of(prepared, now(device) - began)
            found, chunks = list[ChunkResult](), resolved.split(len(prepared.kspace))
            costs = [max(1, resolved.evaluations(len(prepared.kspace), chunk)) for chunk in chunks]
            for number, chunk in enumerate(chunks):
                if chunk.part == "check" and all(len(each.diverged) == each.chunk.num_samples for each in found):
                    continue  # nothing is left to be judged
                before, cost = sum(costs[:number]), costs[number]
                steps = None if progress is None else _steps(progress, position, before, cost, sum(costs))
                found.append(run_chunk(resolved, loaded, prepared, chunk, steps))
                if len(found[-1].diverged) == chunk.num_samples and sum(c.part == chunk.part for c in chunks) == 1:
                    break  # none of its part is left, so the others are not asked
            slices[raw.index] = facts, merge_chunks(found)
            maps[raw.index] = prepared.measured_maps().cpu()
        except SLICE_FAULTS as error:  # a slice costs itself alone
            if isinstance(error, Diverged) and not maps and position + 1 == len(raw_slices):
                raise  # by its own name, where there is nothing to keep
            slices[raw.index] = named(raw.index, " ".join(str(error).split()))
    seconds = time.perf_counter() - started
    stacked = stack_maps([maps.get(index) for index in indices])
    masks = [raw.mask for raw in raw_slices]
    shared = masks[0] if all(torch.equal(mask, masks[0]) for mask in masks) else torch.stack(masks)
    return gather(slices, shared, resolved.config, seconds=seconds, smaps=stacked)


def _steps(progress: Progress, position: int, before: int, cost: int, total: int) -> Steps:
    return lambda done, of, show: progress(position, before + cost * done // of, total)
