"""Samples of undersampled k-space that are left out of a reconstruction and then predicted by it.

How well an image predicts what its method never saw is a measure of quality that needs no reference (cross-validation;
the split of the sampled set is that of SSDU, Yaman et al. 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdrift.mri.coils import calibration_box
from kdrift.mri.masks import acs_region
from kdrift.runs.seeds import torch_generator


def draw_heldout(mask: Tensor, fraction: float, seed: int, number: int = 0, *, kspace: Tensor | None = None) -> Tensor:
    """Draw about `fraction` of the samples outside the ACS: whole lines of a line mask, points of a point mask.

    `mask` and the result are boolean `(row, col)`; `number` tells the draws of one seed apart. The ACS lies around the
    middle of k-space, and with `kspace` (*batch, coil, row, col) around the echo as well, where coil maps find their
    calibration lines. Raises ValueError where nothing is sampled outside the ACS.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the held-out fraction must lie between 0 and 1, got {fraction}")
    sampled, spared = mask.cpu(), torch.zeros(mask.shape, dtype=torch.bool)
    spared[acs_region(sampled)] = True
    if kspace is not None:
        box = calibration_box(mask, kspace=kspace)
        spared[box] = True
        if bool(spared[box].any()):
            spared[acs_region(sampled, ((box[0].start + box[0].stop) // 2, (box[1].start + box[1].stop) // 2))] = True
    if bool((sampled == sampled[:1]).all()):
        unit, spared = sampled[:1], spared.any(0, keepdim=True)
    elif bool((sampled == sampled[:, :1]).all()):
        unit, spared = sampled[:, :1], spared.any(1, keepdim=True)
    else:
        unit = sampled
    unit = unit & ~spared
    candidates = unit.flatten().nonzero().flatten()
    if not len(candidates):
        raise ValueError("nothing is sampled outside the ACS that could be held out: name a mask that undersamples")
    order = torch.randperm(len(candidates), generator=torch_generator("held-out", seed, number))
    chosen = torch.zeros(unit.numel(), dtype=torch.bool)
    chosen[candidates[order[: max(1, round(fraction * len(candidates)))]]] = True
    return (chosen.reshape(unit.shape) & sampled).to(mask.device)
