"""Coil sensitivities (ESPIRiT), coil combination and coil compression, in plain PyTorch on any device."""

from __future__ import annotations

import math

import torch
from scipy.ndimage import binary_fill_holes
from torch import Tensor

from kdrift.mri.espirit_gram import NO_CENTRE, gram_matrices, kernel_autocorrelation, leading, waves
from kdrift.mri.fourier import ifft2c
from kdrift.mri.masks import Box, acs_region, detect_mask
from kdrift.mri.spikes import spikes

CALIBRATION_WIDTH = 24
"""Lines of calibration data an axis that ESPIRiT takes where the caller does not choose (sigpy's width)."""
LEAST_SIDE = 4
"""Fewest lines of a calibration box that is not in the middle of k-space."""
CHUNK_CPU, CHUNK_GPU = 2**21, 2**27
"""Elements of pixel matrices held at once: 16 MB on a CPU, enough to fill a GPU."""
COARSE = 4
"""Eigenvectors are computed directly in the middle of blocks of this side, to start the iteration from."""
NEARLY_LARGEST = 0.7
"""Components of an eigenvector of at least this part of the largest one can be the one that its phase is taken from."""
CLEARLY_MORE = 1.1
"""Calibration data are taken around the echo where that box holds so many times the energy of the middle one: in scans
whose echo is a sample or two off the middle both hold nearly all of it."""


