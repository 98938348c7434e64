"""Single arrays that come as files: sampling masks, coil maps, noise and its covariance."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from kdrift.data.formats.bart import read_bart_array
from kdrift.data.formats.hdf5 import dataset, keys, open_file
from kdrift.data.formats.mat_variables import matlab_variables
from kdrift.data.formats.numpy import map_npy

MOST_OF_A_MASK = 1 << 28
"""Values of a mask; a file that claims more is none."""
Array = npt.NDArray[Any]


def read_array_file(
    path: str, name: str, *, most: int | None = None, read_bart: Callable[[str], Array] = read_bart_array
) -> Array:
    """Return the array of a file as it is stored: .npy, .npz, .h5, .mat (in MATLAB's order of axes), or a BART pair.

    Parameters
    ----------
    name
        Of several arrays the one that is called so is read; a single one needs no name.
    most
        How many values it can have; a file that claims more is refused before it is read.
    read_bart
        Reads a BART pair by either of its names or their stem; default: slices first, no axes of length 1.

    Raises
    ------
    ValueError
        For a file that is not there, cannot be read or holds no such array.
    """
    file = Path(path).expanduser()
    if not file.is_file() and not file.with_suffix(".cfl").is_file():
        raise ValueError(f"there is no {name} file {path}")

    def chosen(names: Collection[str]) -> str:
        if name in names:
            return name
        if len(names) != 1:
            raise ValueError(f"it has {', '.join(names) or 'nothing'}, expected an array {name} or a single one")
        return next(iter(names))

    def check(*shape: int) -> None:
        if most is not None and math.prod(shape) > most:
            raise ValueError(f"its {math.prod(shape)} values are too many for a {name}")

    try:
        if file.suffix in (".cfl", ".hdr") or not file.is_file():
            return read_bart(str(file))
        if file.suffix == ".mat":
            with matlab_variables(str(file)) as variables:
                held = {each.name: each for each in variables if not each.unread or each.name == name}
                variable = held[chosen(held)]
                check(*variable.shape)
                return variable.read((slice(None),) * len(variable.shape))
        if h5py.is_hdf5(file):
            with contextlib.ExitStack() as resources:
                source = open_file(str(file), resources)
                node = dataset(source, chosen(keys(source)))
                assert node is not None
                check(*node.shape)
                return np.asarray(node[()])
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive, np.load(file, allow_pickle=False) as arrays:
                key = chosen(arrays.files)
                check(max(info.file_size for info in archive.infolist() if info.filename.removesuffix(".npy") == key))
                return np.asarray(arrays[key])
        with file.open("rb") as stream:
            if stream.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
                raise ValueError("it is no array file, expected .npy, .npz, .h5, .mat or a .cfl of BART")
        array = map_npy(str(file))
        check(*array.shape)
        return np.array(array)
    except Exception as error:  # parsers of foreign bytes raise nearly anything
        raise ValueError(f"{name} {path} cannot be read: {' '.join(str(error).split())}") from None
