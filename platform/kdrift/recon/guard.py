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
        self._found: dict[int, tuple[int, int, str]] = {}
        self._last, self._levels = (0, 0), (math.inf, math.inf)

    def __call__(self, done: int, total: int, images: Tensor, level: float) -> None:
        """Check the images after step `done` of `total`. Raises `AllDiverged` when no chain is left."""
        self._last = (done, total)
        residual = done == total or done % max(2, total // NUM_CHECKS) == 0
        self._check(images, self._levels[0], residual=residual)
        self._levels = (self._levels[1], float(level))
        if len(self._found) == self._num_samples:
            raise AllDiverged

    def finish(self, images: Tensor) -> None:
        """Check what the sampler returned."""
        self._check(images, max((level for level in self._levels if level < math.inf), default=0.0), residual=True)

    def divergences(self, slice_index: int, first_sample: int) -> tuple[Divergence, ...]:
        """Return what was marked, the chunk's samples being numbered from `first_sample`."""
        return tuple(Divergence(slice_index, first_sample + row, *seen) for row, seen in sorted(self._found.items()))

    def healthy(self) -> list[int]:
        """Return the rows of the chunk that were not marked."""
        return [row for row in range(self._num_samples) if row not in self._found]

    def _check(self, images: Tensor, level: float, *, residual: bool) -> None:
        size = torch.linalg.vector_norm(images, dim=(-2, -1))
        self._mark(size, self._size, level, self._size_noise, "the image is")
        if residual:
            m = self._measurement
            residuals = (m.kspace - m.A.forward(image + 0j) for image in images)  # one by one: k-space of all is large
            misfit = torch.stack([m.chains.norm(residual) for residual in residuals])  # of each part with own data
            self._mark(misfit, self._misfit, level, self._misfit_noise, "its data residual is")

    def _mark(self, values: Tensor, data: Tensor, level: float, noise: float, what: str) -> None:
        """Mark the samples any of whose `values` (sample, ...) is not finite, or beyond `data` + `level` x `noise`."""
        ratio = (values / (data + level * noise)).reshape(self._num_samples, -1)
        bad = ~(ratio <= LIMIT) | ~torch.isfinite(values).reshape(ratio.shape)
        if not bool(bad.any()):
            return
        for row in bad.any(1).nonzero().flatten().tolist():
            worst = ratio[row].max()
            reason = "its values are not finite"
            if bool(torch.isfinite(worst)):
                reason = f"{what} {float(worst):.3g} times what the data and the noise level explain"
            self._found.setdefault(row, (*self._last, reason))
