"""Predictor-corrector sampling and the probability-flow ODE of any SDE (Song et al. 2021, Appendices D to G).

In the equations P is the projection on the part of an image that diffuses (`SDE.project`), f and G are the factors of
one step (`SDE.discretize`), and s is the score of x_t, which `SDE.score` makes from a score model of images at their
own scale. Times are tensors without axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from kdrift.methods import Callback, ChainNoise, chain_norm, ratio
from kdrift.sde import SDE, VESDE, SubVPSDE
from kdrift.sde.score import ScoreModel

Predictor = Literal["euler_maruyama", "reverse_diffusion", "ancestral", "none"]
Corrector = Literal["langevin", "langevin_parts", "annealed_langevin", "none"]
Guide = Callable[[Tensor, Tensor], Tensor]
"""Called `(x, s)`; returns the direction to follow in place of s, e.g. the posterior's score."""


@dataclass(frozen=True)
class Step:
    """One predictor step, and the time at which its corrector steps are taken."""

    start: float
    """Time before the predictor."""
    stop: float
    """Time after the predictor."""
    corrector: float
    """Time at which the corrector asks for the score."""


def time_steps(
    low: float, high: float, num_steps: int, *, released: bool = False, dt: float | None = None
) -> list[Step]:
    """Return `num_steps` equal steps in time, from `high` down.

    The paper's end at `low` and correct at the time arrived at. The released code's start at times from `high` to
    `low`, the last one going beyond `low`, and correct at the time they start from; they are `dt` long, None: as long
    as the times are apart.
    """
    if released:
        spacing = (high - low) / (num_steps - 1)
        starts = [low + spacing * i for i in reversed(range(num_steps))]
        return [Step(t, t - (dt or spacing), t) for t in starts]
    times = [low + (high - low) * i / num_steps for i in reversed(range(num_steps + 1))]
    return [Step(start, stop, stop) for start, stop in pairwise(times)]


@dataclass(frozen=True)
class Scheme:
    """How the reverse SDE is run (Song et al. 2021, Algorithm 1), fixed for a run; without guides and projection it
    samples the prior."""

    steps: Sequence[Step]
    """Steps from noise to image; see `time_steps`."""
    predictor: Predictor = "reverse_diffusion"
    """`euler_maruyama`: x - f P x + G^2 s + G P z with f = rate dt, G = diffusion sqrt(dt). `reverse_diffusion`: the
    same with the SDE's own discretisation (Eq. 46, HFS-SDE Eq. 13). `ancestral`: the mean of p(x_{i-1} | x_i, x_0) with
    Tweedie's x_0, and G z times sigma_{i-1} / sigma_i for VE (Eqs. 4 and 47). `none`: x."""
    corrector: Corrector = "langevin"
    """x + eps s + sqrt(2 eps) P z (Algorithms 4 and 5). `langevin`: eps = 2 alpha (r |z| / |s|)^2, norms of each chain
    over the whole complex image; `langevin_parts`: over its real and its imaginary part, each with a step of its own
    (Score-MRI Algorithm 3); `annealed_langevin`: eps = 2 alpha (r std)^2; `none`: x."""
    snr: float = 0.16
    """r of the corrector's step size."""
    corrector_alpha: Callable[[float], float] | None = None
    """alpha of the corrector's step size at a time; None: (1 + f)^2 of the SDE's own step, 1 for VE, 1 - beta_i for
    VP."""
    num_corrector_steps: int = 1
    """M, corrector steps a predictor step."""
    corrector_first: bool = False
    """Correct before the predictor of each step instead of after it."""
    final_mean: bool = False
    """Leave out the noise of the very last update."""
    guide: Guide = lambda x, s: s
    """Direction in place of the score, in the predictor."""
    corrector_guide: Guide = lambda x, s: s
    """Direction in place of the score, in the corrector."""
    predictor_projected: bool = True
    """Pass the predictor's score through P."""
    project: Callable[[Tensor], Tensor] = lambda x: x
    """Applied after every predictor and corrector step."""
    after_step: Callable[[Tensor, int], Tensor] = lambda x, index: x
    """Applied at the end of step `i`, counted down to 0 as in the papers."""


def evaluations_a_step(predictor: Predictor, corrector: Corrector, num_corrector_steps: int) -> int:
    """Return the network evaluations of a chain in one step."""
    return (predictor != "none") + (num_corrector_steps if corrector != "none" else 0)


