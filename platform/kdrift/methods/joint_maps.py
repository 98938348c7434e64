"""Coil maps estimated together with the image, from all of the measured k-space and a prior."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from kdrift.methods.chain_noise import ChainNoise
from kdrift.methods.measurement import Measurement
from kdrift.methods.samplers.annealed import AnnealedOptions, anneal
from kdrift.mri.map_fit import WIDTH, fit_maps
from kdrift.sde import VESDE
from kdrift.sde.score import ScoreModel

# Found on patient 09 (simulated; steep, birdcage and measured coils, 4x to 8x): the error of the maps does not depend
# on it much, and chains that add noise (eta, spread) end with worse maps.
OPTIONS = AnnealedOptions(
    num_steps=20, sigma_max=0.3, rho=8.0, prior_sigma=0.2, spread=0.0, eta=0.0, noise_scale=0.7,
)  # fmt: skip
ROUGH_ROUNDS, ROUGH_WIDTH = 2, 14.0
"""Chains, one after the other, and width of the corrections (`kdrift.mri.map_fit.WIDTH`) from maps that are rough.
Found on slices of patient 09 seen through four steep coils; they cost up to 3 dB where the first maps are nearly right.
"""


def joint_maps(
    score: ScoreModel, sde: VESDE, measurement: Measurement, *, rng: ChainNoise, rough: bool = False
) -> Tensor:
    """Return coil maps `([set,] coil, row, col)` that start from those of the measurement.

    One chain of `annealed` without added noise goes from rough to fine, 20 network evaluations; after each step the
    maps are fitted to the data with its image (`kdrift.mri.map_fit.fit_maps`), and the next step uses them. `rng` draws
    the noise that the one chain starts from. `rough`: the maps of the measurement are far from right; a second chain
    then starts from those of the first, and corrections may be less smooth.
    """
    width = ROUGH_WIDTH if rough else WIDTH

    def refit(images: Tensor, current: Measurement) -> Measurement:
        return replace(current, smaps=fit_maps(current.smaps, images[0], current.kspace, current.mask, width=width))

    for _ in range(ROUGH_ROUNDS if rough else 1):
        measurement = anneal(score, sde, measurement, rng=rng, options=OPTIONS, refit=refit)[1]
    return measurement.smaps
