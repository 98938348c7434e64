"""AK-Diffusion (Cui et al. 2024, Algorithm 1): the centre of k-space grows outwards while noise falls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from kdrift.methods import COUPLED_COILS, Callback, ChainNoise, Measurement, Method, Options, chain_norm, ratio
from kdrift.mri.cg import conjugate_gradients
from kdrift.mri.coils import normalise_maps
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.mri.low_rank import LowRankOperator, low_rank_operator
from kdrift.sde import AttenuatedSDE
from kdrift.sde.score import ScoreModel, denoise


@dataclass(frozen=True)
class AKDiffusionOptions(Options):
    """Settings of Algorithm 1; those that the paper gives (N, M, sigma_N) are its own."""

    num_steps: int = 50
    """N, predictor steps."""
    num_corrector_steps: int = 1
    """M, Langevin steps after each predictor step."""
    sigma_last: float | None = None
    """sigma_N, the noise level at the start, with the same attenuation; at most the prior's largest, which is what None
    takes. The paper compares 0.25, 0.5 and 1."""
    snr: float = 0.16
    """r of the corrector's step size, which the paper leaves open."""
    coil_noise: Literal["maps", "zero_filled", "low_rank", "none"] = "maps"
    """SS* from the coil maps (ESPIRiT), from the zero-filled coil images over their root sum of squares, from the
    low-rank operator (section VI.B), or the identity (section V.A)."""
    slr_weight: float = 1.0
    """Weight of |H(z) N|_F^2; 0 leaves it out (section V.A). Filters are scaled so that the operator has norm 1."""
    kernel_size: int = 5
    """Side of the annihilation filters in k-space samples."""
    null_threshold: float = 0.05
    """Singular values of the ACS's Hankel matrix below this fraction of the largest are null space."""
    lam: float = 0.05
    """lambda: how much the network's z_0' counts against the data in z_0''; the paper leaves it open."""
    cg_iterations: int = 10
    """Most conjugate-gradient steps of a solve."""
    correct_score: bool = False
    """Take the corrected z_0'' for the network's z_0' in the score of the reverse step too. Algorithm 1 corrects the
    step's drift alone, through which data enter only where the attenuation changes."""
    probability_flow: bool = False
    """Follow the ODE that has the same marginals: half of the score, as much as shrinks the noise from sigma_{i+1} to
    sigma_i, and no fresh noise."""
    keep_measured: bool = False
    """End with the measured k-space in the place of the reconstructed, wherever something was measured."""

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.num_corrector_steps < 0 or self.snr <= 0:
            raise ValueError(f"expected num_steps >= 1, num_corrector_steps >= 0 and snr > 0, got {self}")
        if self.lam <= 0 or self.slr_weight < 0 or self.cg_iterations < 1 or self.kernel_size < 1:
            raise ValueError(f"expected lam > 0, slr_weight >= 0, cg_iterations and kernel_size >= 1, got {self}")
        if not 0 < self.null_threshold < 1 or (self.sigma_last is not None and self.sigma_last <= 0):
            raise ValueError(f"expected null_threshold in (0, 1) and sigma_last > 0, got {self}")

    @property
    def evaluations(self) -> int:
        """Network evaluations of one chain: one a predictor step and one a corrector step."""
        return self.num_steps * (1 + self.num_corrector_steps)


ATTRACTION_STEPS = 8
"""Gradient steps that make SS* of the low-rank operator: an eigenvalue q of its normal becomes (1 - q)^8."""

Projection = Callable[[Tensor], Tensor]


