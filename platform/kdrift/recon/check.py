"""What can be found out of a slice without a reference: measured samples are held out, and predicted by its method
and by classical ones; and the prior is asked how well it knows such an image."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from kdrift.methods import IMAGES, METHODS, Chains, Measurement
from kdrift.mri.heldout import HeldOutGroup, draw_groups
from kdrift.prior.prior_info import NoiseLeft
from kdrift.recon.chunks import Fallback
from kdrift.recon.slices import HeldOut, SliceData
from kdrift.runs.seeds import torch_generator
from kdrift.sde.score import ScoreModel, denoise
from kdrift.trust.verdict import SAMPLER, Group

CLASSICAL = ("tv", "cg_sense", "zero_filled")
"""What a sampler is compared with, each by its default preset: methods that make one image, not coil images."""
KNOWN_LEVELS = (0.05, 0.2)
"""Noise levels at which a prior is asked whether it knows an image."""
OWN_NOISE = 0.25
"""At least this part of what a prior takes out counts, whatever noise the image is said to have."""


def hold_out(data: SliceData, seed: int) -> tuple[SliceData, list[HeldOutGroup]]:
    """Return a slice without some of its samples, and these in groups; the coil maps stay those of all samples.

    Nothing is left out where no sample can be spared.
    """
    groups = draw_groups(data.mask, seed, data.index, kspace=data.kspace[None])
    if not groups:
        return data, []
    unseen = torch.stack([group.mask for group in groups]).any(0)
    kept = HeldOut(torch.where(unseen, data.kspace, 0), unseen)
    return dataclasses.replace(
        data, kspace=torch.where(unseen, 0, data.kspace), mask=data.mask & ~unseen, heldout=kept
    ), groups


def heldout_error(data: SliceData, chains: Chains, images: Tensor) -> Tensor:
    """Return y - A x of held-out k-space, complex `(chain, coil, row, col)`, zero elsewhere, in the units of the prior.

    `images` are x of these chains, complex `(chain, *parts, row, col)`.
    """
    assert data.heldout is not None
    operator = chains.operator(data.smaps, data.heldout.mask)
    return data.heldout.kspace / data.scale - operator.forward(images + 0j)


def predict_groups(
    data: SliceData, groups: Sequence[HeldOutGroup], measurement: Measurement, images: Tensor, draws: Tensor, own: float
) -> tuple[Group, ...]:
    """Compare held-out samples with what a sampler and classical methods predict, in the units of the prior.

    Parameters
    ----------
    data, groups
        Of `hold_out`.
    measurement
        What the sampler was given.
    images
        Chains of the mean, complex `(chain, *parts, row, col)`; the mean over their squares is the sampler's error.
    draws
        Two or more posterior samples, likewise.
    own
        How much of the draws' variance a chain of `images` has that the mean of all chains has not.
    """
    assert data.heldout is not None
    observed = data.heldout.kspace / data.scale
    chains = measurement.chains
    left = {SAMPLER: heldout_error(data, chains, images)}
    for name in CLASSICAL:
        method = METHODS[name]
        own_sets = data.of_sets(method.max_map_sets)
        image = method.function(own_sets.measurement(IMAGES), options=method.preset(None)[1])
        left[name] = heldout_error(own_sets, IMAGES, image)[None]
    predicted = chains.operator(data.smaps, data.heldout.mask).forward(draws + 0j)
    deviation = (predicted - predicted.mean(0)) * math.sqrt(len(draws) / max(1, len(draws) - 1))
    variance = 2 * (data.noise_sigma / data.scale) ** 2
    found = []
    for group in groups:

        def power(values: Tensor, mask: Tensor = group.mask) -> float:
            total = float(values[..., mask].abs().square().sum()) / len(values)
            return total if math.isfinite(total) else math.inf

        count, spread = len(observed) * int(group.mask.sum()), power(deviation)
        errors = {name: power(values) for name, values in left.items()}
        if math.isfinite(errors[SAMPLER]) and math.isfinite(spread):
            errors[SAMPLER] = max(errors[SAMPLER] - own * spread, 0.0)
        else:
            errors[SAMPLER] = math.inf
        found.append(Group(count, group.share, power(observed[None]), variance * count, spread, errors))
    return tuple(found)


def noise_left(
    score: ScoreModel, image: Tensor, table: Sequence[NoiseLeft], *keys: int, noise: float = 0.0
) -> float | None:
    """Return how much noise a prior leaves on an image, as a multiple of what its table says of its own images.

    `image` is complex `(row, col)` on the scale of the prior, `keys` seed and slice, `noise` the deviation in each
    component of noise that the image itself has: the prior removes it too, which is no fault. The mean of the
    logarithms over `KNOWN_LEVELS`; None where the table has no such level.
    """
    low, high = KNOWN_LEVELS
    ratios = []
    for row in table:
        if not low <= row.sigma <= high or row.fraction <= 0:
            continue
        drawn = torch.randn(*image.shape, 2, generator=torch_generator("known", *keys))
        added = row.sigma * torch.view_as_complex(drawn).to(image)
        error = denoise(score, (image + added)[None], row.sigma)[0] - image
        power = float(error.abs().square().mean()) / (2 * row.sigma**2)
        ratios.append(max(power - (noise / row.sigma) ** 2, OWN_NOISE * power) / row.fraction)
    if not ratios or not all(math.isfinite(ratio) and ratio > 0 for ratio in ratios):
        return None
    return math.exp(statistics.fmean(map(math.log, ratios)))


def classical_image(data: SliceData, name: str) -> Fallback:
    """Return what a classical method makes of a slice, by its default preset, in the unit of the slice."""
    method = METHODS[name]
    data = data.of_sets(method.max_map_sets)
    measurement = data.measurement(method.chains)
    image = data.scale * method.function(measurement, options=method.preset(None)[1])
    misfit = (data.kspace - measurement.A.forward(image)).abs().square().sum()
    return Fallback(name, data.magnitude(image[None], method.chains)[0].cpu(), float(misfit))
