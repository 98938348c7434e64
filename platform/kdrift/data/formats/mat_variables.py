"""The variables of MATLAB files: arrays of numbers in v5 and v7.3 (HDF5) alike, and what else there is by name."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from kdrift.data.formats.hdf5 import Hdf5, dataset, hard_links, open_file
from kdrift.data.formats.mat_v5 import MatArray, from_columns, list_arrays
from kdrift.data.volume import MAX_SLICE_BYTES, BadVolume, naming

_SMALL, _MOST_COMPRESSED = 64 << 20, 24  # zeros compress 1000 times, k-space that is undersampled 24 times by as much
_OTHERS = {"cell": "a cell", "char": "text", "string": "text", "function_handle": "a function", "struct": "a structure"}
"""What a v7.3 variable is that is no array of numbers, by its `MATLAB_class`."""
Index = tuple[Any, ...]


@dataclass(frozen=True)
class Variable:
    """An array of numbers in a MATLAB file, its axes in MATLAB's order, or what else is there by name."""

    name: str
    shape: tuple[int, ...]
    is_complex: bool
    read: Callable[[Index], npt.NDArray[Any]]
    """Read a part: a slice or a number an axis."""
    unread: str = ""
    """What it is where it is no array of numbers, which `read` refuses."""


@contextlib.contextmanager
def matlab_variables(path: str) -> Iterator[list[Variable]]:
    """Open the variables of a file of either version, to be read while it is open."""
    with contextlib.ExitStack() as resources:
        with naming(path, "not a readable MATLAB file"):
            found = variables_v73(open_file(path, resources)) if h5py.is_hdf5(path) else variables_v5(path)
        yield found


def variables_of(path: str) -> list[Variable]:
    """Return the variables of a small file (masks), its arrays read whole."""
    with naming(path, "not a readable MATLAB file"), matlab_variables(path) as found:
        return [each if each.unread else _in_memory(each) for each in found]


def _in_memory(array: Variable) -> Variable:
    values = array.read((slice(None),) * len(array.shape))
    return Variable(array.name, array.shape, np.iscomplexobj(values), values.__getitem__)


def _not_read(name: str, what: str) -> Variable:
    def refuse(index: Index) -> npt.NDArray[Any]:
        raise ValueError(f"{name} is {what}, expected an array of numbers, full or sparse")

    return Variable(name, (), False, refuse, what)


def variables_v5(path: str) -> list[Variable]:
    """Return the variables of a v5 file. Raises BadVolume for an array that is far larger than its file can hold."""
    found = []
    for array in list_arrays(path):
        if array.unread:
            found.append(_not_read(array.name, array.unread))
            continue
        most = min(max(_SMALL, _MOST_COMPRESSED * os.path.getsize(path)), MAX_SLICE_BYTES)
        if array.num_bytes > most:
            raise BadVolume(path, f"{array.name} declares {array.num_bytes >> 20} MiB, far more than the file can hold")
        if array.num_bytes:
            found.append(_lazy_v5(array))
    return found


def _lazy_v5(array: MatArray) -> Variable:
    values = functools.cache(array.read)  # a file compresses each array as a whole
    return Variable(array.name, array.shape, array.dtype.kind == "c", lambda index: values()[index])


def variables_v73(source: Hdf5) -> list[Variable]:
    """Return the variables of a v7.3 file."""
    found = []
    for key in hard_links(source.file):
        if key.startswith("#"):  # where cells and objects keep what they hold
            continue
        kind = source.file.get(key, getclass=True)
        what = _OTHERS.get(_class_of(source.file[key]), "a structure" if kind is h5py.Group else "")
        if kind is h5py.Group:
            found.append(_sparse_v73(source, key) or _not_read(key, what))
            continue
        if what:
            found.append(_not_read(key, what))
        if what or kind is not h5py.Dataset:
            continue
        node = dataset(source, key)
        assert node is not None
        is_complex = _is_parts(node.dtype) or node.dtype.kind == "c"
        if node.shape and (is_complex or node.dtype.kind in "biuf"):
            found.append(_lazy_v73(key, node, is_complex))
        elif node.dtype.kind not in "biuf":
            found.append(_not_read(key, f"of type {node.dtype}"))
    return found


def _class_of(node: Any) -> str:
    """Return the `MATLAB_class` of an object, empty where that is no plain text."""
    if "MATLAB_class" not in node.attrs or h5py.check_vlen_dtype(node.attrs.get_id("MATLAB_class").dtype) is not None:
        return ""
    stated = node.attrs["MATLAB_class"]
    return stated.decode(errors="replace") if isinstance(stated, bytes) else ""


def _sparse_v73(source: Hdf5, key: str) -> Variable | None:
    """Return a sparse matrix: `data` of its columns in turn, `ir` their rows, `jc` where columns begin.

    None for a group that is none, or holds nothing: MATLAB leaves `data` out where all is zero. Its attribute
    `MATLAB_sparse` says how many rows there are; without it, they end with the last value.
    """
    stated = source.file[key].attrs.get("MATLAB_sparse")
    parts = hard_links(source.file[key])
    if "jc" not in parts or set(parts) - {"data", "ir", "jc"}:
        return None
    rows, begins, values = (dataset(source, f"{key}/{part}") for part in ("ir", "jc", "data"))
    if begins is None or rows is None or values is None:
        return None
    places = np.asarray(rows[()]).ravel()
    shape = (int(places.max(initial=-1)) + 1 if stated is None else int(stated), begins.size - 1)
    if 8 * shape[0] * shape[1] > max(_SMALL, _MOST_COMPRESSED * source.size()):
        raise BadVolume(source.path, f"{key} is a sparse matrix of {shape}, far more than the file can hold")

    def read(index: Index) -> npt.NDArray[Any]:
        return from_columns(shape, places, np.asarray(begins[()]).ravel(), _joined(values[()]).ravel())[index]

    return Variable(key, shape, _is_parts(values.dtype), read)


def _is_parts(dtype: np.dtype[Any]) -> bool:
    """Return whether values are records of two numbers, as MATLAB stores complex ones."""
    return dtype.names == ("real", "imag") and all(dtype[name].kind in "iuf" for name in dtype.names)


def _joined(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values if values.dtype.names is None else np.asarray(values["real"] + 1j * values["imag"])


def _lazy_v73(name: str, node: h5py.Dataset, is_complex: bool) -> Variable:
    def read(index: Index) -> npt.NDArray[Any]:
        return _joined(node[index[::-1]]).transpose()

    return Variable(name, node.shape[::-1], is_complex, read)
