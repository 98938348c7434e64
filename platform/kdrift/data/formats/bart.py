"""BART .cfl/.hdr pairs: complex64 in column-major order, dimensions named by position."""

from __future__ import annotations

import itertools
import math
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from kdrift.data.formats.kspace import kspace_volume, sampled_positions, slab_volume
from kdrift.data.paths import halves
from kdrift.data.volume import AS_THE_FILE_SAYS, BadVolume, ReadOptions, Volume, check_declared, check_dims, naming
from kdrift.runs.files import whole_file

_DIMENSIONS = (
    "read", "phase 1", "phase 2", "coil", "maps", "TE", "coeff", "coeff 2", "iteration", "cshift", "time",
    "time 2", "level", "slice", "average", "batch",
)  # fmt: skip
_SLICE, _MAX_HEADER_BYTES = 13, 1 << 20


def open_bart(path: str, name: str, how: ReadOptions = AS_THE_FILE_SAYS) -> Volume:
    """Open a BART pair as k-space; `path` is either file or their common stem.

    BART does not say what an array means, so it is assumed: dimension 0 is the readout (rows), 1 the phase encoding
    (columns), 3 the coil, 13 the slice. Dimension 2 larger than 1 is the second phase encoding of 3-D k-space, which an
    inverse FFT makes slices; then every partition has to be sampled alike. Where dimension 0 is 1 and dimensions 1 and
    2 are not (an already transformed readout), those two are rows and columns. All other dimensions must be 1. Exact
    zeros in all coils are unsampled positions.

    Raises BadVolume when one of the two files is missing, malformed, truncated, or has other dimensions.
    """
    data, dims = _read_dims(path)
    for index, size in enumerate(dims):
        if size != 1 and index not in (0, 1, 2, 3, _SLICE):
            raise BadVolume(path, f"BART dimension {index} ({_DIMENSIONS[index]}) is {size}, expected 1")
    read, phase, partitions, coils, num_slices = (dims[index] for index in (0, 1, 2, 3, _SLICE))
    if read == 1 and phase > 1 and partitions > 1:
        read, phase, partitions = phase, partitions, 1
    check_dims(path, slices=num_slices * partitions, coils=coils, rows=read, columns=phase)
    check_declared(path, 8 * math.prod(dims), os.path.getsize(data))
    with naming(path, "BART data cannot be mapped"):
        stored = np.memmap(data, np.complex64, "r", shape=(num_slices, coils, partitions, phase, read))
        array = stored.transpose(0, 2, 1, 4, 3)  # (slab, partition, coil, row, col)
        if partitions == 1:
            return kspace_volume(path, name, array[:, 0], "bart")
        sampled = np.logical_or.reduce([sampled_positions(slab) for slab in array])
        return slab_volume(
            path, name, sampled, lambda slab: np.asarray(array[slab]), num_slabs=num_slices, num_coils=coils,
            recon=(read, phase, partitions), attrs={"source_format": "bart", "encoded_slices": partitions},
        )  # fmt: skip


def write_bart(stem: str | os.PathLike[str], kspace: npt.NDArray[Any]) -> None:
    """Write `(slice, coil, row, col)` as `stem.hdr` and `stem.cfl`: rows in dimension 0, slices in 13.

    The header comes last, so a killed write leaves no readable pair.

    Raises ValueError when the array does not have these four axes.
    """
    if kspace.ndim != 4 or 0 in kspace.shape:
        raise ValueError(f"kspace has shape {kspace.shape}, expected (slice, coil, row, col)")
    num_slices, coils, rows, cols = kspace.shape
    dims = [rows, cols, 1, coils, *(1,) * 9, num_slices, 1, 1]
    header = "# Dimensions\n" + " ".join(str(size) for size in dims) + "\n"
    stored = np.ascontiguousarray(kspace.transpose(0, 1, 3, 2), dtype=np.complex64)
    for suffix, data in ((".cfl", stored.tobytes()), (".hdr", header.encode())):
        with whole_file(f"{os.fspath(stem)}{suffix}") as temporary:
            temporary.write_bytes(data)


def read_bart_maps(path: str) -> npt.NDArray[Any]:
    """Return coil maps of a BART pair, `(slice, [set,] coil, row, col)`: coils in dimension 3, sets in 4, slices in 13.

    Raises BadVolume for another dimension that is larger than 1, and for a pair that cannot be read.
    """
    data, dims = _read_dims(path)
    used = (0, 1, 3, 4, _SLICE)
    extra = [f"{_DIMENSIONS[axis]} {size}" for axis, size in enumerate(dims) if size != 1 and axis not in used]
    if extra:
        raise BadVolume(path, f"coil maps have rows, columns, coils, maps and slices, this has {', '.join(extra)}")
    rows, cols, coils, sets, slices = (dims[axis] for axis in used)
    check_dims(path, slices=slices, sets=sets, coils=coils, rows=rows, cols=cols)
    check_declared(path, 8 * math.prod(dims), os.path.getsize(data))
    stored = np.fromfile(data, dtype="<c8", count=math.prod(dims)).reshape(slices, sets, coils, cols, rows)
    maps = stored.transpose(0, 1, 2, 4, 3)
    return maps[:, 0] if sets == 1 else maps


def _read_dims(path: str) -> tuple[str, list[int]]:
    """Return the .cfl file of a pair, named by either file or their common stem, and all its dimensions."""
    stem = path[:-4] if path.lower().endswith((".cfl", ".hdr")) else path
    data, header = (
        next(filter(os.path.isfile, halves(stem, [suffix])), f"{stem}{suffix}") for suffix in (".cfl", ".hdr")
    )
    for part in (header, data):
        if not os.path.isfile(part):
            raise BadVolume(path, f"BART file {os.path.basename(part)} is missing: a pair is .cfl and .hdr")
    with naming(path, "BART header cannot be read"):
        if os.path.getsize(header) > _MAX_HEADER_BYTES:
            raise BadVolume(path, "BART header is over 1 MiB, expected a few lines of text")
        with open(header, encoding="ascii", errors="replace") as file:
            lines = [line.strip() for line in file]
    for title, values in itertools.pairwise(lines):
        if title == "# Dimensions":
            words = values.split()
            if not 0 < len(words) <= len(_DIMENSIONS) or not all(w.isascii() and w.isdigit() for w in words):
                raise BadVolume(path, f"BART dimensions are {values[:80]!r}, expected 1 to 16 positive integers")
            if any(len(word) > 12 for word in words):
                raise BadVolume(path, f"BART dimensions are {values[:80]!r}: impossibly large")
            dims = [int(word) for word in words]
            return data, dims + [1] * (len(_DIMENSIONS) - len(dims))
    raise BadVolume(path, "not a BART header: there is no '# Dimensions' line")
