"""Predictors, correctors and the probability-flow ODE of any SDE (Song et al. 2021, section 4, Appendices D to G).

With P the part of an image that diffuses (`SDE.project`), f and G the factors of one step (`SDE.discretize`) and s the
score of x_t, which `SDE.score` makes from a score model of images at their own scale. Times are tensors without axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from kdrift.methods.chain_noise import ChainNoise
from kdrift.methods.measurement import Callback
from kdrift.methods.samplers.predictor_corrector import Step, pc_loop
from kdrift.sde import SDE, VESDE, SubVPSDE
from kdrift.sde.score import ScoreModel

Predictor = Literal["euler_maruyama", "reverse_diffusion", "ancestral", "none"]
Corrector = Literal["langevin", "annealed_langevin", "none"]
TimeScore = Callable[[Tensor, Tensor], Tensor]
"""Called `(x, t)`; returns the score of x_t, of the shape of x."""
Guide = Callable[[Tensor, Tensor], Tensor]
"""Called `(x, s)`; returns the direction to follow in place of s, e.g. the posterior's score."""


def follow(x: Tensor, s: Tensor) -> Tensor:
    """Follow the prior's score: the guide without data."""
    return s


def predict(
    kind: Predictor,
    sde: SDE,
    score: TimeScore,
    x: Tensor,
    start: Tensor,
    stop: Tensor,
    noise: Tensor,
    *,
    silent: bool = False,
) -> Tensor:
    """One step of the reverse SDE from time `start` to the earlier `stop`.

    `euler_maruyama`: x - f P x + G^2 s + G P z with f = rate dt, G = diffusion sqrt(dt). `reverse_diffusion`: the same
    with the SDE's own discretisation (Eq. 46, HFS-SDE Eq. 13). `ancestral`: the mean of p(x_{i-1} | x_i, x_0) with
    Tweedie's x_0, (x + G^2 s) / (1 + f) on the diffusing part, and G z times sigma_{i-1} / sigma_i for VE (Eqs. 4 and
    47). `none`: x. Unit `noise` has the shape of x; `silent` leaves it out. Raises ValueError for `ancestral` with a
    sub-VP SDE, for which none is published.
    """
    if kind == "none":
        return x
    s = score(x, start)
    if kind == "ancestral":
        f, g = sde.discretize(start, stop)
        mean = x + (1 / (1 + f) - 1) * sde.project(x) + g**2 / (1 + f) * s
        g = g * _ancestral_factor(sde, start, stop)
    else:
        euler = kind == "euler_maruyama"
        f, g = SDE.discretize(sde, start, stop) if euler else sde.discretize(start, stop)
        mean = x - f * sde.project(x) + g**2 * s
    return mean if silent else mean + g * sde.project(noise)


def correct(
    kind: Corrector,
    sde: SDE,
    score: TimeScore,
    x: Tensor,
    t: Tensor,
    alpha: Tensor,
    noise: Tensor,
    *,
    snr: float,
    guide: Guide = follow,
    silent: bool = False,
) -> Tensor:
    """One Langevin step x + eps guide(x, s) + sqrt(2 eps) P z at time t (Algorithms 4 and 5).

    `langevin`: eps = 2 alpha (r |z| / |s|)^2, norms of each chain over the whole complex image; `annealed_langevin`:
    eps = 2 alpha (r std)^2; `none`: x. `alpha` is that of `step_alpha`, `snr` is r. `silent` leaves out the noise.
    """
    if kind == "none":
        return x
    s = score(x, t)
    if kind == "langevin":
        norm = chain_norm(s)
        size = torch.where(norm > 0, chain_norm(noise) / torch.where(norm > 0, norm, 1), 0)  # no score, no step
    else:
        size = sde.std(t)
    eps = 2 * alpha * (snr * size) ** 2
    mean = x + eps * guide(x, s)
    return mean if silent else mean + torch.sqrt(2 * eps) * sde.project(noise)


def step_alpha(sde: SDE, start: Tensor, stop: Tensor) -> Tensor:
    """alpha_i of the corrector's step size, (1 + f)^2: 1 for VE, 1 - beta_i for VP."""
    return (1 + sde.discretize(start, stop)[0]) ** 2


def chain_norm(x: Tensor) -> Tensor:
    """Norm of each image of `(*chains, row, col)`, `(*chains, 1, 1)`."""
    return torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)


