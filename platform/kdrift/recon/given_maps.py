"""Coil maps and noise covariances that come as files."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdrift.data.formats.bart import read_bart_maps
from kdrift.data.formats.hdf5 import dataset, keys, open_file
from kdrift.data.store import StoredVolume
from kdrift.data.volume import Volume

STORED = "store"
"""What to ask for to get the maps that `kdrift convert --smaps` made."""


def read_maps(where: str, volume: Volume, start: int, stop: int) -> Tensor:
    """Return the coil maps of slices `start:stop`, complex64 `(slice, [set,] coil, row, col)`.

    Raises ValueError for a file that is none, holds no maps, or is of another number of slices.
    """
    if where == STORED:
        if not isinstance(volume, StoredVolume):
            raise ValueError(f"smaps store: {volume.path} is no volume of a store; name a file of coil maps")
        return torch.from_numpy(volume.read_smaps(start, stop)).to(torch.complex64)
    maps = _load(where)
    if maps.ndim == 3:
        maps = np.broadcast_to(maps, (volume.info.num_slices, *maps.shape))
    if maps.ndim not in (4, 5) or not np.iscomplexobj(maps):
        raise ValueError(
            f"{where}: expected complex coil maps (coil, row, col), (slice, coil, row, col) or (slice, set, coil, row,"
            f" col), got {maps.dtype} {maps.shape}"
        )
    if len(maps) != volume.info.num_slices:
        raise ValueError(f"{where} has maps of {len(maps)} slices, {volume.path} has {volume.info.num_slices} slices")
    return torch.from_numpy(np.array(maps[start:stop], dtype=np.complex64))


def read_noise_cov(path: str) -> npt.NDArray[np.complex128]:
    """Return a noise covariance `(coil, coil)`. Raises ValueError for a file that holds no square matrix."""
    matrix = _load(path)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{path}: expected a noise covariance (coil, coil), got shape {matrix.shape}")
    return matrix.astype(np.complex128)


def _load(path: str) -> npt.NDArray[np.generic]:
    file = Path(path).expanduser()
    if not file.is_file() and not file.with_suffix(".cfl").is_file():
        raise ValueError(f"there is no file {path}")
    try:
        if file.suffix in (".h5", ".hdf5"):
            with contextlib.ExitStack() as resources:
                opened = open_file(str(file), resources)
                if (stored := dataset(opened, "smaps")) is None:
                    raise ValueError(f"it has no dataset smaps, it has {', '.join(keys(opened)) or 'none'}")
                return np.asarray(stored)
        if file.suffix in (".cfl", ".hdr", ""):
            return read_bart_maps(str(file))
        with open(file, "rb") as stream:  # np.load leaves open what it opened of a damaged archive
            return np.asarray(np.load(stream, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
