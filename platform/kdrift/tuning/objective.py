"""One trial: reconstruct the slices of a search one after the other, and say after each how good the settings are."""

from __future__ import annotations

import fnmatch
import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kdrift.data.centring import centre_crop
from kdrift.data.convert_sources import find_all
from kdrift.data.formats import open_volume
from kdrift.data.store import find_store
from kdrift.measures.metrics import evaluate
from kdrift.mri.heldout import draw_heldout
from kdrift.prior.bundle import Prior
from kdrift.recon.acquisition import load_acquisition
from kdrift.recon.guard import Diverged
from kdrift.recon.merge import merge_chunks
from kdrift.recon.resolved import ResolvedPlan
from kdrift.recon.sampling import run_chunk
from kdrift.recon.slices import SliceData
from kdrift.runs.config import to_dict
from kdrift.runs.seeds import numpy_rng
from kdrift.tuning.tune_config import TuneConfig, TuneData


@dataclass(frozen=True)
class Case:
    """One slice of a search; plain tensors, shared by all trials."""

    volume: str
    data: SliceData
    reference: Tensor | None
    """Magnitude `(row, col)`, perhaps smaller than the slice; None where the objective needs none."""
    simulated: bool
    notes: tuple[str, ...] = ()
    """What was guessed, left out or is doubtful when it was read."""


def load_cases(config: TuneConfig, plan: ResolvedPlan, prior: Prior | None = None) -> list[Case]:
    """Read and prepare the slices of a search, in the seeded order in which every trial takes them.

    Raises ValueError where no volume or slice is chosen, or one has no reference that the objective needs.
    """
    chosen = [
        (place, number)
        for place, num_slices in _volumes(config.data)
        for number in _spread(config.data, place, num_slices)
    ]
    order = numpy_rng("search slices", config.seed).permutation(len(chosen))
    cases = []
    for count, (place, number) in enumerate(chosen[i] for i in order):
        acquisition = load_acquisition(config.data.of(place, slices=(number, number + 1)))
        raw, heldout = acquisition.raw(0), None
        if config.objective == "heldout":
            heldout = draw_heldout(raw.mask, config.heldout_fraction, config.seed, count, kspace=raw.kspace)
        elif acquisition.reference is None:
            raise ValueError(f"{place} has no reference to measure {config.objective}: use objective heldout")
        data = plan.prepare(raw, prior, heldout=heldout)
        data = replace(data, kspace=data.kspace.clone(), mask=data.mask.clone())  # not the memory of a whole volume
        reference = None if acquisition.reference is None else acquisition.reference[0].clone()
        simulated = bool(acquisition.info.attrs.get("simulated", False))
        cases.append(Case(acquisition.info.name, data, reference, simulated, (*acquisition.notes, *data.notes)))
    return cases


def evaluate_slices(
    plan: ResolvedPlan, prior: Prior | None, cases: list[Case], objective: str
) -> Iterator[dict[str, Any]]:
    """Reconstruct case after case; after each, yield the means so far: quality, cost, and `value`, the objective.

    Chains that are for the standard deviation alone, or for a check, would be waste, and are left out.
    """
    plan = plan.mean_alone()
    rows: list[dict[str, float]] = []
    for case in cases:
        began = time.perf_counter()
        chunks = plan.split(len(case.data.kspace))
        found = [run_chunk(plan, prior, case.data, chunk) for chunk in chunks]
        try:
            result = merge_chunks(found)
            mean, misfit = result.mean, result.heldout_misfit
        except Diverged:  # settings that diverge are as good as a black image
            mean, misfit = torch.zeros_like(case.data.zero_filled), math.inf
        row = {"seconds": time.perf_counter() - began, "nfe": float(max(chunk.nfe for chunk in found))}
        if objective == "heldout":
            row["heldout"] = _heldout_error(case.data, misfit)
        else:
            row |= _quality(case, case.data.unit * mean)
        rows.append(row)
        means = {name: sum(r[name] for r in rows) / len(rows) for name in row}
        yield {**means, "value": means[objective], "slices": len(rows)}


def _quality(case: Case, mean: Tensor) -> dict[str, float]:
    assert case.reference is not None
    image = torch.from_numpy(centre_crop(mean.cpu().numpy(), *case.reference.shape).copy())
    return evaluate(case.reference, image)


def _heldout_error(data: SliceData, misfit: float | None) -> float:
    assert data.heldout is not None
    assert misfit is not None
    error = misfit / float(data.heldout.kspace.abs().square().sum())
    return error if math.isfinite(error) else 1.0  # as a black image


def describe_data(config: TuneConfig, cases: list[Case]) -> dict[str, Any]:
    """Return what a preset says of its data: names of volumes, slices, mask; no folders."""
    volumes = sorted({case.volume for case in cases})
    mask = config.data.mask
    return {
        "volumes": {v: sorted(case.data.index for case in cases if case.volume == v) for v in volumes},
        "simulated": any(case.simulated for case in cases),
        "mask": "as measured" if mask is None else to_dict(mask),
        "virtual_coils": config.data.virtual_coils,
    }


def digest(cases: list[Case]) -> str:
    """Return a digest of the k-space of a search, whatever its order."""
    parts = []
    for case in cases:
        kspace = hashlib.sha256(case.data.kspace.contiguous().cpu().numpy().tobytes()).hexdigest()
        parts.append(f"{case.volume} {case.data.index} {kspace}")
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()


def _volumes(data: TuneData) -> list[tuple[str, int]]:
    """Return place and number of slices of every k-space volume that is chosen by name."""
    found = []
    for source in data.sources:
        if (store := find_store(source)) is not None:
            infos = [(f"{store.location}/{name}", store.read_volume(name).info) for name in store.list_volumes()]
        else:
            infos = []
            for each in find_all([source]):
                with open_volume(each.path) as volume:
                    infos.append((each.path, volume.info))
        found += [
            (place, info.num_slices)
            for place, info in infos
            if info.kind == "kspace"
            and any(fnmatch.fnmatchcase(info.name, pattern) for pattern in data.volumes)
            and not any(fnmatch.fnmatchcase(info.name, pattern) for pattern in data.exclude)
        ]
    if not found:
        raise ValueError(f"no k-space volume in {', '.join(data.sources)} matches volumes and exclude")
    return found


def _spread(data: TuneData, place: str, num_slices: int) -> list[int]:
    numbers = range(num_slices)[data.chosen]
    if not numbers:
        raise ValueError(f"{place} has {num_slices} slices, none in {data.slices}")
    count = min(data.slices_per_volume, len(numbers))
    return [numbers[(2 * i + 1) * len(numbers) // (2 * count)] for i in range(count)]
