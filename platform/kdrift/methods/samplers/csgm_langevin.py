"""CSGM-Langevin (Jalal et al. 2021): annealed Langevin dynamics whose data term is scaled to the score."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kdrift.methods import Callback, ChainNoise, Measurement, Method, Options, chain_norm, ratio
from kdrift.sde import VESDE
from kdrift.sde.score import ScoreModel


@dataclass(frozen=True)
class LangevinOptions(Options):
    """The annealing of CSGM-Langevin and SMRD over the levels of NCSNv2; sigma in units of the normalised image."""

    num_steps: int = 1155
    """Levels visited, evenly spaced from `first_level` to the last of the table (1155 visits each of 1156 to 2310)."""
    num_levels: int = 2311
    """L, levels of the table, geometric from `sigma_begin` (level 0) to `sigma_end` (level L - 1)."""
    sigma_begin: float = 232.0
    """First and largest sigma of the table."""
    sigma_end: float = 0.0066
    """sigma_L, the last and smallest of the table."""
    first_level: int = 1156
    """Level that the run starts at."""
    inner_steps: int = 3
    """Langevin steps at each level up to `late_level`."""
    late_level: int = 1800
    """Last level with `inner_steps`."""
    late_inner_steps: int = 4
    """Langevin steps at each later level: 4 for brains, 3 for knees."""
    step_size: float = 5e-5
    """The step at sigma is this times (sigma / sigma_L)^2."""

    def __post_init__(self) -> None:
        if self.num_steps < 2 or not 0 <= self.first_level < self.num_levels - 1:
            raise ValueError(f"expected num_steps >= 2 and 0 <= first_level < num_levels - 1, got {self}")
        if not 0 < self.sigma_end < self.sigma_begin or self.step_size <= 0:
            raise ValueError(f"expected 0 < sigma_end < sigma_begin and step_size > 0, got {self}")
        if self.inner_steps < 1 or self.late_inner_steps < 1:
            raise ValueError(f"expected inner_steps and late_inner_steps >= 1, got {self}")

    @property
    def evaluations(self) -> int:
        """Network evaluations of one chain: one a Langevin step."""
        return sum(self.steps_at(index) for index in self.visited())

    def visited(self) -> list[int]:
        """Indices of the levels visited, in order."""
        last = self.num_levels - 1
        spacing = (last - self.first_level) / (self.num_steps - 1)
        return [round(self.first_level + i * spacing) for i in range(self.num_steps)]

    def steps_at(self, index: int) -> int:
        """Langevin steps at a level."""
        return self.inner_steps if index <= self.late_level else self.late_inner_steps


@dataclass(frozen=True)
class CSGMOptions(LangevinOptions):
    """Settings of CSGM-Langevin; the defaults are the paper's for brains."""

    guidance: float = 5.0
    """Norm of the data term in units of the norm of the score."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guidance < 0:
            raise ValueError(f"expected guidance >= 0, got {self}")


@dataclass(frozen=True)
class Level:
    """One level of the annealing."""

    index: int
    """Index of the level in the table."""
    sigma: float
    """Noise level, from which the step follows; at most the prior's largest."""
    asked: float
    """Level that the score is asked at: `sigma`, or the prior's smallest where that is larger."""
    step: float
    """Size of a Langevin step at this level."""
    num_steps: int
    """Langevin steps at this level."""


def ncsnv2_sigma(index: int, num_levels: int = 2311, sigma_begin: float = 232.0, sigma_end: float = 0.0066) -> float:
    """sigma of a level of NCSNv2's geometric table (Song and Ermon 2020); by default the table of Jalal et al."""
    return sigma_begin * math.exp(index / (num_levels - 1) * math.log(sigma_end / sigma_begin))


def annealing(options: LangevinOptions, sde: VESDE) -> list[Level]:
    """Return the levels visited, clipped to what the prior knows.

    A level above the prior's largest sigma becomes that, step included. Below its smallest the level and its step stay
    as they are, and the score is asked at the smallest.
    """
    levels = []
    for index in options.visited():
        table = ncsnv2_sigma(index, options.num_levels, options.sigma_begin, options.sigma_end)
        sigma = min(table, sde.sigma_max)
        step = options.step_size * (sigma / options.sigma_end) ** 2
        levels.append(Level(index, sigma, max(sigma, sde.sigma_min), step, options.steps_at(index)))
    return levels


def langevin_step(score: ScoreModel, x: Tensor, level: Level, noise: Tensor) -> Tensor:
    """x + step s(x; sigma) + sqrt(2 step) z (Song and Ermon 2019, Algorithm 1)."""
    return x + level.step * score(x, level.asked) + math.sqrt(2 * level.step) * noise


def uniform_start(rng: ChainNoise, rows: int, cols: int) -> Tensor:
    """Draw x_0 `(*chains, row, col)`, real and imaginary parts U[0, 1] each."""
    return torch.view_as_complex(torch.special.ndtr(torch.view_as_real(rng(rows, cols))))


def csgm_langevin(
    score: ScoreModel, sde: VESDE, measurement: Measurement, *, rng: ChainNoise, options: CSGMOptions,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """Sample, complex `(sample, [set,] row, col)`: x <- x + step (s - d) + sqrt(2 step) z at levels of falling sigma.

    d is A^H (A x - y) scaled to `guidance` times the norm of s (norms per chain, over its map sets together), so that
    the noise level of the data does not enter. `annealing` says what is clipped to the prior's range of levels.
    """
    operator, data = measurement.A, measurement.data
    rows, cols = data.shape[-2:]
    axes = data.ndim  # of a sample, its map sets together
    levels = annealing(options, sde)
    x = uniform_start(rng, rows, cols)
    for done, level in enumerate(levels, 1):
        for _ in range(level.num_steps):
            prior = score(x, level.asked)
            misfit = operator.normal(x) - data
            scale = ratio(options.guidance * chain_norm(prior, axes), chain_norm(misfit, axes))
            drift = prior - scale * misfit
            x = x + level.step * drift + math.sqrt(2 * level.step) * rng(rows, cols)
        if callback:
            callback(done, len(levels), x, level.sigma)
    return x


METHODS = {
    "csgm_langevin": Method(
        # the paper's step diverges with scores that grow with the noise, as exact ones; a tenth (not searched) does not
        csgm_langevin, {"paper": CSGMOptions(), "stable": CSGMOptions(num_steps=40, step_size=5e-6)},
        "CSGM-Langevin: annealed Langevin with a data term scaled to the score",
    ),
}  # fmt: skip