def espirit_maps(
    kspace: Tensor,
    *,
    acs: Box | None = None,
    kernel_size: int = 6,
    threshold: float = 0.02,
    crop: float | tuple[float, ...] = 0.95,
    num_sets: int = 1,
    max_iter: int = 9,
    tol: float = 3e-4,
    device: torch.device | str | None = None,
) -> Tensor:
    """Coil sensitivity maps by ESPIRiT (Uecker et al. 2014, Eqs. 17 to 21), batched over slices.

    At every pixel the maps are the eigenvectors of the Gram matrix G(r) of the image-domain kernels that
    span the row space of the calibration matrix. G(r) is a trigonometric polynomial of the kernels'
    autocorrelation, so it is evaluated from (2 kernel_size - 1)^2 coil x coil coefficients instead of one
    zero-padded FFT a kernel. Eigenvectors are computed directly on a coarse grid and refined at every pixel
    by subspace iteration.

    Raises ValueError for no coil axis, more sets than coils, an ACS that is empty or outside k-space, or values not
    finite.

    Parameters
    ----------
    kspace
        (*batch, coil, row, col), may be undersampled; only `acs` is read.
    acs
        Fully sampled box (row slice, col slice); None: the one around the echo, see `calibration_box`.
    kernel_size
        Kernel width in k-space samples; at most 2/5 of the ACS, along each axis: a wider kernel sees too few
        positions there, and crops the object.
    threshold
        Singular values of the calibration matrix below this fraction of the largest count as null space.
    crop
        Maps are zero where the eigenvalue is not above this; one for all sets, or one each.
    num_sets
        Map sets; a second set takes up signal that aliases over the field of view.
    max_iter, tol
        Subspace iteration goes on until |G v - v (v^H G v)| <= tol; what has not converged after `max_iter`
        products is solved directly.

    Returns
    -------
    Tensor
        (*batch, coil, row, col), with num_sets > 1 (*batch, set, coil, row, col): sum_c |S_c|^2 = 1 in the
        support, 0 outside, sets orthogonal; the phase is that of the principal combination of coils in the
        ACS, whose own phase is fixed by `canonical_phase`, so that maps do not depend on device or library.
    """
    if kspace.ndim < 3 or not kspace.is_complex():
        raise ValueError(
            f"kspace needs to be complex (*batch, coil, row, col), not {kspace.dtype} {tuple(kspace.shape)}"
        )
    coils, rows, cols = kspace.shape[-3:]
    if not 1 <= num_sets <= coils:
        raise ValueError(f"num_sets must lie between 1 and the {coils} coils, got {num_sets}")
    crops = (crop,) * num_sets if isinstance(crop, (int, float)) else crop
    if len(crops) != num_sets:
        raise ValueError(f"crop must be one number, or one for each of the {num_sets} sets, got {crop}")
    if kernel_size < 1:
        raise ValueError(f"kernel_size must be at least 1, got {kernel_size}")
    box = calibration_box(detect_mask(kspace), kspace=kspace) if acs is None else acs
    calibration = kspace[..., box[0], box[1]]
    if calibration.numel() == 0:
        raise ValueError(NO_CENTRE)
    if not bool(torch.isfinite(calibration).all()):
        raise ValueError("the ACS of kspace holds NaN or infinite values")
    calibration = calibration.reshape(-1, *calibration.shape[-3:])
    target = kspace.device if device is None else torch.device(device)
    chunk = max(1, (CHUNK_GPU if target.type == "cuda" else CHUNK_CPU) // (cols * coils**2))
    out = torch.empty((len(calibration), rows, cols, num_sets, coils), dtype=kspace.dtype, device=target)
    least = torch.tensor(crops, dtype=kspace.real.dtype, device=target)
    for maps, piece in zip(out, calibration.to(target), strict=True):
        lags, reference = kernel_autocorrelation(piece, kernel_size, threshold), _principal(piece)
        along = [waves(torch.arange(n), n, lags.shape[axis], lags) for axis, n in enumerate((rows, cols))]
        coarse = [wave[(torch.arange(0, len(wave), COARSE) + COARSE // 2).clamp(max=len(wave) - 1)] for wave in along]
        starts = torch.linalg.eigh(gram_matrices(lags, coarse[0], coarse[1]))[1][..., -num_sets:].flip(-1)
        nearest = [torch.arange(n, device=target) // COARSE for n in (rows, cols)]
        for top in range(0, rows, chunk):
            part = slice(top, top + chunk)
            gram = gram_matrices(lags, along[0][part], along[1]).flatten(0, 1)
            start = starts[nearest[0][part]][:, nearest[1]].flatten(0, 1)
            vectors, values = leading(gram, start, least, max_iter, tol)
            phase = torch.sgn((vectors * reference.conj()[:, None]).sum(-2).conj())
            found = (vectors * (phase * (values > least))[:, None, :]).mT
            maps[part] = found.reshape(-1, cols, num_sets, coils)
    out = out.permute(0, 3, 4, 1, 2).contiguous().reshape(*kspace.shape[:-3], num_sets, coils, rows, cols)
    return out.squeeze(-4) if num_sets == 1 else out


def low_resolution_maps(kspace: Tensor) -> Tensor | None:
    """Coil maps from images of low resolution (Pruessmann et al. 1999): the coils' share of their root sum of squares.

    They follow coils that the kernels of ESPIRiT cannot, and are wrong wherever the image changes within a pixel of
    that resolution. K-space is (coil, row, col) and may be undersampled; of its calibration box (`calibration_box`) as
    many lines along either axis as along the narrow one, and as many again, are taken with Hann's window. None where
    the box has fewer than `LEAST_SIDE` lines.
    """
    box = calibration_box(detect_mask(kspace), kspace=kspace)
    narrow = min(side.stop - side.start for side in box)
    if narrow < LEAST_SIDE:
        return None
    low = kspace
    for axis, side in zip((-2, -1), box, strict=True):
        count, middle = min(side.stop - side.start, 2 * narrow), kspace.shape[axis] // 2
        inside = side.start <= middle < side.stop  # else the echo is off the middle
        centre = middle if inside else (side.start + side.stop) // 2
        first = min(max(side.start, centre - count // 2), side.stop - count)
        window = torch.zeros(kspace.shape[axis], device=kspace.device)
        window[first : first + count] = torch.hann_window(count + 2, periodic=False, device=kspace.device)[1:-1]
        low = low * (window[:, None] if axis == -2 else window)
    return normalise_maps(ifft2c(low))


def combine(coil_images: Tensor, smaps: Tensor) -> Tensor:
    """Matched combination sum_c conj(S_c) x_c (Roemer et al. 1990) of (*batch, coil, row, col).

    `smaps` broadcasts; with sum_c |S_c|^2 = 1 this is the least-squares image. Raises ValueError for other
    coils.
    """
    if coil_images.shape[-3:] != smaps.shape[-3:]:
        raise ValueError(
            f"smaps have axes (coil, row, col) = {tuple(smaps.shape[-3:])}, "
            f"coil images have {tuple(coil_images.shape[-3:])}"
        )
    return (smaps.conj() * coil_images).sum(-3)


def rss(coil_images: Tensor) -> Tensor:
    """Root sum of squares over coils, (*batch, coil, row, col) to a real (*batch, row, col)."""
    norm: Tensor = torch.linalg.vector_norm(coil_images, dim=-3)
    return norm


def normalise_maps(smaps: Tensor) -> Tensor:
    """Maps (*batch, coil, row, col) scaled to sum_c |S_c|^2 = 1 where any coil has signal, 0 elsewhere."""
    norm = rss(smaps)[..., None, :, :]
    return torch.where(norm > 0, smaps / norm.clamp(min=torch.finfo(norm.dtype).tiny), 0)


def coil_compression(kspace: Tensor, num_coils: int, *, acs: Box | None = None) -> tuple[Tensor, Tensor]:
    """The `num_coils` principal virtual coils of the ACS (Buehrer et al. 2007; SVD over all of the batch together).

    kspace is (*batch, coil, row, col), prewhitened where the coils' noise is correlated; acs is a fully sampled box
    (row slice, col slice), None: see `calibration_box`. Returns k-space (*batch, num_coils, row, col) and the matrix
    (num_coils, coil) that made it, whose rows are orthonormal, so that white noise stays white with the same sigma,
    and have the phase of `canonical_phase`.
    Raises ValueError for more virtual coils than coils, or an empty ACS.
    """
    coils = kspace.shape[-3]
    if not 1 <= num_coils <= coils:
        raise ValueError(f"num_coils must lie between 1 and the {coils} coils of kspace, got {num_coils}")
    box = calibration_box(detect_mask(kspace), kspace=kspace) if acs is None else acs
    samples = kspace[..., box[0], box[1]].movedim(-3, 0).reshape(coils, -1).to(torch.complex128)
    if samples.shape[1] == 0:
        raise ValueError("no fully sampled centre to compress coils from: sample ACS lines, or give `acs`")
    basis = canonical_phase(torch.linalg.eigh(samples @ samples.mH)[1].flip(-1)[:, :num_coils])
    matrix = basis.mH.to(kspace.dtype)
    return torch.einsum("vc,...cyx->...vyx", matrix, kspace), matrix


def canonical_phase(vectors: Tensor) -> Tensor:
    """Turn eigenvectors (*batch, coil, vector), whose phase is arbitrary, so that one component is real and positive.

    It is the first of those that are nearly the largest: the largest alone would change places with its equals, which
    symmetric coils have, by rounding.
    """
    size = vectors.abs()
    numbers = torch.arange(vectors.shape[-2], device=vectors.device)[:, None].expand(size.shape)
    nearly = size >= NEARLY_LARGEST * size.amax(-2, keepdim=True)
    first = torch.where(nearly, numbers, vectors.shape[-2]).amin(-2, keepdim=True)
    return vectors * torch.sgn(vectors.gather(-2, first).conj())


def calibration_box(mask: Tensor, width: int = CALIBRATION_WIDTH, *, kspace: Tensor | None = None) -> Box:
    """Fully sampled box of `mask` (row, col) of about `width`^2 samples, as (row slice, col slice).

    `width` lines an axis where there are as many; an axis with fewer is made up for by the other one. The box lies
    around the middle of k-space; with `kspace` (*batch, coil, row, col), around the echo where that box holds clearly
    more of the energy and has `LEAST_SIDE` lines an axis at least: one line that was measured is no calibration.
    """
    middle = _box_around(mask, width, (mask.shape[0] // 2, mask.shape[1] // 2))
    if kspace is None:
        return middle
    largest = kspace.abs().amax().clamp(min=torch.finfo(kspace.real.dtype).tiny)
    energy = (kspace / largest).abs().square().reshape(-1, *mask.shape).sum(0) * mask
    energy = torch.where(torch.from_numpy(spikes(energy.cpu().numpy())).to(energy.device), 0, energy)
    smooth = torch.nn.functional.avg_pool2d(energy[None, None], 3, 1, 1)[0, 0]
    row, col = divmod(int(smooth.argmax()), mask.shape[1])
    around = _box_around(mask, width, (row, col))
    wide = min(side.stop - side.start for side in around) >= min(LEAST_SIDE, *mask.shape)
    return around if wide and float(energy[around].sum()) > CLEARLY_MORE * float(energy[middle].sum()) else middle


def _box_around(mask: Tensor, width: int, centre: tuple[int, int]) -> Box:
    region = acs_region(_near(mask, (width, width), centre), centre)
    size = [s.stop - s.start for s in region]
    if min(size) in (0, width):
        return region
    longer = math.ceil(width**2 / min(size))
    limits = (width, longer) if size[0] < size[1] else (longer, width)
    return acs_region(_near(mask, limits, centre), centre)


def _near(mask: Tensor, limits: tuple[int, int], centre: tuple[int, int]) -> Tensor:
    """`mask` within `limits` around `centre`, False elsewhere."""
    kept = torch.zeros_like(mask, dtype=torch.bool)
    rows, cols = (
        slice(max(0, c - limit // 2), c - limit // 2 + limit) for c, limit in zip(centre, limits, strict=True)
    )
    kept[rows, cols] = mask[rows, cols] != 0
    return kept


def map_holes(smaps: Tensor) -> int:
    """Pixels where all coil maps `([set,] coil, row, col)` are zero though pixels where they are not surround them."""
    inside = (smaps != 0).flatten(0, -3).any(0).cpu().numpy()
    return int((binary_fill_holes(inside) & ~inside).sum())


def _principal(calibration: Tensor) -> Tensor:
    """The principal coil combination `(coil,)` of calibration data (coil, row, col)."""
    gram = torch.einsum("cyx,dyx->cd", calibration, calibration.conj())
    return canonical_phase(torch.linalg.eigh(gram)[1][:, -1:])[:, 0]
