"""Samples of undersampled k-space that are left out of a reconstruction and then predicted by it.

How well an image predicts what its method never saw is a measure of quality that needs no reference (cross-validation;
the split of the sampled set is that of SSDU, Yaman et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from kdrift.mri.coils import calibration_box
from kdrift.mri.mask_family import spanned, whole_lines
from kdrift.mri.masks import acs_region
from kdrift.runs.seeds import torch_generator

GROUPS, SPARE, POINTS = 3, 4, 0.08
"""For `draw_groups`: most groups, candidates that a group needs, and the part of the points of a point mask."""

FARTHER, LEAST_DISTANCE = 2.0, 0.01
"""For `untested`: how much farther than a held-out sample from the others a position may be, and the distance from the
middle, in parts of the width, below which weights are alike."""


def draw_heldout(mask: Tensor, fraction: float, seed: int, number: int = 0, *, kspace: Tensor | None = None) -> Tensor:
    """Draw about `fraction` of the samples outside the ACS: whole lines of a line mask, points of a point mask.

    `mask` and the result are boolean `(row, col)`; `number` tells the draws of one seed apart. The ACS lies around the
    middle of k-space, and with `kspace` (*batch, coil, row, col) around the echo as well, where coil maps find their
    calibration lines. Raises ValueError where nothing is sampled outside the ACS.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the held-out fraction must lie between 0 and 1, got {fraction}")
    unit, sampled = _candidates(mask, kspace)
    candidates = unit.flatten().nonzero().flatten()
    if not len(candidates):
        raise ValueError("nothing is sampled outside the ACS that could be held out: name a mask that undersamples")
    order = torch.randperm(len(candidates), generator=torch_generator("held-out", seed, number))
    chosen = torch.zeros(unit.numel(), dtype=torch.bool)
    chosen[candidates[order[: max(1, round(fraction * len(candidates)))]]] = True
    return (chosen.reshape(unit.shape) & sampled).to(mask.device)


@dataclass(frozen=True)
class HeldOutGroup:
    """Samples that are held out together, and how much of what was not sampled they stand for."""

    mask: Tensor
    """Boolean `(row, col)`."""
    share: float
    """Positions without a sample of about their distance from the middle, divided by those held out."""


def draw_groups(mask: Tensor, seed: int, number: int = 0, *, kspace: Tensor | None = None) -> list[HeldOutGroup]:
    """Draw a few samples outside the ACS in groups from low to high frequencies.

    Of a line mask a group is one line, drawn among a third of the candidates; of a point mask it is a third of
    `POINTS` of them. There are `GROUPS` groups, fewer where less than `SPARE` candidates a group are there, and none
    where nothing could be held out without ruining what is left. Parameters as in `draw_heldout`.
    """
    unit, sampled = _candidates(mask, kspace)
    places, distance = unit.nonzero(), _distance(unit)
    order = places[distance[unit].argsort(stable=True)]
    generator = torch_generator("held-out", seed, number)
    count = min(GROUPS, len(order) // SPARE)
    if not count:
        return []
    lines = 1 in unit.shape
    parts = order.tensor_split(count)
    if not lines:
        picked = torch.randperm(len(order), generator=generator)[: max(count, round(POINTS * len(order)))]
        parts = order[picked.sort().values].tensor_split(count)
    ends = [0.0, *(float(distance[tuple(part[0].tolist())]) for part in parts[1:]), math.inf]
    missing = distance[~_sampled_units(unit, sampled)]
    found = []
    for part, (low, high) in zip(parts, pairwise(ends), strict=True):
        if lines:
            part = part[int(torch.randint(len(part), (1,), generator=generator))][None]
        group = torch.zeros(unit.shape, dtype=torch.bool)
        group[part[:, 0], part[:, 1]] = True
        stands_for = int(((missing >= low) & (missing < high)).sum()) / len(part)
        found.append(HeldOutGroup((group & sampled).to(mask.device), stands_for))
    return found


def untested(mask: Tensor, groups: Sequence[HeldOutGroup]) -> float:
    """Part of what was not measured that lies in gaps wider than held-out samples can stand for.

    That is farther from the next sample of `mask`, boolean `(row, col)`, than `FARTHER` times what any held-out sample
    is from the next that is left. Positions are weighted by 1 / |k|^2, about what images have there, and those outside
    of the rows and columns with samples are not counted (`kdrift.mri.mask_family.MaskFacts.extent`).
    """
    sampled = mask.cpu().numpy() != 0
    held = torch.stack([group.mask for group in groups]).any(0).cpu().numpy()
    reach = FARTHER * distance_transform_edt(~(sampled & ~held))[held].max()
    inside = np.zeros_like(sampled)
    inside[spanned(torch.from_numpy(sampled))] = True
    missing = inside & ~sampled
    weights = 1 / _distance(torch.from_numpy(sampled)).clamp(min=LEAST_DISTANCE).square().numpy()[missing]
    far = distance_transform_edt(~sampled)[missing] > reach
    return float(weights[far].sum() / weights.sum()) if len(weights) else 0.0


def _distance(unit: Tensor) -> Tensor:
    """Distance of each sample or line from the middle, in parts of the width."""
    rows, cols = ((torch.arange(n) - n // 2) / n if n > 1 else torch.zeros(1) for n in unit.shape)
    return torch.hypot(rows[:, None], cols[None]).double()


def _sampled_units(unit: Tensor, sampled: Tensor) -> Tensor:
    """What is sampled, in the shape of `unit`."""
    return sampled if unit.shape == sampled.shape else sampled.any(unit.shape.index(1), keepdim=True)


def _candidates(mask: Tensor, kspace: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return what may be held out, `(1, col)` or `(row, 1)` of a line mask, and what is sampled, on the CPU."""
    sampled, spared = mask.cpu(), torch.zeros(mask.shape, dtype=torch.bool)
    spared[acs_region(sampled)] = True
    if kspace is not None:
        box = calibration_box(mask, kspace=kspace)
        spared[box] = True
        if bool(spared[box].any()):
            spared[acs_region(sampled, ((box[0].start + box[0].stop) // 2, (box[1].start + box[1].stop) // 2))] = True
    lines = whole_lines(sampled)
    if lines is None:
        return sampled & ~spared, sampled
    return lines & ~spared.any(lines.shape.index(1), keepdim=True), sampled