def ak_diffusion(
    score: ScoreModel, sde: AttenuatedSDE, measurement: Measurement, *, rng: ChainNoise, options: AKDiffusionOptions,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """Draw coil images `(sample, coil, row, col)`, to be combined by RSS.

    z_N = G_N y + sigma_N SS* n; then for i = N - 1 .. 0 with h = z_0' and z_0'' (`correct`)
    z_i = z_{i+1} - (G_{i+1} - G_i) z_0'' + (1 - sigma_i^2 / sigma_{i+1}^2) SS* (G_{i+1} h - z_{i+1}) + noise, where
    dividing by SS* in the score (Eq. 10) and multiplying by it is one projection. The schedule ends at G_0 < 1 (0.88 at
    the edges of k-space), by which samples are divided. Levels run from sigma_N to the prior's smallest.
    """
    sde = replace(sde, sigma_max=min(options.sigma_last or sde.sigma_max, sde.sigma_max))
    rows, cols = measurement.kspace.shape[-2:]
    kspace, real = measurement.kspace, measurement.kspace.real
    low_rank = None
    if options.slr_weight > 0 or options.coil_noise == "low_rank":
        low_rank = low_rank_operator(
            kspace, measurement.mask, kernel_size=options.kernel_size, threshold=options.null_threshold
        )
    sde, project = _coil_noise(sde, measurement, options.coil_noise, low_rank)
    slr = low_rank if options.slr_weight > 0 else None
    times = torch.linspace(0, 1, options.num_steps + 1, dtype=torch.float64).to(real)
    sigmas = sde.sigma(times).tolist()
    windows = [sde.attenuation(t, rows, cols) for t in times]

    def restore(z: Tensor, i: int) -> Tensor:
        """h: z_0 as the network sees it in z_i, every coil image by itself."""
        return fft2c(denoise(score, ifft2c(z), sigmas[i]))

    z = windows[-1] * kspace + sigmas[-1] * project(rng(rows, cols))
    for i in reversed(range(options.num_steps)):
        restored = restore(z, i + 1)
        corrected = correct(restored, measurement, slr, options)
        seen = corrected if options.correct_score else restored
        falls = sigmas[i] / sigmas[i + 1]
        share = 1 - (falls if options.probability_flow else falls**2)
        z = z - (windows[i + 1] - windows[i]) * corrected + share * project(windows[i + 1] * seen - z)
        if not options.probability_flow:
            z = z + share**0.5 * sigmas[i + 1] * project(rng(rows, cols))
        for _ in range(options.num_corrector_steps):
            gradient = project(windows[i] * restore(z, i) - z) / sigmas[i] ** 2
            noise = project(rng(rows, cols))
            # the paper prints |n| of the noise before SS*; r is open, and so both norms are of what is added, of all
            # coils of a sample: a step does not grow with their number
            eta = 2 * ratio(options.snr * chain_norm(noise, 3), chain_norm(gradient, 3)) ** 2
            z = z + eta * gradient + torch.sqrt(2 * eta) * noise
        if callback:
            callback(options.num_steps - i, options.num_steps, ifft2c(corrected), sigmas[i])
    z = z / windows[0]
    return ifft2c(torch.where(measurement.mask, kspace, z) if options.keep_measured else z)


def correct(
    restored: Tensor, measurement: Measurement, low_rank: LowRankOperator | None, options: AKDiffusionOptions
) -> Tensor:
    """z_0'' = argmin 1/2 |M z - y|^2 + w |H(z) N|_F^2 + lambda |z - z_0'|^2 (Algorithm 1, line 6).

    `restored` is z_0', k-space `(*batch, coil, row, col)`. The normal equation is
    (M + 2 w N + 2 lambda) z = y + 2 lambda z_0', N the normal of `low_rank`; without that it has a closed form.
    """
    mask, lam = measurement.mask, 2 * options.lam
    right = measurement.kspace + lam * restored
    if low_rank is None:
        return right / (mask.to(right.real.dtype) + lam)

    def normal(z: Tensor) -> Tensor:
        return torch.where(mask, z, 0) + 2 * options.slr_weight * low_rank.normal(z)

    weight = right.real.new_full((), lam)
    return conjugate_gradients(normal, right, weight, num_axes=3, x0=restored, max_iter=options.cg_iterations, tol=1e-4)


def _coil_noise(
    sde: AttenuatedSDE, measurement: Measurement, kind: str, low_rank: LowRankOperator | None
) -> tuple[AttenuatedSDE, Projection]:
    """Return the SDE with its maps, and SS*."""
    if kind == "low_rank" and low_rank is not None:
        return sde, lambda z: low_rank.attract(z, ATTRACTION_STEPS)
    if kind == "zero_filled":
        sde = replace(sde, smaps=normalise_maps(ifft2c(measurement.kspace)))
    elif kind == "maps":
        sde = replace(sde, smaps=measurement.smaps)
    return sde, sde.project


# Found on a simulated slice of patient 09 with brain-ak-small, the prior before brain-ak, which needs the data in every
# step.
_TUNED = AKDiffusionOptions(num_corrector_steps=0, sigma_last=0.25, lam=0.01, correct_score=True, keep_measured=True)
METHODS = {
    "ak_diffusion": Method(
        ak_diffusion, {"tuned": _TUNED, "paper": AKDiffusionOptions()},
        "AK-Diffusion Algorithm 1: k-space grows from its centre, with a structured low-rank correction",
        COUPLED_COILS, needs="attenuated", max_map_sets=1,
    ),
}  # fmt: skip
