"""The predictor-corrector loop, and its use with the levels of a VE-SDE (Song et al. 2021; Score-MRI Algorithm 1).

`solvers` has the steps of every SDE in time. Score-MRI's are here: they go by noise level down to zero, where a VE-SDE
has no time, and their corrector takes the norms of real and imaginary part apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdrift.methods.chain_noise import ChainNoise
from kdrift.methods.measurement import Callback
from kdrift.sde.score import ScoreModel


@dataclass(frozen=True)
class Step:
    """One predictor step and where the corrector steps of it are taken: noise levels here, times in `solvers`."""

    start: float
    """Before the predictor."""
    stop: float
    """After it."""
    corrector: float
    """Where the corrector's score is asked."""


Move = Callable[[Tensor, Step, Tensor, bool], Tensor]
"""Called `(x, step, noise, silent)`; returns x after a predictor or a corrector, without the noise if silent."""


def paper_steps(levels: list[float]) -> list[Step]:
    """Return the steps of Score-MRI Algorithm 2 over sigma_0 < ... < sigma_N: correct at the level arrived at."""
    return [Step(levels[i + 1], levels[i], levels[i]) for i in reversed(range(len(levels) - 1))]


def released_steps(levels: list[float]) -> list[Step]:
    """Return the steps of the released code over sigma_0 < ... < sigma_{N-1}.

    The corrector is asked at the level the predictor starts from, and the last predictor goes to zero.
    """
    below = [0.0, *levels[:-1]]
    return [Step(levels[i], below[i], levels[i]) for i in reversed(range(len(levels)))]


def pc_loop(
    steps: Sequence[Step],
    x: Tensor,
    *,
    rng: ChainNoise,
    predictor: Move,
    corrector: Move,
    num_corrector_steps: int,
    corrector_first: bool = False,
    project: Callable[[Tensor], Tensor] = lambda x: x,
    after_step: Callable[[Tensor, int], Tensor] = lambda x, step: x,
    final_mean: bool = False,
    callback: Callback | None = None,
) -> Tensor:
    """Run a batch of chains through `steps`; without `project` this samples the prior.

    Parameters
    ----------
    x : start `(*chains, row, col)` at the first step's level, complex or real; `rng` has the same chains.
    corrector_first : correct before the predictor of each step instead of after it.
    project : applied after every predictor and corrector step.
    after_step : applied at the end of step `i`, counted down to 0 as in the paper.
    final_mean : leave out the noise of the very last update.
    """
    rows, cols = x.shape[-2:]
    moves = [predictor, *[corrector] * num_corrector_steps]
    if corrector_first:
        moves.reverse()
    for done, step in enumerate(steps):
        for position, move in enumerate(moves):
            noise = rng(rows, cols) if x.is_complex() else rng(rows, cols).real
            silent = final_mean and done == len(steps) - 1 and position == len(moves) - 1
            x = project(move(x, step, noise, silent))
        x = after_step(x, len(steps) - 1 - done)
        if callback:
            callback(done + 1, len(steps), x, step.stop)
    return x


def pc_sample(
    score: ScoreModel,
    steps: list[Step],
    x: Tensor,
    *,
    rng: ChainNoise,
    snr: float,
    num_corrector_steps: int,
    corrector_first: bool = False,
    project: Callable[[Tensor], Tensor] = lambda x: x,
    after_step: Callable[[Tensor, int], Tensor] = lambda x, step: x,
    final_mean: bool = False,
    callback: Callback | None = None,
) -> Tensor:
    """`pc_loop` over noise levels with `reverse_diffusion` and `langevin`; `snr` is r of the Langevin step size."""

    def predictor(x: Tensor, step: Step, noise: Tensor, silent: bool) -> Tensor:
        return reverse_diffusion(score, x, step.start, step.stop, noise, silent=silent)

    def corrector(x: Tensor, step: Step, noise: Tensor, silent: bool) -> Tensor:
        return langevin(score, x, step.corrector, snr, noise, silent=silent)

    return pc_loop(
        steps,
        x,
        rng=rng,
        predictor=predictor,
        corrector=corrector,
        num_corrector_steps=num_corrector_steps,
        corrector_first=corrector_first,
        project=project,
        after_step=after_step,
        final_mean=final_mean,
        callback=callback,
    )


def reverse_diffusion(
    score: ScoreModel, x: Tensor, start: float, stop: float, noise: Tensor, *, silent: bool = False
) -> Tensor:
    """Predictor x + (s^2 - s'^2) score(x, s) + sqrt(s^2 - s'^2) z from level s to s' (Score-MRI Eq. 11).

    `silent` leaves out the noise.
    """
    variance = start**2 - stop**2
    mean = x + variance * score(x, start)
    return mean if silent else mean + variance**0.5 * noise


def langevin(score: ScoreModel, x: Tensor, sigma: float, snr: float, noise: Tensor, *, silent: bool = False) -> Tensor:
    """Corrector x + eps g + sqrt(2 eps) z with eps = 2 (r |z| / |g|)^2 (Song et al. 2021, Algorithm 4).

    Norms are taken over each real image, the real and the imaginary part each for itself (Score-MRI Algorithm 3; its
    Eq. 18 prints the step without the square, which its code has). `silent` leaves out the noise.
    """
    gradient, z = _real_images(score(x, sigma)), _real_images(noise)
    ratio = _norm(z) / _norm(gradient).clamp_min(torch.finfo(z.dtype).tiny)
    eps = 2 * (snr * ratio) ** 2
    update = eps * gradient if silent else eps * gradient + torch.sqrt(2 * eps) * z
    return x + (torch.view_as_complex(update) if x.is_complex() else update[..., 0])


def _real_images(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x[..., None]


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=(-3, -2), keepdim=True)
