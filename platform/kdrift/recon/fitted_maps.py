"""Coil maps of a slice, fitted together with its image; where its calibration lines leave open which kind of maps fits,
those by which left-out samples are predicted better."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from kdrift.methods import ChainNoise
from kdrift.methods.joint_maps import joint_maps
from kdrift.methods.samplers.annealed import TUNED, annealed
from kdrift.mri.coils import low_resolution_maps
from kdrift.mri.image_scale import ImageScale
from kdrift.recon.check import hold_out
from kdrift.recon.slices import SliceData
from kdrift.runs.seeds import Stream
from kdrift.sde import VESDE
from kdrift.sde.score import ScoreModel

PREDICTING = replace(TUNED, num_steps=20)
"""Chains that predict left-out samples: a pair of half the usual length tells maps apart whose errors differ by a
quarter. With two wrong sets they were 1.2 to 2.5 times those of the right one."""


def fit_maps_of(
    score: ScoreModel, sde: VESDE, data: SliceData, *, scale: ImageScale | None, seed: int, choose: bool
) -> SliceData:
    """Return the slice with maps that are fitted together with its image, from those that it has.

    Where the calibration lines ask for a second set (`SliceData.sets_note`), either the object is wider than the field
    of view, or ESPIRiT cannot follow the coils. With `choose` one set is then fitted from low-resolution images as
    well, and the maps by which left-out samples are predicted better are taken; the note says which, and both errors.
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

    def error(of: SliceData) -> float:
        """Error of left-out samples as a part of them, each group weighted by what it stands for."""
        seen, groups = hold_out(of, seed)
        assert seen.heldout is not None
        measurement = seen.measurement()
        images = annealed(score, sde, measurement, rng=noise(seen, "map choice", 2), options=PREDICTING)
        observed = seen.heldout.kspace / seen.scale
        left = observed - measurement.chains.operator(seen.smaps, seen.heldout.mask).forward(images.mean(0))

        def power(values: Tensor) -> float:
            return sum(group.share * float(values[..., group.mask].abs().square().sum()) for group in groups)

        return power(left) / power(observed)

    found = fitted(data)
    start = low_resolution_maps(data.kspace) if choose and data.sets_note else None
    if start is None or not hold_out(data, seed)[1]:
        return found
    other = fitted(data.with_maps(start, scale), rough=True)
    errors = error(found), error(other)
    head, _, rest = data.sets_note.partition(": ")
    kind = "two sets" if data.smaps.ndim == 4 else "one set"
    if errors[1] < errors[0]:
        head = "one set of coil maps, fitted from low-resolution images"
        said = f"left-out samples are predicted with {errors[1]:.0%} error, with {kind} of ESPIRiT {errors[0]:.0%}"
        return replace(other, sets_note=f"{head} ({said}): {rest}")
    said = f"left-out samples are predicted with {errors[0]:.0%} error, with one set fitted from low-resolution images"
    return replace(found, sets_note=f"{head} ({said} {errors[1]:.0%}): {rest}")