def reverse_sde(
    model: ScoreModel,
    sde: SDE,
    steps: Sequence[Step],
    x: Tensor,
    *,
    rng: ChainNoise,
    predictor: Predictor = "reverse_diffusion",
    corrector: Corrector = "langevin",
    snr: float = 0.16,
    num_corrector_steps: int = 1,
    corrector_first: bool = False,
    final_mean: bool = False,
    guide: Guide = follow,
    corrector_guide: Guide = follow,
    predictor_projected: bool = True,
    callback: Callback | None = None,
) -> Tensor:
    """Predictor-corrector sampling of any SDE (Algorithm 1); without guides this samples the prior.

    Parameters
    ----------
    steps : in times; see `time_steps`.
    x : start `(*chains, row, col)` at the first step's time.
    guide, corrector_guide : direction in place of the score, in the predictor and in the corrector.
    predictor_projected : pass the predictor's score through P.
    final_mean : leave out the noise of the very last update.
    callback : told the noise level at the image's own scale that is left.
    """

    def moment(t: float) -> Tensor:
        return torch.tensor(t, dtype=torch.float64)

    def advance(x: Tensor, step: Step, noise: Tensor, silent: bool) -> Tensor:
        def score(x: Tensor, t: Tensor) -> Tensor:
            return guide(x, sde.score(model, x, t, projected=predictor_projected))

        return predict(predictor, sde, score, x, moment(step.start), moment(step.stop), noise, silent=silent)

    def improve(x: Tensor, step: Step, noise: Tensor, silent: bool) -> Tensor:
        def score(x: Tensor, t: Tensor) -> Tensor:
            return sde.score(model, x, t)

        alpha = step_alpha(sde, moment(step.start), moment(step.stop))
        at, follows = moment(step.corrector), corrector_guide
        return correct(corrector, sde, score, x, at, alpha, noise, snr=snr, guide=follows, silent=silent)

    def told(done: int, total: int, images: Tensor, t: float) -> None:
        if callback:
            callback(done, total, images, float(sde.sigma(moment(t))) if t > 0 else 0.0)

    return pc_loop(
        steps,
        x,
        rng=rng,
        predictor=advance,
        corrector=improve,
        num_corrector_steps=num_corrector_steps,
        corrector_first=corrector_first,
        final_mean=final_mean,
        callback=told,
    )


def time_steps(low: float, high: float, num_steps: int, *, released: bool = False) -> list[Step]:
    """Return `num_steps` equal steps in time, from `high` down.

    The paper's end at `low` and correct at the time arrived at. The released code's start at times from `high` to
    `low`, the last one going beyond `low`, and correct at the time they start from.
    """
    if released:
        spacing = (high - low) / (num_steps - 1)
        starts = [low + spacing * i for i in reversed(range(num_steps))]
        return [Step(t, t - spacing, t) for t in starts]
    times = [low + (high - low) * i / num_steps for i in reversed(range(num_steps + 1))]
    return [Step(start, stop, stop) for start, stop in pairwise(times)]


def probability_flow(
    model: ScoreModel,
    sde: SDE,
    x: Tensor,
    times: Sequence[float],
    *,
    method: Literal["euler", "heun"] = "heun",
    callback: Callback | None = None,
) -> Tensor:
    """Solve dx/dt = rate P x - g^2 s / 2 (Eq. 13) over `times`, from noise to image or back.

    `x` `(*chains, row, col)` is at the first time. `euler` is of first order and one network evaluation a step, `heun`
    of second order and two.
    """

    def slope(x: Tensor, t: Tensor) -> Tensor:
        return sde.drift(x, t) - sde.diffusion(t) ** 2 / 2 * sde.score(model, x, t)

    moments = [torch.tensor(t, dtype=torch.float64) for t in times]
    for done, (now, after) in enumerate(pairwise(moments)):
        first = slope(x, now)
        ahead = x + (after - now) * first
        x = ahead if method == "euler" else x + (after - now) / 2 * (first + slope(ahead, after))
        if callback:
            callback(done + 1, len(moments) - 1, x, float(sde.sigma(after)))
    return x


def _ancestral_factor(sde: SDE, start: Tensor, stop: Tensor) -> Tensor | float:
    base: SDE = getattr(sde, "base", sde)
    if isinstance(base, SubVPSDE):
        raise ValueError("ancestral sampling is published for VE and VP; take reverse_diffusion for sub-VP")
    return base.std(stop) / base.std(start) if isinstance(base, VESDE) else 1.0
