"""What readers of plain k-space arrays share: finding the sampling mask, and 3-D k-space as slices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from kdrift.data.volume import Attr, BadVolume, BoolArray, Loader, Volume, VolumeInfo, ifft_centred

_MEASURED_ZEROS = 0.02  # integer data holds a few measured exact zeros: fewer than this are no mask
_SAME_PATTERN = 0.9


def sampled_positions(kspace: npt.NDArray[Any]) -> BoolArray:
    """Return where `(slice, coil, row, col)` is not exactly zero in every coil, `(slice, row, col)`."""
    with np.errstate(invalid="ignore"):  # NaN counts as sampled, and is refused when it is read
        return np.asarray((kspace != 0).any(axis=-3))


def mask_from_pattern(sampled: BoolArray) -> BoolArray | None:
    """Return the mask of a pattern `(row, col)`: `(col,)` where all rows agree, None where it is full.

    A few scattered zeros are measured values, not missing samples, unless a whole row or column of them is.
    """
    whole_lines = sampled.any(axis=0).all() and sampled.any(axis=1).all()
    if whole_lines and 1 - sampled.mean() < _MEASURED_ZEROS:
        return None
    return np.asarray(sampled[0] if (sampled == sampled[0]).all() else sampled)


def is_undersampled(volume_slices: Iterable[npt.NDArray[Any]]) -> bool:
    """Return whether some slices `(coil, row, col)` together leave positions unsampled."""
    union = np.logical_or.reduce([sampled_positions(kspace) for kspace in volume_slices])
    return bool(union.any()) and mask_from_pattern(union) is not None


def find_mask(path: str, num_slices: int, read: Callable[[int], npt.NDArray[Any]]) -> BoolArray:
    """Return the mask common to all slices, reading one slice `(coil, row, col)` at a time.

    Raises BadVolume when slices are sampled at different positions: one volume has one mask.
    """
    counts: list[int] = []
    union: Any = False
    for index in range(num_slices):
        sampled = sampled_positions(read(index))
        counts.append(int(sampled.sum()))
        union |= sampled
    for index, count in enumerate(counts):
        if 0 < count < _SAME_PATTERN * union.sum():
            raise BadVolume(path, f"slice {index} is sampled at other positions than the rest, expected one mask")
    mask = mask_from_pattern(union)
    return mask if mask is not None else np.ones(union.shape[-1], dtype=bool)


def kspace_volume(
    path: str,
    name: str,
    slices: Any,
    source_format: str,
    *,
    probes: Iterable[int] | None = None,
    load_mask: Callable[[], npt.NDArray[Any]] | None = None,
    load_image: Loader | None = None,
) -> Volume:
    """Return a volume over an array `(slice, coil, row, col)`, or what has its `shape` and is sliced like one.

    Where it comes without a mask, exact zeros give one; the slices `probes` (default: first, middle, last) tell at
    once whether there are any.
    """
    num_slices, coils, rows, cols = slices.shape
    probes = {0, num_slices // 2, num_slices - 1} if probes is None else probes

    def read(index: int) -> npt.NDArray[Any]:
        return np.asarray(slices[index : index + 1][0])

    if load_mask is None and is_undersampled(read(index) for index in sorted(probes)):
        load_mask = functools.partial(find_mask, path, num_slices, read)
    info = VolumeInfo(
        name, "kspace", num_slices, coils, rows, cols, rows, cols, has_mask=load_mask is not None,
        has_reference=load_image is not None, attrs={"source_format": source_format},
    )  # fmt: skip
    return Volume(path, info, lambda start, stop: slices[start:stop], load_image, load_mask)


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
