"""SMRD (Ozturkler et al. 2023, MICCAI): annealed Langevin with a regularised data solve, tuned and stopped by SURE."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdrift.methods import Callback, ChainNoise, Measurement, Method
from kdrift.methods.samplers.csgm_langevin import LangevinOptions, Level, annealing, langevin_step, uniform_start
from kdrift.mri.linop import LinearOperator
from kdrift.sde import VESDE
from kdrift.sde.score import ScoreModel

PROBE_SCALE = 1e-3
"""Size of the perturbation that measures the divergence, in units of the largest pixel of A^H y."""


@dataclass(frozen=True)
class SMRDOptions(LangevinOptions):
    """Settings of SMRD; the defaults are those of the published code for brains."""

    cg_iterations: int = 5
    """Conjugate-gradient steps of a solve."""
    lambda_start: float = 2.0
    """lambda_0; also used wherever learning has made lambda negative."""
    lambda_learning_rate: float = 0.2
    """Learning rate of Adam on lambda; 0 keeps lambda_0."""
    learn_until: int = 1654
    """Last level at which lambda is learned."""
    early_stopping: bool = True
    """Stop a chain once the mean SURE of the last `window` steps exceeds that of the `window` before."""
    window: int = 480
    """Langevin steps of a window (160 levels of 3); no chain stops within its first three windows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cg_iterations < 1 or self.lambda_start <= 0 or self.lambda_learning_rate < 0 or self.window < 1:
            raise ValueError(
                f"expected cg_iterations and window >= 1, lambda_start > 0 and lambda_learning_rate >= 0, got {self}"
            )

    @property
    def evaluations(self) -> int:
        """Network evaluations of a chain that is not stopped early: two a Langevin step that needs SURE, else one."""
        return sum(self.steps_at(i) * (2 if self.needs_risk(i) else 1) for i in self.visited())

    def learns(self, index: int) -> bool:
        """Whether lambda is learned at a level."""
        return self.lambda_learning_rate > 0 and index <= self.learn_until

    def needs_risk(self, index: int) -> bool:
        """Whether SURE is used at a level."""
        return self.early_stopping or self.learns(index)


def smrd(
    score: ScoreModel, sde: VESDE, measurement: Measurement, *, rng: ChainNoise, options: SMRDOptions,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """Sample, complex `(sample, [set,] row, col)`: x <- (A^H A + lambda)^-1 (A^H y + lambda x+), x+ a Langevin step.

    Every chain (its map sets together) learns its own lambda by Adam on SURE and stops by itself; a stopped chain costs
    no more evaluations. `annealing` says what is clipped to the prior's range of levels.
    """
    operator, data = measurement.A, measurement.data
    rows, cols = data.shape[-2:]
    levels = annealing(options, sde)
    x = uniform_start(rng, rows, cols)
    lam = torch.full(x.shape[:1], options.lambda_start, dtype=data.real.dtype, device=data.device)
    adam = torch.optim.Adam([lam], lr=options.lambda_learning_rate or 1.0)
    running = torch.ones_like(lam, dtype=torch.bool)
    risks: list[Tensor] = []
    for done, level in enumerate(levels, 1):
        for _ in range(level.num_steps):
            noise, probe = rng(rows, cols), rng(rows, cols)
            if not bool(running.any()):
                break
            applied = torch.where(lam > 0, lam, options.lambda_start)[running]
            given = (x[running], noise[running])
            if options.needs_risk(level.index):
                image, risk, slope = tuned_step(
                    score, operator, data, *given, probe[running], applied, level, options.cg_iterations
                )
                risks.append(torch.zeros_like(lam).masked_scatter(running, risk))
                if options.learns(level.index):
                    slope = torch.zeros_like(lam).masked_scatter(running, slope)
                    lam.grad = torch.where(lam > 0, slope, 0)
                    adam.step()
            else:
                moved = langevin_step(score, given[0], level, given[1])
                image = data_step(operator, data, moved, applied, options.cg_iterations)
            x = x.index_put((running,), image)
            if options.early_stopping:
                running = running & ~_rising(risks, options.window)
        if callback:
            callback(done, len(levels), x, level.sigma)
    return x


def data_step(operator: LinearOperator, data: Tensor, x: Tensor, lam: Tensor, cg_iterations: int) -> Tensor:
    """(A^H A + lambda)^-1 (A^H y + lambda x) by conjugate gradients from A^H y, `(chain, [set,] row, col)`."""
    right = data + _over(lam, x) * x
    return operator.solve_normal(right, lam, x0=data.expand_as(right), max_iter=cg_iterations)


def tuned_step(
    score: ScoreModel, operator: LinearOperator, data: Tensor, x: Tensor, noise: Tensor, probe: Tensor, lam: Tensor,
    level: Level, cg_iterations: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """One step h(x) `(chain, [set,] row, col)`, its SURE and the derivative of that by lambda, `(chain,)`.

    The divergence is that of the whole step, network included, along the unit noise `probe`: a second evaluation at
    x + eps probe with the same Langevin noise. The solve is linear, so it maps that difference by lambda (A^H A +
    lambda)^-1, and derivatives by lambda are two more solves: d h / d lambda = (A^H A + lambda)^-1 (x+ - h).
    """
    peak = data.abs().max()
    eps = PROBE_SCALE * torch.where(peak > 0, peak, 1)
    moved = langevin_step(score, x, level, noise)
    change = (langevin_step(score, x + eps * probe, level, noise) - moved) / eps
    factor = _over(lam, x)
    image = data_step(operator, data, moved, lam, cg_iterations)
    response = operator.solve_normal(factor * change, lam, max_iter=cg_iterations)
    image_slope, response_slope = operator.solve_normal(
        torch.stack([moved - image, change - response]), lam, max_iter=cg_iterations
    )
    misfit = image - data
    residual, divergence = _inner(misfit, misfit), _inner(probe, response) / 2
    slope = 2 * _inner(misfit, image_slope) * divergence + residual * _inner(probe, response_slope) / 2
    return image, sure(image, data, probe, response), slope


def sure(image: Tensor, noisy: Tensor, probe: Tensor, response: Tensor) -> Tensor:
    """SURE of an estimate of unknown noise level, `(chain,)`: mean squared error a complex pixel.

    Stein's estimate |h - u|^2 / n - s^2 + s^2 div h / n (as SMRD has it) with the noise variance s^2 of u taken to be
    |h - u|^2 / n: what remains is the product of the two. `response` is the directional derivative of h along `probe`.
    """
    misfit = image - noisy
    return _inner(misfit, misfit) * _inner(probe, response) / 2


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Re <a, b> of each chain, over its number of complex pixels."""
    return (a.conj() * b).real.flatten(1).mean(1)


def _over(lam: Tensor, x: Tensor) -> Tensor:
    return lam.reshape(-1, *(1,) * (x.ndim - 1))


def _rising(risks: list[Tensor], window: int) -> Tensor:
    """Return for which chains the mean SURE of the last window exceeds that of the window before."""
    if len(risks) <= 3 * window:
        return torch.zeros_like(risks[-1], dtype=torch.bool)
    recent = torch.stack(risks[-2 * window :])
    return recent[window:].mean(0) > recent[:window].mean(0)


METHODS = {
    "smrd": Method(
        smrd, {"released": SMRDOptions()},
        "SMRD: annealed Langevin with a regularised data solve, tuned and stopped by SURE",
    ),
}  # fmt: skip
