"""The coils that methods see: those that measured something, as linear combinations with equal, uncorrelated noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdrift.mri.coils import normalise_maps, rss
from kdrift.mri.noise import noise_factor

NOTHING = 1e-6
"""A coil whose largest sample is below this part of the largest of all coils holds rounding and nothing measured."""

PARALLEL = 1e-3
"""A second set of maps that points where the first does, but for so much of it, counts as nothing."""


@dataclass(frozen=True)
class CoilSpace:
    """Linear combinations of the coils as measured, and the way back."""

    into: Tensor
    """Complex `(coil, coil as measured)`."""
    back: Tensor
    """Complex `(coil as measured, coil)`, zero for coils that were left out; `into @ back` is the identity."""

    def apply(self, data: Tensor) -> Tensor:
        """Return k-space, images or maps `(*batch, coil as measured, row, col)` of these coils."""
        return mix(self.into, data)

    def then(self, matrix: Tensor) -> CoilSpace:
        """Compress further by a matrix of orthonormal rows `(fewer coils, coil)`."""
        matrix = matrix.to(self.into)
        return CoilSpace(matrix @ self.into, self.back @ matrix.mH)


def mix(matrix: Tensor, data: Tensor) -> Tensor:
    """Combine the coils of `(*batch, coil, row, col)` by a matrix `(new coil, coil)`."""
    return torch.einsum("vc,...cyx->...vyx", matrix.to(data.device, data.dtype), data)


def coil_space(live: Tensor, noise_cov: Tensor | None = None) -> CoilSpace:
    """Leave out coils and whiten the others, without a change of their common noise level.

    k becomes L^-1 k with noise_cov = s^2 L L^H, s^2 the median of its diagonal: coils of equal noise stay as they are.

    Parameters
    ----------
    live
        Boolean `(coil,)`: which coils take part.
    noise_cov
        Covariance of the noise of all coils, of which that of the live ones is used, in any unit; None: they are
        equally noisy. Raises ValueError where it is of other coils, or not positive definite.
    """
    chosen = torch.eye(len(live), dtype=torch.complex128, device=live.device)[live]
    if noise_cov is None:
        return CoilSpace(chosen, chosen.mH)
    if noise_cov.shape != (len(live), len(live)):
        raise ValueError(f"noise_cov has shape {tuple(noise_cov.shape)}, kspace has {len(live)} coils")
    cov = noise_cov.to(live.device, torch.complex128)[live][:, live]
    factor = noise_factor(cov / cov.diagonal().real.median())
    return CoilSpace(torch.linalg.solve_triangular(factor, chosen, upper=False), chosen.mH @ factor)


def live_coils(kspace: Tensor, noise_cov: Tensor | None = None) -> tuple[Tensor, list[str]]:
    """Return which coils of `(coil, row, col)` measured something, boolean `(coil,)`, and a sentence on the others.

    A coil is left out where its k-space is zero (see `NOTHING`), or its noise in `noise_cov` (coil, coil) is zero or
    not finite.
    """
    largest = kspace.abs().flatten(1).amax(1)
    silent = ~(largest > NOTHING * largest.max())
    notes = [f"{_named(silent)} measured nothing: left out"] if bool(silent.any()) else []
    if noise_cov is None or noise_cov.shape[0] != len(kspace):
        return ~silent, notes
    level = noise_cov.diagonal().real.to(kspace.device, torch.float64)
    odd = ~silent & ~(torch.isfinite(level) & (level > 0))
    if bool(odd.any()):
        notes.append(f"{_named(odd)} has noise that is zero or not finite in the noise scan: left out")
    return ~(silent | odd), notes


def maps_of(space: CoilSpace, smaps: Tensor) -> Tensor:
    """Maps `([set,] coil, row, col)` of these coils from those as measured: normalised, sets orthogonal."""
    maps = normalise_maps(space.apply(smaps))
    if maps.ndim == 3:
        return maps
    sets: list[Tensor] = []
    for each in maps:
        for other in sets:
            each = each - other * (other.conj() * each).sum(-3, keepdim=True)
        sets.append(normalise_maps(torch.where(rss(each)[..., None, :, :] > PARALLEL, each, 0)))
    return torch.stack(sets)


def _named(which: Tensor) -> str:
    numbers = [str(number) for number in which.nonzero().flatten().tolist()]
    return f"coil {numbers[0]}" if len(numbers) == 1 else f"each of the coils {', '.join(numbers)}"
