"""What readers of plain k-space arrays share: a volume over an array, and 3-D k-space as slices."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from kdrift.data.centring import ifft_centred
from kdrift.data.formats.arrange import Arranged, arrange_mask
from kdrift.data.measured import BoolArray
from kdrift.data.volume import BadVolume, Loader, Volume, VolumeInfo


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
        has_reference=load_image is not None, attrs={"source_format": source_format}, notes=slices.notes,
    )  # fmt: skip
    stated = (
        None
        if load_mask is None
        else lambda: arrange_mask(load_mask(), slices.names, slices.shape, centred=slices.centre is None)
    )
    return Volume(path, info, lambda start, stop: slices[start:stop], load_image, stated)


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


def check_partitions(path: str, sampled: BoolArray, ends_told: bool = False) -> tuple[BoolArray, list[str]]:
    """Return the pattern `(row, col)` that all slices share, from that of `(partition, row, col)`, and notes on what
    was not measured of it; `ends_told` says that partitions that are missing are known already.

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
    lacking = ((union & ~inside) & ellipse).any(axis=(1, 2))
    if lacking.any():
        first = int(acquired[0] + np.argmax(lacking))
        raise BadVolume(
            path,
            "3-D k-space is undersampled along its second phase encoding, or the scan was cut short: expected every"
            f" partition sampled alike, or the slices cannot be separated; {lacking.sum()} partitions, of"
            f" {num_partitions} first {first}, lack positions that others have",
        )
    notes = []
    if (missing := num_partitions - len(acquired)) and not ends_told:
        notes.append(
            f"{missing} of {num_partitions} partitions, at the ends of the second phase encoding, were not measured and"
            " are zero: partial Fourier, padding, or a scan cut short; slices are blurred across"
        )
    lines: BoolArray = np.asarray(inside.any(axis=1))
    if corners := int((lines.any(axis=0) & ~lines).sum()):
        notes.append(
            f"{corners} of {lines.any(axis=0).sum() * len(lines)} lines of the partitions that were measured lie in the"
            " corners of both phase encodings, were not measured and are zero, though the mask does not show it"
        )
    return union, notes
