"""RED-diff for MRI (Ozturkler et al. 2023; Mardani et al. 2023): a variational image, found by Adam."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from kdrift.methods import Callback, ChainNoise, Measurement, Method, Options
from kdrift.methods.samplers.csgm_langevin import ncsnv2_sigma
from kdrift.sde import VESDE
from kdrift.sde.score import ScoreModel

BETAS = (0.9, 0.99)
"""Momenta of Adam (section 4 of the paper)."""
_LAST_LABEL = 2310


@dataclass(frozen=True)
class REDDiffOptions(Options):
    """Settings of RED-diff; the defaults are the paper's (section 4)."""

    num_steps: int = 1000
    """Steps of Adam, one network evaluation each, with t evenly spaced from high to low over those used."""
    num_levels: int = 1000
    """T of the DDPM schedule."""
    beta_min: float = 1e-4
    """beta at t = 1."""
    beta_max: float = 0.02
    """beta at t = T, reached linearly."""
    weight: float = 0.25
    """lambda: the regularisation's weight at t is lambda sigma_t / alpha_t."""
    learning_rate: float = 0.1
    """Learning rate of Adam, in units of the normalised image."""
    losses: Literal["sums", "means"] = "sums"
    """`sums` as the paper prints; `means` divides the data term by |y|^2 and the regularisation by its number of real
    pixels, as the released code does."""
    level: Literal["matched", "label"] = "matched"
    """How the prior is asked at x_t: `matched` at its own level, x_t / alpha_t at sigma_t / alpha_t, with t where the
    prior knows that level; `label` as the released code, x_t as it is at level 2312 - t of NCSNv2's table."""

    def __post_init__(self) -> None:
        if self.num_steps < 2 or self.num_levels < 2 or not 0 < self.beta_min < self.beta_max < 1:
            raise ValueError(f"expected num_steps and num_levels >= 2, 0 < beta_min < beta_max < 1, got {self}")
        if self.weight < 0 or self.learning_rate <= 0:
            raise ValueError(f"expected weight >= 0 and learning_rate > 0, got {self}")
        if self.losses not in ("sums", "means") or self.level not in ("matched", "label"):
            raise ValueError(f"expected losses 'sums' or 'means' and level 'matched' or 'label', got {self}")

    @property
    def evaluations(self) -> int:
        """Network evaluations of one chain: one a step."""
        return self.num_steps


@dataclass(frozen=True)
class DDPMLevel:
    """One t of the discrete VP schedule."""

    alpha: float
    """Factor of the signal."""
    sigma: float
    """Standard deviation of the noise, sqrt(1 - alpha^2)."""
    asked: float
    """Level that the prior is asked at."""

    @property
    def ratio(self) -> float:
        """sigma_t / alpha_t."""
        return self.sigma / self.alpha


def red_diff(
    score: ScoreModel, sde: VESDE, measurement: Measurement, *, rng: ChainNoise, options: REDDiffOptions,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """Algorithm 1: return mu, complex `(sample, [set,] row, col)`; chains differ by their noise e alone.

    From mu = A^H y, for t from high to low, Adam descends |A mu - y|^2 + lambda_t <sg[e_theta(x_t) - e], mu> with
    x_t = alpha_t mu + sigma_t e, whose gradient is 2 A^H (A mu - y) + lambda_t (e_theta - e): no network is
    differentiated. With the level matched, lambda_t (e_theta - e) = lambda (mu - D(mu + r e; r)), r = sigma_t / alpha_t
    and D the denoised image.
    `ddpm_levels` says what is clipped to the prior's range of levels.
    """
    operator, data = measurement.A, measurement.data
    rows, cols = data.shape[-2:]
    data_weight, prior_weight = 1.0, 1.0
    if options.losses == "means":
        data_weight = 1 / float(measurement.kspace.abs().square().sum())
        prior_weight = 1 / (2 * data.numel())
    mu = data.expand(*rng.shape, rows, cols).clone()
    adam = torch.optim.Adam([mu], lr=options.learning_rate, betas=BETAS)
    levels = ddpm_levels(options, sde)
    for done, level in enumerate(levels, 1):
        noise = rng(rows, cols)
        if options.level == "matched":
            predicted = -level.ratio * score(mu + level.ratio * noise, level.asked)
        else:
            predicted = -level.sigma * score(level.alpha * mu + level.sigma * noise, level.asked)
        fidelity = 2 * data_weight * (operator.normal(mu) - data)
        mu.grad = fidelity + prior_weight * options.weight * level.ratio * (predicted - noise)
        adam.step()
        if callback:
            callback(done, len(levels), mu.clone(), level.ratio)
    return mu


def ddpm_levels(options: REDDiffOptions, sde: VESDE) -> list[DDPMLevel]:
    """Return `num_steps` levels of the schedule alpha_t^2 = prod (1 - beta), from high to low; t may repeat.

    `matched`: t is taken where sigma_t / alpha_t lies in the prior's range, so that no score is asked outside of it;
    raises ValueError where there is no such t. `label`: t goes down to 2, and the label's sigma is clipped.
    """
    top = options.num_levels
    slope = (options.beta_max - options.beta_min) / (top - 1)
    alphas = accumulate((math.sqrt(1 - options.beta_min - i * slope) for i in range(top)), lambda a, b: a * b)
    schedule = [(t, alpha, math.sqrt(1 - alpha**2)) for t, alpha in enumerate(alphas, 1)]
    if options.level == "label":
        levels = []
        for t, alpha, sigma in schedule[1:]:
            asked = ncsnv2_sigma(max(_LAST_LABEL + 2 - t, 0))
            levels.append(DDPMLevel(alpha, sigma, min(max(asked, sde.sigma_min), sde.sigma_max)))
    else:
        known = [(a, s) for _, a, s in schedule if sde.sigma_min <= s / a <= sde.sigma_max]
        levels = [DDPMLevel(alpha, sigma, sigma / alpha) for alpha, sigma in known]
    if not levels:
        low, high = (sigma / alpha for _, alpha, sigma in (schedule[0], schedule[-1]))
        raise ValueError(
            f"expected levels in the prior's range {sde.sigma_min} to {sde.sigma_max}, the schedule has {low:.3g} to"
            f" {high:.3g}: change beta_min and beta_max"
        )
    spacing = (len(levels) - 1) / (options.num_steps - 1)
    return [levels[-1 - round(i * spacing)] for i in range(options.num_steps)]


METHODS = {
    "red_diff": Method(
        red_diff,
        {"paper": REDDiffOptions(), "released": REDDiffOptions(num_steps=999, losses="means", level="label")},
        "RED-diff: a variational image found by Adam; chains differ little, their spread is no posterior",
    ),
}  # fmt: skip
