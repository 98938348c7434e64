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

from kdrift.prior.bundle import Prior
from kdrift.recon.chunks import merge_chunks
from kdrift.recon.plan import Plan, ResolvedPlan, load_priors
from kdrift.recon.result import ReconstructionResult, SliceFacts, gather
from kdrift.recon.sampling import choose_device, run_chunk
from kdrift.recon.slices import Coils, RawSlice

Progress = Callable[[int, int, int], None]
"""Called with (slice position, sampler steps done, steps in all)."""


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

    Parameters
    ----------
    kspace
        Complex `(slice, coil, row, col)`; what `mask` leaves out is ignored.
    mask
        Boolean `(col,)` or `(row, col)`.
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
        Shapes that do not fit, an unknown method, preset or setting, or a prior that cannot serve; or a slice whose
        samples all diverged (`kdrift.recon.guard.Diverged`), unless the plan asks for the fallback.
    """
    if kspace.ndim != 4 or not kspace.is_complex():
        raise ValueError(f"kspace must be complex (slice, coil, row, col), got {tuple(kspace.shape)} {kspace.dtype}")
    if not len(kspace):
        raise ValueError("kspace has no slices: nothing to reconstruct")
    shape = kspace.shape[-2:]
    full_mask = mask.expand(shape)
    indices = slice_indices if slice_indices is not None else list(range(len(kspace)))
    given = smaps if smaps is not None else [None] * len(kspace)
    slices = [
        RawSlice(
            index,
            torch.where(full_mask.to(data.device), data, 0),
            full_mask,
            maps,
            coils=Coils(noise_sigma=noise_sigma),
        )
        for index, data, maps in zip(indices, kspace, given, strict=True)
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
        loaded = prior if isinstance(prior, Prior) else load_priors([plan.method], prior, device).get(plan.method)
        resolved = plan.resolve(loaded)
    slices, maps = [], []
    for position, raw in enumerate(raw_slices):
        began = time.perf_counter()
        prepared = resolved.prepare(raw.to(device))
        facts = SliceFacts.of(prepared, time.perf_counter() - began)
        found, chunks = [], resolved.split(len(prepared.kspace))
        for done, chunk in enumerate(chunks):
            steps = None if progress is None else _steps(progress, position, done, len(chunks))
            found.append(run_chunk(resolved, loaded, prepared, chunk, steps))
        slices.append((facts, merge_chunks(found)))
        maps.append(prepared.measured_maps().cpu())
    seconds = time.perf_counter() - started
    return gather(slices, raw_slices[0].mask, resolved.config, seconds=seconds, smaps=torch.stack(maps))


def _steps(progress: Progress, position: int, chunk: int, num_chunks: int) -> Callable[[int, int], None]:
    return lambda done, total: progress(position, chunk * total + done, num_chunks * total)
