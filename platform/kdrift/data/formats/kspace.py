"""What readers of plain k-space arrays share: a volume over an array, and 3-D k-space as slices."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from kdrift.data.centring import ifft_centred
from kdrift.data.formats.arrange import Arranged, arrange_mask
from kdrift.data.measured import BoolArray, mask_from_pattern
from kdrift.data.volume import Attr, BadVolume, Loader, Volume, VolumeInfo


def kspace_volume(
    path: str,
    name: str,
    slices: Arranged,
    source_format: str,
    *,
    load_mask: Callable[[], npt.NDArray[Any]] | None = None,
    load_image: Loader | None = None,
) -> Volume:
    """Return a volume over an array; `load_mask` gives the mask that the file states, with axes in its order."""
    num_slices, coils, rows, cols = slices.shape
    info = VolumeInfo(
        name, "kspace", num_slices, coils, rows, cols, rows, cols, has_mask=load_mask is not None,
        has_reference=load_image is not None, attrs={"source_format": source_format},
    )  # fmt: skip
    stated = (
        None
        if load_mask is None
        else lambda: arrange_mask(load_mask(), slices.names, slices.shape, centred=slices.centred)
    )
    return Volume(path, info, lambda start, stop: slices[start:stop], load_image, stated)


def slab_volume(
    path: str,
    name: str,
    sampled: BoolArray,
    read_slab: Callable[[int], npt.NDArray[Any]],
    *,
    num_slabs: int,
    num_coils: int,
    recon: tuple[int, int, int],
    attrs: dict[str, Attr],
) -> Volume:
    """Return a volume of k-space whose second phase encoding becomes slices, by an inverse FFT.

    `sampled` is its pattern `(partition, row, col)`, of one partition where it is 2-D. `read_slab` returns slab `i` as
    `(partition, coil, row, col)`, `recon` has rows, columns and slices of its image. Raises BadVolume as
    `check_partitions`.
    """
    partitions, rows, cols = sampled.shape
    mask = mask_from_pattern(check_partitions(path, sampled))
    depth = min(recon[2], partitions)
    info = VolumeInfo(
        name, "kspace", num_slabs * depth, num_coils, rows, cols, min(recon[0], rows), min(recon[1], cols),
        has_mask=mask is not None, attrs=attrs,
    )  # fmt: skip
    return Volume(path, info, slab_loader(read_slab, partitions, depth), load_mask=lambda: mask)


def slab_loader(read_slab: Callable[[int], npt.NDArray[Any]], partitions: int, depth: int) -> Loader:
    """Return a loader of slices from slabs `(partition, coil, row, col)`: their second phase encoding is transformed
    and its middle `depth` slices are kept. A slab of one partition is one slice.
    """
    first = partitions // 2 - depth // 2

    @functools.lru_cache(maxsize=1)  # neighbouring slices come from the same transform
    def slices_of(slab: int) -> npt.NDArray[Any]:
        kspace = read_slab(slab)
        return kspace if partitions == 1 else ifft_centred(kspace, axes=(0,))[first : first + depth]

    def load(start: int, stop: int) -> npt.NDArray[Any]:
        return np.stack([slices_of(index // depth)[index % depth] for index in range(start, stop)])

    return load


def check_partitions(path: str, sampled: BoolArray) -> BoolArray:
    """Return the pattern `(row, col)` that all slices share, from that of `(partition, row, col)`.

    Slices are independent only when every partition is sampled alike. Partitions missing at the ends (partial Fourier)
    and corners outside of the inscribed ellipse (elliptical scanning) stay zero: that is zero-filling.

    Raises BadVolume when partitions in between are missing or sampled differently.
    """
    acquired = np.flatnonzero(sampled.any(axis=(1, 2)))
    if len(acquired) == 0:
        raise BadVolume(path, "no sampled position")
    union = np.asarray(sampled.any(axis=0))
    inside = sampled[acquired[0] : acquired[-1] + 1]
    num_partitions, _, cols = sampled.shape
    z = (np.arange(acquired[0], acquired[-1] + 1) - num_partitions // 2) / (num_partitions / 2)
    y = (np.arange(cols) - cols // 2) / (cols / 2)
    ellipse = (z[:, None, None] ** 2 + y**2) < 0.98
    if ((union & ~inside) & ellipse).any():
        raise BadVolume(
            path,
            "3-D k-space is undersampled along its second phase encoding: expected every partition sampled"
            " alike, or the slices cannot be separated",
        )
    return union
