"""The divergence guard: a chain that the data and its noise level no longer explain is marked, and never an image.

Two bounds hold for any image x = x_0 + sigma z whose x_0 a posterior could draw, z unit noise and y the data, both in
the units of the prior (an image of brightness 1):

    |x|          about |A^H y| + |unit image| + sigma |z|
    |M(y - A x)| about |y|     + |A unit image| + sigma |M A z|

The first also bounds what was not measured, which the second does not see. Both have a margin, `LIMIT`. A sampler
starts far from the data, at its first noise level, so the bounds follow the level that it reports, two steps behind:
where steps are few, one cannot take out all the noise that its levels differ by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kdrift.methods import Measurement
from kdrift.runs.hardware import asks_freely

LIMIT = 5.0
"""How often an image may exceed what data and noise level explain."""
UNIT = 0.25
"""Root mean square of the unit image: the brightness that a prior may draw where the data say next to nothing."""
NUM_CHECKS = 20
"""Checks of the data residual in a long run, evenly spread (up to twice as many); every second step of a short one."""


@dataclass(frozen=True)
class Divergence:
    """One sample that is no draw from a posterior."""

    slice_index: int
    """Number of the slice in its volume."""
    sample: int
    step: int
    """Step after which this was seen."""
    num_steps: int
    reason: str

    def __str__(self) -> str:
        return f"step {self.step} of {self.num_steps}: {self.reason}"


class Diverged(ValueError):
    """No sample of a slice is left."""


class AllDiverged(Exception):
    """Raised in a sampler's callback to stop it: none of its chains is left."""


class Guard:
    """Watches the chains of one chunk as a sampler's callback; what it marks stays marked.

    Finite values and the size of images are checked at every step, by one norm of each image; the data residual, which
    costs an application of A, at about `NUM_CHECKS` steps.

    Parameters
    ----------
    measurement
        What the sampler was given, of the chunk's coils; each of its chains is held to its own data.
    num_samples
        Samples in the chunk; images are `(num_samples, *parts, row, col)`, and a sample diverges if one of its parts
        does.
    """

    def __init__(self, measurement: Measurement, num_samples: int) -> None:
        self._measurement, self._num_samples = measurement, num_samples
        chains, mask = measurement.chains, measurement.mask
        pixels, points = mask.numel(), max(1, int(mask.sum()))
        energy = chains.energy(measurement.smaps)
        trace = float(energy.mean((-2, -1)).sum()) or 1.0
        gain = float(energy[energy > 0].mean()) if bool((energy > 0).any()) else 1.0  # 1 of ESPIRiT's maps
        self._size = chains.norm(measurement.data) / gain + UNIT * math.sqrt(pixels)
        self._size_noise = math.sqrt(2 * pixels)
        self._misfit = chains.norm(measurement.kspace) + UNIT * math.sqrt(points * gain)
        self._misfit_noise = math.sqrt(2 * points * trace)
        self._step = self._size.new_zeros(num_samples, dtype=torch.int64)
        self._worst = torch.zeros_like(self._step, dtype=self._size.dtype)
        self._of_data = torch.zeros_like(self._step, dtype=torch.bool)
        self._last, self._levels = (0, 0), (math.inf, math.inf)

    def __call__(self, done: int, total: int, images: Tensor, level: float) -> None:
        """Check the images after step `done` of `total`. Raises `AllDiverged` when no chain is left.

        On an accelerator, which would have to be waited for, chains that have diverged run to their end.
        """
        self._last = (done, total)
        residual = done == total or done % max(2, total // NUM_CHECKS) == 0
        self._check(images, self._levels[0], residual=residual)
        self._levels = (self._levels[1], float(level))
        if asks_freely(images.device) and bool((self._step > 0).all()):
            raise AllDiverged

    def finish(self, images: Tensor) -> None:
        """Check what the sampler returned."""
        self._check(images, max((level for level in self._levels if level < math.inf), default=0.0), residual=True)

    def divergences(self, slice_index: int, first_sample: int) -> tuple[Divergence, ...]:
        """Return what was marked, the chunk's samples being numbered from `first_sample`."""
        found = []
        seen = zip(self._step.tolist(), self._worst.tolist(), self._of_data.tolist(), strict=True)
        for row, (step, worst, of_data) in enumerate(seen):
            reason = "its values are not finite"
            if math.isfinite(worst):
                what = "its data residual is" if of_data else "the image is"
                reason = f"{what} {worst:.3g} times what the data and the noise level explain"
            if step:
                found.append(Divergence(slice_index, first_sample + row, step - 1, self._last[1], reason))
        return tuple(found)

    def healthy(self) -> list[int]:
        """Return the rows of the chunk that were not marked."""
        return [row for row, step in enumerate(self._step.tolist()) if not step]

    def _check(self, images: Tensor, level: float, *, residual: bool) -> None:
        size = torch.linalg.vector_norm(images, dim=(-2, -1))
        self._mark(size, self._size, level * self._size_noise, of_data=False)
        if residual:
            m = self._measurement
            residuals = (m.kspace - m.A.forward(image + 0j) for image in images)  # one by one: k-space of all is large
            misfit = torch.stack([m.chains.norm(residual) for residual in residuals])  # of each part with own data
            self._mark(misfit, self._misfit, level * self._misfit_noise, of_data=True)

    def _mark(self, values: Tensor, data: Tensor, noise: float, *, of_data: bool) -> None:
        """Mark the samples any of whose `values` (sample, ...) is not finite, or beyond `data` + `noise`."""
        ratio = (values / (data + noise)).reshape(self._num_samples, -1)
        finite = torch.isfinite(values).reshape(ratio.shape)
        new = (self._step == 0) & (~(ratio <= LIMIT) | ~finite).any(1)
        worst = torch.where(finite.all(1), ratio.amax(1), torch.nan)
        self._step = torch.where(new, self._last[0] + 1, self._step)  # 0: not marked; a start may be marked, at step 0
        self._worst = torch.where(new, worst, self._worst)
        self._of_data = torch.where(new, of_data, self._of_data)