def run_scheme(
    model: ScoreModel, sde: SDE, scheme: Scheme, x: Tensor, *, rng: ChainNoise, callback: Callback | None = None
) -> Tensor:
    """Run a batch of chains `(*chains, row, col)`, complex or real, from the first step's time through all steps.

    `rng` has the same chains. `callback` is told the noise level at the image's own scale that is left.
    """
    moves = [predict, *[correct] * scheme.num_corrector_steps]
    if scheme.corrector_first:
        moves.reverse()
    for done, step in enumerate(scheme.steps, 1):
        last = done == len(scheme.steps)
        for position, move in enumerate(moves):
            noise = rng(*x.shape[-2:])
            mean, spread = move(model, sde, scheme, x, step, noise if x.is_complex() else noise.real)
            silent = last and scheme.final_mean and position == len(moves) - 1
            x = scheme.project(mean if silent or spread is None else mean + spread)
        x = scheme.after_step(x, len(scheme.steps) - done)
        if callback:
            callback(done, len(scheme.steps), x, float(sde.sigma(_moment(step.stop))) if step.stop > 0 else 0.0)
    return x


def predict(
    model: ScoreModel, sde: SDE, scheme: Scheme, x: Tensor, step: Step, noise: Tensor
) -> tuple[Tensor, Tensor | None]:
    """One step of the reverse SDE: its mean and its noise, None where nothing moves. Unit `noise` is like x.

    Raises ValueError for `ancestral` with a sub-VP SDE, for which none is published.
    """
    if scheme.predictor == "none":
        return x, None
    start, stop = _moment(step.start), _moment(step.stop)
    s = scheme.guide(x, sde.score(model, x, start, projected=scheme.predictor_projected))
    if scheme.predictor == "ancestral":
        f, g = sde.discretize(start, stop)
        mean = x + (1 / (1 + f) - 1) * sde.project(x) + g**2 / (1 + f) * s
        return mean, g * _ancestral_factor(sde, start, stop) * sde.project(noise)
    euler = scheme.predictor == "euler_maruyama"
    f, g = SDE.discretize(sde, start, stop) if euler else sde.discretize(start, stop)
    return x - f * sde.project(x) + g**2 * s, g * sde.project(noise)


def correct(
    model: ScoreModel, sde: SDE, scheme: Scheme, x: Tensor, step: Step, noise: Tensor
) -> tuple[Tensor, Tensor | None]:
    """One Langevin step at `step.corrector`: its mean and its noise. A score that is zero moves nothing."""
    if scheme.corrector == "none":
        return x, None
    at = _moment(step.corrector)
    s = sde.score(model, x, at)
    if scheme.corrector_alpha is None:
        alpha = (1 + sde.discretize(_moment(step.start), _moment(step.stop))[0]) ** 2
    else:
        alpha = _moment(scheme.corrector_alpha(step.corrector))
    direction, z = scheme.corrector_guide(x, s), sde.project(noise)
    if scheme.corrector == "langevin_parts" and x.is_complex():
        sizes = [ratio(chain_norm(n), chain_norm(g)) for n, g in ((noise.real, s.real), (noise.imag, s.imag))]
        real, imag = (2 * alpha * (scheme.snr * size) ** 2 for size in sizes)
        moved = torch.complex(real * direction.real, imag * direction.imag)
        return x + moved, torch.complex(torch.sqrt(2 * real) * z.real, torch.sqrt(2 * imag) * z.imag)
    size = sde.std(at) if scheme.corrector == "annealed_langevin" else ratio(chain_norm(noise), chain_norm(s))
    eps = 2 * alpha * (scheme.snr * size) ** 2
    return x + eps * direction, torch.sqrt(2 * eps) * z


def probability_flow(
    model: ScoreModel, sde: SDE, x: Tensor, times: Sequence[float], *, method: Literal["euler", "heun"] = "heun"
) -> Tensor:
    """Solve dx/dt = rate P x - g^2 s / 2 (Eq. 13) over `times`, from noise to image or back.

    `x` `(*chains, row, col)` is at the first time. `euler` is of first order and one network evaluation a step, `heun`
    of second order and two.
    """

    def slope(x: Tensor, t: Tensor) -> Tensor:
        return sde.drift(x, t) - sde.diffusion(t) ** 2 / 2 * sde.score(model, x, t)

    for now, after in pairwise(map(_moment, times)):
        first = slope(x, now)
        ahead = x + (after - now) * first
        x = ahead if method == "euler" else x + (after - now) / 2 * (first + slope(ahead, after))
    return x


def _moment(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


def _ancestral_factor(sde: SDE, start: Tensor, stop: Tensor) -> Tensor | float:
    base: SDE = getattr(sde, "base", sde)
    if isinstance(base, SubVPSDE):
        raise ValueError("ancestral sampling is published for VE and VP; take reverse_diffusion for sub-VP")
    return base.std(stop) / base.std(start) if isinstance(base, VESDE) else 1.0
