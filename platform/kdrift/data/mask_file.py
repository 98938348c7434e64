"""Sampling masks that come as files."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from kdrift.data.formats.bart import read_bart_array
from kdrift.data.formats.hdf5 import dataset, keys, open_file
from kdrift.data.formats.mat_v5 import list_arrays

LARGEST = 1 << 28
"""Values of a mask; a file that claims more is none."""


def read_mask_file(path: str) -> npt.NDArray[Any]:
    """Return the array of a mask file as it is stored: .npy, .npz, .h5 or .mat with `mask`, or a BART .cfl.

    A file of several arrays has one called `mask`, or a single one. Raises ValueError for a file that cannot be read or
    holds no mask.
    """
    file = Path(path).expanduser()
    if not file.is_file() and not file.with_suffix(".cfl").is_file():
        raise ValueError(f"there is no mask file {path}")
    try:
        if file.suffix in (".cfl", ".hdr") or not file.is_file():
            return read_bart_array(str(file))
        if h5py.is_hdf5(file):
            return _of_hdf5(file)
        if zipfile.is_zipfile(file):
            return _of_npz(file)
        if file.suffix == ".mat":
            return _of_matlab(file)
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        return np.array(_small(array, array.shape))
    except Exception as error:  # parsers of foreign bytes raise nearly anything
        raise ValueError(f"mask {path} cannot be read: {' '.join(str(error).split())}") from None


def _of_hdf5(file: Path) -> npt.NDArray[Any]:
    with contextlib.ExitStack() as resources:
        source = open_file(str(file), resources)
        node = dataset(source, _chosen(keys(source)))
        assert node is not None
        values = np.asarray(_small(node, node.shape)[()])
    return values.T if file.suffix == ".mat" else values  # MATLAB's axes are the other way round


def _of_npz(file: Path) -> npt.NDArray[Any]:
    with zipfile.ZipFile(file) as archive, np.load(file, allow_pickle=False) as arrays:
        name = _chosen(arrays.files)
        size = max(info.file_size for info in archive.infolist() if info.filename.removesuffix(".npy") == name)
        return np.asarray(_small(arrays, (size,))[name])


def _of_matlab(file: Path) -> npt.NDArray[Any]:
    with file.open("rb") as stream:
        is_v4 = 0 in stream.read(4)  # numbers, where v5 has a text
    if is_v4:
        return _of_matlab_v4(file)
    arrays = {array.name: array for array in list_arrays(str(file))}
    array = arrays[_chosen(arrays)]
    return np.asarray(_small(array, array.shape).read())


def _of_matlab_v4(file: Path) -> npt.NDArray[Any]:
    import scipy.io

    listed = {name: shape for name, shape, _ in scipy.io.whosmat(file)}
    name = _chosen(listed)
    return np.asarray(_small(scipy.io.loadmat(file, variable_names=[name]), listed[name])[name])


def _chosen(names: Collection[str]) -> str:
    if "mask" in names:
        return "mask"
    if len(names) != 1:
        raise ValueError(f"it has {', '.join(names) or 'nothing'}, expected an array mask or a single one")
    return next(iter(names))


def _small(holder: Any, shape: tuple[int, ...]) -> Any:
    """Return what holds an array of `shape`, still unread; raise ValueError where that is too large for a mask."""
    if math.prod(shape) > LARGEST:
        raise ValueError(f"its {math.prod(shape)} values are too many for a mask")
    return holder
