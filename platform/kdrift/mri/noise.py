"""Receiver noise: covariance from a noise scan, and its level, coil by coil, from undersampled data alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdrift.mri.coils import calibration_box
from kdrift.mri.kernels import window_gram
from kdrift.mri.masks import detect_mask, expand_mask

RAYLEIGH_MEDIAN = math.sqrt(2 * math.log(2))
"""Median of |n| in units of sigma for a complex n with N(0, sigma^2) in each component (Rayleigh distribution)."""
BLOCK = 256
"""Samples in a block whose median is taken."""
FEW = 48
"""Outermost samples of a point mask that are looked at: its density falls, so that a larger block reaches inwards,
where the object is. Of real scans at 4x (gaussian2d) that brings the estimate from 3.4, 5 and 9 times to 2, 2.4 and 5
times the level that full data have, and it scatters by a tenth in one coil."""
NULL_KERNEL = 8
"""Rows and columns of the windows whose null space is looked at; on boxes narrower than twice that, half of the box."""
LOW = -1.0
"""Quantile over blocks, in standard deviations below the median."""
PROCESSED = 0.3
"""A readout edge quieter than this fraction of the k-space periphery, in all coils, was masked or filtered."""
SCATTER = 2.0
"""Coils whose levels differ by less than this factor count as equally noisy. On real scans of equal receivers the
estimates differ by up to 1.7 (4 coils, 4 to 15 times undersampled: 1.16 to 1.67), for what of the object reaches the
periphery; weights by such estimates would only add their scatter, and equal weights cost little there."""
HERMITIAN = 1e-3
"""A covariance counts as Hermitian within this part of its largest value."""
OWN = 0.5
"""A coil's periphery is noise where the other coils explain less than this part of its energy. Of 240 simulated scans
with one noisy coil at least 0.48 was its own, mostly 0.97 and more; of signal in the periphery at most 0.41."""


def noise_covariance(noise: Tensor) -> Tensor:
    """Covariance of each real component between coils, n n^H / (2 N), from noise (coil, *samples).

    Returns a Hermitian (coil, coil) matrix whose diagonal is sigma^2 of each coil. Raises ValueError where
    there are fewer samples than coils, since the covariance would be singular.
    """
    samples = noise.reshape(len(noise), -1)
    if samples.shape[1] < len(samples):
        raise ValueError(f"noise has {samples.shape[1]} samples for {len(samples)} coils: give at least as many")
    return samples @ samples.mH / (2 * samples.shape[1])


def check_noise_cov(noise_cov: Tensor, coils: int, source: str) -> Tensor:
    """Return a covariance of the noise of so many coils, complex128 (coil, coil), if it is one.

    A coil whose own noise, on the diagonal, is zero or not finite measured nothing and is left out later. Raises
    ValueError, which names the `source`, for another shape, coils that are all so, values between coils that are not
    finite, and what is not Hermitian or not positive definite.
    """
    if noise_cov.shape != (coils, coils):
        raise ValueError(
            f"{source}: expected a noise covariance ({coils}, {coils}), got shape {tuple(noise_cov.shape)}: give one"
            " row and one column for each coil as measured"
        )
    cov = noise_cov.to(torch.complex128)
    level = cov.diagonal().real
    if bool((level < 0).any()):
        raise ValueError(
            f"{source}: the diagonal of a noise covariance holds variances, that of coil {int(level.argmin())} is"
            f" {float(level.min()):.3g}: compute it as n n^H / (2 N) from N noise samples"
        )
    kept = torch.isfinite(level) & (level > 0)
    if not bool(kept.any()):
        raise ValueError(f"{source}: the noise of every coil is zero or not finite: give a covariance of noise samples")
    live = cov[kept][:, kept]
    if not bool(torch.isfinite(torch.view_as_real(live)).all()):
        bad = int((~torch.isfinite(torch.view_as_real(live))).any(-1).sum())
        raise ValueError(
            f"{source}: a noise covariance is finite and Hermitian, {bad} values of this one between coils are NaN or"
            " infinite: leave out the noise samples that are not finite"
        )
    odd = float((live - live.mH).abs().max() / live.abs().max())
    if odd > HERMITIAN:
        raise ValueError(
            f"{source}: a noise covariance is finite and Hermitian, this one differs from its conjugate transpose by"
            f" {odd:.1%} of its largest value: compute it as n n^H / (2 N), with the complex conjugate"
        )
    if int(torch.linalg.cholesky_ex(live / level[kept].median()).info):
        least = float(torch.linalg.eigvalsh(live / level[kept].median()).min())
        raise ValueError(
            f"{source}: the noise covariance is not positive definite, its least eigenvalue is {least:.2g} times the"
            " variance of the median coil: take it from more noise samples than coils, each coil connected once"
        )
    return cov


def noise_factor(noise_cov: Tensor) -> Tensor:
    """Lower triangular L of noise_cov = L L^H, complex128 (coil, coil): L^-1 k is white (Pruessmann et al. 2001).

    Raises ValueError for a matrix that is not positive definite.
    """
    found = torch.linalg.cholesky_ex(noise_cov.to(torch.complex128))
    if int(found.info) != 0:
        raise ValueError("noise_cov is not positive definite: take it from more noise samples, all coils connected")
    factor: Tensor = found.L
    return factor


def estimate_noise_sigma(kspace: Tensor, mask: Tensor | None = None) -> float:
    """Noise level of undersampled k-space without a noise scan: median over coils of `coil_noise_sigma`."""
    return float(coil_noise_sigma(kspace, mask).median())


def differing_noise(kspace: Tensor, mask: Tensor | None = None) -> Tensor | None:
    """Noise level of each coil, (coil,), where coils surely differ; None: they count as equally noisy.

    The estimate is an upper bound, so a level far above the lowest is believed only where the coil's periphery is noise
    of its own; else it is the median of all coils. See `SCATTER` and `OWN` for what counts as equal and as noise,
    `coil_noise_sigma` for axes and errors.
    """
    sigma = coil_noise_sigma(kspace, mask)
    if not float(sigma.max()) > SCATTER * float(sigma.min()) > 0:
        return None
    kept, outer = _periphery(kspace, mask)
    around = torch.cat([kspace.roll(shift, -2) for shift in (0, 1, -1)], -3)
    samples = around.reshape(-1, *around.shape[-3:])[..., kept][..., outer].movedim(1, 0).flatten(1)
    own = _own_part(samples.to(torch.complex128), kspace.shape[-3]).to(sigma)
    far_above = sigma > SCATTER * sigma.min()
    sigma = torch.where(far_above & (own < OWN), torch.minimum(sigma, sigma.median()), sigma)
    return sigma if float(sigma.max()) > SCATTER * float(sigma.min()) else None


def _own_part(samples: Tensor, coils: int) -> Tensor:
    """Part of each coil's energy, (coil,), that no combination of the other coils explains.

    `samples` (3 coil, sample) are the coils, and the same at the next readout positions: smooth sensitivities make of
    signal in one coil a short convolution of that in others. 0 where there are too few samples to tell.
    """
    count, gram = samples.shape[1], samples @ samples.mH
    number = torch.arange(len(gram), device=gram.device) % coils
    own = gram.new_zeros(coils).real
    for coil in range(coils):
        others = number != coil
        freedom = count - int(others.sum())
        if 2 * freedom > count:
            cross = gram[others, coil]
            left = gram[coil, coil] - cross.conj() @ torch.linalg.pinv(gram[others][:, others], hermitian=True) @ cross
            own[coil] = left.real / gram[coil, coil].real * count / freedom
    return own


def coil_noise_sigma(kspace: Tensor, mask: Tensor | None = None) -> Tensor:
    """Standard deviation of each real component of the noise, (coil,), from undersampled k-space, in its units.

    kspace is (*batch, coil, row, col), zero where not sampled, rows the readout; mask is (col,) or (row, col), None:
    what is not exactly zero.

    Median magnitude over blocks of the outermost sampled k-space, divided by sqrt(2 ln 2) (Rayleigh); a low
    quantile over blocks, corrected for its bias on pure noise, so that signal in some blocks does not
    count. Of point masks the `FEW` outermost samples are one block. Where whole readout lines were sampled, the same on
    the outer readout positions of the outer lines, which the object seldom reaches: the lower of the two. Of that and
    what the null space of the calibration data shows (`_null_space_level`) the lower. Signal that fills all of the
    sampled periphery, of an object that fills the field of view, is taken for noise: the estimate is an upper bound.

    Raises ValueError where nothing is sampled, or there is no coil axis.
    """
    kept, outer = _periphery(kspace, mask)
    rows, cols = kept.shape
    data = kspace.reshape(-1, *kspace.shape[-3:])
    lines = kept.any(0)
    filled = kept[:, lines].sum() / max(1, rows * int(lines.sum()))
    by_rows = bool((kept == kept[:, :1]).all())
    if filled < 0.99 and not by_rows:
        outer = outer[:FEW]
    sigma = _low_level(data[..., kept][..., outer])
    if filled > 0.99 and rows >= 16:
        far = _offset(cols, kept.device)[lines].argsort(descending=True, stable=True)[: max(1, int(lines.sum()) // 2)]
        hybrid = torch.fft.ifft(data[..., lines][..., far], dim=-2, norm="ortho")
        # Without the centring shift the far readout positions are the middle ones.
        edge = max(1, rows // 16)
        quiet = _low_level(hybrid[..., rows // 2 - edge : rows // 2 + edge, :].flatten(-2))
        # a filter silences the edges of all coils; a coil that alone is quiet there has signal in its periphery
        if bool((quiet > PROCESSED * sigma).any()):
            sigma = torch.minimum(quiet, sigma)
    return torch.minimum(sigma, _null_space_level(data, kept).to(sigma))


def _null_space_level(data: Tensor, kept: Tensor) -> Tensor:
    """Return an upper bound of sigma, (coil,), from the calibration data of slices (slice, coil, row, col).

    Windows of the k-space of an object that is smaller than the field of view span less than all directions (Shin et
    al. 2014, SAKE, section Theory), so that the least singular value of the matrix of windows is that of noise alone:
    sigma sqrt(2) (sqrt(m) - sqrt(n)) of m windows of n samples (Marchenko and Pastur 1967). On pure noise this is 1.00
    to 1.2 times sigma in the mean, and at least 0.84 times. Infinite where there are no more windows than samples.
    """
    levels = []
    for coils in data:
        box = calibration_box(kept, kspace=coils)
        found = coils[:, *box]
        rows, cols = (min(NULL_KERNEL, size // 2) for size in found.shape[1:])
        count, size = (found.shape[1] - rows + 1) * (found.shape[2] - cols + 1), rows * cols
        if size == 0 or count <= size:
            return torch.full(data.shape[1:2], torch.inf, device=data.device)
        grams = torch.stack([window_gram(coil[None], (rows, cols)) for coil in found])
        least = torch.linalg.eigvalsh(grams)[:, 0].clamp(min=0).sqrt()
        levels.append(least / (math.sqrt(2) * (math.sqrt(count) - math.sqrt(size))))
    return torch.stack(levels).median(0).values


def _periphery(kspace: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return what was sampled, (row, col), and which of those points, in their order, are the outermost."""
    if kspace.ndim < 3:
        raise ValueError(f"kspace needs axes (*batch, coil, row, col), got shape {tuple(kspace.shape)}")
    rows, cols = kspace.shape[-2:]
    kept = detect_mask(kspace)
    if mask is not None:
        kept = kept & expand_mask(mask, (rows, cols)).to(kept.device)
    if not bool(kept.any()):
        raise ValueError("kspace has no sampled points to estimate its noise from")
    radius = torch.hypot(_offset(rows, kept.device)[:, None], _offset(cols, kept.device)[None, :])[kept]
    # the outermost twentieth, yet at least two blocks where there are as many
    return kept, radius.argsort(descending=True, stable=True)[: max(len(radius) // 20, 2 * BLOCK)]


def _offset(length: int, device: torch.device) -> Tensor:
    """Distance from the centre along an axis, 1 at its edge."""
    return (torch.arange(length, device=device) - length // 2).abs() / max(1, length // 2)


def _low_level(samples: Tensor) -> Tensor:
    """Sigma (coil,) of samples (slice, coil, sample) that neighbour each other in order."""
    size = min(BLOCK, samples.shape[-1])
    blocks = samples[..., : samples.shape[-1] // size * size]
    blocks = blocks.reshape(*blocks.shape[:-1], -1, size)
    levels = blocks.abs().median(-1).values.movedim(1, 0).flatten(1)
    num_blocks = levels.shape[1]
    # The median of `size` Rayleigh magnitudes scatters by 0.72 / sqrt(size) of itself.
    quantile = 0.5 * (1 + math.erf(LOW / math.sqrt(2)))
    bias = 1 + LOW * 0.72 / math.sqrt(size) if num_blocks > 2 else 1.0
    return torch.quantile(levels, quantile if num_blocks > 2 else 0.5, dim=1) / (RAYLEIGH_MEDIAN * bias)
