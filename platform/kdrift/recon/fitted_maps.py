"""Coil maps of a slice, fitted together with its image; where its calibration lines leave open which kind of maps fits,
those by which left-out samples are predicted better."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from kdrift.methods import ChainNoise
from kdrift.methods.joint_maps import joint_maps
from kdrift.methods.samplers.annealed import TUNED, annealed
from kdrift.mri.coils import low_resolution_maps
from kdrift.mri.image_scale import ImageScale
from kdrift.recon.check import heldout_error, hold_out
from kdrift.recon.slices import SliceData
from kdrift.runs.seeds import Stream
from kdrift.sde import VESDE
from kdrift.sde.score import ScoreModel

PREDICTING = replace(TUNED, num_steps=20)
"""Chains that predict left-out samples: a pair of half the usual length tells maps apart whose errors differ by a
quarter. With two wrong sets they were 1.2 to 2.5 times those of the right one."""
CLEARLY = 0.9
"""One set that was fitted from low-resolution images is taken where its error is below so many times that of two. Where
hardly anything is predicted, as at 8x from 5 calibration lines, both err alike (86 and 88 %, 98 and 101 %), and two
sets are right of a small field of view."""


def fit_maps_of(
    score: ScoreModel, sde: VESDE, data: SliceData, *, scale: ImageScale | None, seed: int, choose: bool
) -> SliceData:
    """Return the slice with maps that are fitted together with its image, from those that it has.

    Where the calibration lines ask for a second set (`SliceData.sets_note`), either the object is wider than the field
    of view, or ESPIRiT cannot follow the coils. With `choose` one set is then fitted from low-resolution images as
    well, and the kind of maps is taken that predicts left-out samples better, fitted without them; the note says which,
    and both errors.
    `scale` is the rule of the prior's images, `seed` that of the request.
    """

    def noise(of: SliceData, stream: Stream, samples: int) -> ChainNoise:
        return ChainNoise(
            seed, of.index, range(samples), *of.measurement().A.ishape[:-2], antithetic=True, stream=stream,
            device=of.kspace.device, dtype=of.kspace.dtype,
        )  # fmt: skip

    def fitted(start: SliceData, rough: bool = False) -> SliceData:
        maps = joint_maps(score, sde, start.measurement(), rng=noise(start, "coil maps", 1), rough=rough)
        return start.with_maps(maps, scale)

    first = low_resolution_maps(data.kspace) if choose and data.asked_sets == 2 else None
    if first is None:
        return fitted(data)
    seen, groups = hold_out(data, seed)
    if not groups:
        return fitted(data)

    def error(start: Tensor, rough: bool) -> float:
        """Error of left-out samples as a part of them, each group weighted by what it stands for."""
        assert seen.heldout is not None
        without = fitted(seen.with_maps(start, scale), rough)
        measurement = without.measurement()
        images = annealed(score, sde, measurement, rng=noise(without, "map choice", 2), options=PREDICTING)
        observed = seen.heldout.kspace / without.scale
        left = heldout_error(without, measurement.chains, images.mean(0))

        def power(values: Tensor) -> float:
            return sum(group.share * float(values[..., group.mask].abs().square().sum()) for group in groups)

        found = power(left) / power(observed)
        return found if math.isfinite(found) else math.inf

    two, one = error(data.smaps, rough=False), error(first, rough=True)
    head, _, rest = data.sets_note.partition(": ")
    said = "left-out samples are predicted with {:.1%} error, with {} {:.1%}"
    if one > CLEARLY * two:
        said = said.format(two, "one set fitted from low-resolution images", one)
        return replace(fitted(data), sets_note=f"{head} ({said}): {rest}")
    said = said.format(one, "two sets of ESPIRiT", two)
    head = "one set of coil maps, fitted from low-resolution images"
    return replace(fitted(data.with_maps(first, scale), rough=True), sets_note=f"{head} ({said}): {rest}")
