"""PnP-DM (Wu et al. 2024, Algorithm 1): split Gibbs sampling (Vono et al. 2019) with a diffusion prior.

An image x of the prior and an image z of the data are coupled by |x - z|^2 / (2 rho^2) and drawn in turns, each given
the other: z from a Gaussian, x by the reverse diffusion from z as an image with noise rho. The likelihood is nowhere
approximated, so that this is a reference for samplers that are faster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from kdrift.methods import LEAST_NOISE, Callback, ChainNoise, Measurement, Method, Options
from kdrift.methods.samplers.data_step import draw
from kdrift.sde import VESDE, spaced_levels
from kdrift.sde.score import ScoreModel, denoise


@dataclass(frozen=True)
class PnPDMOptions(Options):
    """Settings of PnP-DM; rho and sigma in units of the normalised image."""

    num_steps: int = 60
    """N, sweeps: a data step and a prior step each."""
    num_prior_steps: int = 10
    """Network evaluations of a prior step: ancestral steps from rho to an image, levels as in EDM with rho 7."""
    rho_max: float = 1.0
    """Coupling of the first sweep (at most the prior's largest noise level)."""
    rho_min: float = 0.014
    """Coupling of the last sweeps (at least the prior's smallest noise level). The samples are those of data with noise
    of covariance s^2 + rho_min^2 A A^H."""
    annealing: float = 0.5
    """Share of the sweeps in which rho falls, geometrically; in the others it stays at rho_min."""
    sigma_min: float = 0.01
    """Last level at which a prior step asks the prior (at least the prior's smallest)."""
    prior_sigma: float | None = 0.2
    """tau: what remains uncertain after denoising at sigma has variance r^2, 1/r^2 = 1/sigma^2 + 1/tau^2, and is drawn
    at each level of a prior step. The more levels, the less it matters. None: r is sigma."""
    noise_scale: float = 1.0
    """Factor on the estimated noise level of the data, for what coil maps leave unexplained."""
    cg_iterations: int = 20
    """Most conjugate-gradient steps of a data step; each starts from the solution before it."""

    def __post_init__(self) -> None:
        if self.num_steps < 2 or self.num_prior_steps < 1 or self.cg_iterations < 1:
            raise ValueError(f"expected num_steps >= 2, num_prior_steps and cg_iterations >= 1, got {self}")
        if not 0 < self.sigma_min <= self.rho_min <= self.rho_max:
            raise ValueError(f"expected 0 < sigma_min <= rho_min <= rho_max, got {self}")
        if not 0 <= self.annealing <= 1:
            raise ValueError(f"expected annealing in [0, 1], got {self.annealing}")
        if (self.prior_sigma is not None and self.prior_sigma <= 0) or self.noise_scale <= 0:
            raise ValueError(f"expected prior_sigma and noise_scale > 0, got {self}")

    @property
    def evaluations(self) -> int:
        """Network evaluations of one chain: those of the prior step of each sweep."""
        return self.num_steps * self.num_prior_steps

    def couplings(self, sde: VESDE) -> list[float]:
        """Return rho of each of the N sweeps, within the levels of the prior."""
        low, high = (min(max(rho, sde.sigma_min), sde.sigma_max) for rho in (self.rho_min, self.rho_max))
        falling = self.annealing * (self.num_steps - 1)
        return [high * (low / high) ** min(k / falling if falling else 1, 1) for k in range(self.num_steps)]


def pnp_dm(
    score: ScoreModel, sde: VESDE, measurement: Measurement, *, rng: ChainNoise, options: PnPDMOptions,
    callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """Draw x of p(x) exp(-|x - z|^2 / (2 rho^2) - |y - A z|^2 / (2 s^2)), complex `(sample, [set,] row, col)`.

    With s the noise level of the data, in each sweep: z ~ N((A^H A + g)^-1 (A^H y + g x), s^2 (A^H A + g)^-1),
    g = (s / rho)^2; x by ancestral steps from z at sigma = rho, with D = E[x_0 | x] and r^2 = 1 / (1/sigma^2 + 1/tau^2)
    x <- D + q (x - D) + sqrt(q (sigma^2 - sigma'^2) + (1 - q)^2 r^2) n, q = (sigma' / sigma)^2, the last sigma' 0.
    The first x is A^H y.
    """
    s = max(measurement.noise_sigma * options.noise_scale, LEAST_NOISE)
    couplings = options.couplings(sde)
    low = min(max(options.sigma_min, sde.sigma_min), couplings[-1])
    x = measurement.data.expand(*rng.shape, *measurement.mask.shape)
    z = x
    for done, rho in enumerate(couplings, 1):
        z = draw(measurement, x, rho, s, rng=rng, x0=z, max_iter=options.cg_iterations)
        x = _prior_step(score, z, [*spaced_levels(rho, low, options.num_prior_steps, 7.0), 0.0], options, rng)
        if callback:
            callback(done, len(couplings), x, rho)
    return x


def _prior_step(score: ScoreModel, x: Tensor, levels: list[float], options: PnPDMOptions, rng: ChainNoise) -> Tensor:
    """Draw the image under `x`, which has noise of the first level: exact for white Gaussian images of deviation tau,
    and for all images as the levels come close."""
    tau = options.prior_sigma or math.inf
    for sigma, after in pairwise(levels):
        kept = (after / sigma) ** 2
        variance = kept * (sigma**2 - after**2) + (1 - kept) ** 2 / (sigma**-2 + tau**-2)
        denoised = denoise(score, x, sigma)
        x = denoised + kept * (x - denoised) + math.sqrt(max(variance, 0.0)) * rng(*x.shape[-2:])
    return x


# The published commands for linear problems on photographs in [-1, 1]: rho = 10 * 0.9^k, at least 0.3. Their prior
# steps take those of 100 levels that are below rho, 67 at first and 30 at last.
_RELEASED = PnPDMOptions(
    num_steps=100, num_prior_steps=30, rho_max=10.0, rho_min=0.3, annealing=0.336, sigma_min=0.002, prior_sigma=None,
)  # fmt: skip

METHODS = {
    "pnp_dm": Method(
        # not searched: on a phantom, twice the sweeps or steps change nothing
        pnp_dm, {"tuned": PnPDMOptions(), "released": _RELEASED},
        "PnP-DM: images of the prior and of the data drawn in turns; a slow reference for p(x | y)",
    ),
}  # fmt: skip
