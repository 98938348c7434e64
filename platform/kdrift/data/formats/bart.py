"""BART .cfl/.hdr pairs: complex64 in column-major order, dimensions named by position."""

from __future__ import annotations

import itertools
import math
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from kdrift.data.centring import from_corner
from kdrift.data.formats.arrange import Arranged, Names, arrange, centred, ordered
from kdrift.data.formats.kspace import check_partitions, kspace_volume, slab_loader
from kdrift.data.formats.selection import check_names
from kdrift.data.measured import magnitudes
from kdrift.data.paths import halves
from kdrift.data.volume import (
    AS_THE_FILE_SAYS,
    AXES,
    BadVolume,
    ReadOptions,
    Volume,
    VolumeInfo,
    check_declared,
    check_dims,
    naming,
)
from kdrift.mri.plausibility import MANY_COILS, SMALLEST_SIDE, is_peaked
from kdrift.runs.files import whole_file

_DIMENSIONS = (
    "read", "phase 1", "phase 2", "coil", "maps", "TE", "coeff", "coeff 2", "iteration", "cshift", "time",
    "time 2", "level", "slice", "average", "batch",
)  # fmt: skip
_SLICE, _MAX_HEADER_BYTES = 13, 1 << 20
_OR_STATE_AXES = "; --axes names those that are not 1 where they stand elsewhere"


def open_bart(path: str, name: str, how: ReadOptions = AS_THE_FILE_SAYS) -> Volume:
    """Open a BART pair as k-space; `path` is either file or their common stem.

    BART does not say what an array means, so it is assumed: dimension 0 is the readout (rows), 1 the phase encoding
    (columns), 3 the coil, 13 the slice. Dimension 2 larger than 1 is the second phase encoding of 3-D k-space, which an
    inverse FFT makes slices; then every partition has to be sampled alike. Where dimension 0 is 1 and dimensions 1 and
    2 are not (an already transformed readout), those two are rows and columns. All other dimensions must be 1.
    `how.axes` names the dimensions that are not 1, in their order, where they stand elsewhere.

    Raises BadVolume when one of the two files is missing, malformed, truncated, or has other dimensions, and for
    anything to choose.
    """
    check_names(path, how, ())
    data, dims = _read_dims(path)
    names = _names(path, dims) if how.axes is None else ()
    _check_size(path, data, dims)
    with naming(path, "BART data cannot be mapped"):
        stored = np.memmap(data, np.dtype("<c8"), "r", shape=tuple(dims), order="F")
        if how.axes is not None:
            return kspace_volume(path, name, arrange(path, "array", stored, AXES, how), "bart")
        if "partition" not in names:
            return kspace_volume(path, name, centred(Arranged(stored, names, AXES), how), "bart")
        slabs = ordered(stored, names, ("slice", "partition", "coil", "row", "col"))
        num_slabs, partitions, coils, rows, cols = slabs.shape
        notes: tuple[str, ...] = ()
        if how.centred is False:
            centre, notes = from_corner(slabs[num_slabs // 2, 0], axes=(1, 3, 4))
            slabs = centre(slabs)
        if dims[3] == 1 and how.centred is None and not is_peaked(slabs[0]):
            raise BadVolume(
                path, f"energy is spread over BART dimension 2 (phase 2) as it is over coils{_OR_STATE_AXES}"
            )
        _, unmeasured = check_partitions(path, np.logical_or.reduce([magnitudes(slab) != 0 for slab in slabs]))
    info = VolumeInfo(
        name, "kspace", num_slabs * partitions, coils, rows, cols, rows, cols,
        attrs={"source_format": "bart", "encoded_slices": partitions}, notes=(*notes, *unmeasured),
    )  # fmt: skip
    return Volume(path, info, slab_loader(lambda slab: np.asarray(slabs[slab]), partitions, partitions))


def _names(path: str, dims: list[int]) -> Names:
    """Return what each dimension is. Raises BadVolume for one that k-space has not, and for coils out of place."""
    transformed = dims[0] == 1 and dims[1] > 1 and dims[2] > 1
    used = {1: "row", 2: "col"} if transformed else {0: "row", 1: "col"}
    used |= {3: "coil", _SLICE: "slice"} | ({2: "partition"} if dims[2] > 1 and not transformed else {})
    for index, size in enumerate(dims):
        if size != 1 and index not in used:
            raise BadVolume(
                path, f"BART dimension {index} ({_DIMENSIONS[index]}) is {size}, expected 1{_OR_STATE_AXES}"
            )
    sizes = {name: dims[index] for index, name in used.items()}
    side = min((index for index, name in used.items() if name in ("row", "col")), key=lambda index: dims[index])
    beside = 3 if dims[3] > MANY_COILS else 2 if dims[3] == 1 and dims[2] >= SMALLEST_SIDE and not transformed else None
    if beside is not None and 1 < dims[side] < SMALLEST_SIDE:
        raise BadVolume(
            path,
            f"BART dimension {side} ({_DIMENSIONS[side]}) is {dims[side]} and dimension {beside}"
            f" ({_DIMENSIONS[beside]}) is {dims[beside]}: coils belong in dimension 3{_OR_STATE_AXES}",
        )
    slices = sizes["slice"] * sizes.get("partition", 1)
    check_dims(path, slices=slices, coils=sizes["coil"], rows=sizes["row"], columns=sizes["col"])
    return tuple(used.get(index) for index in range(len(dims)))


def read_bart_array(path: str) -> npt.NDArray[Any]:
    """Return any BART array with its slices (dimension 13) first and no axes of length 1.

    Raises BadVolume for a pair that cannot be read.
    """
    data, dims = _read_dims(path)
    _check_size(path, data, dims)
    values = np.fromfile(data, dtype="<c8", count=math.prod(dims)).reshape(dims, order="F")
    return np.moveaxis(values, _SLICE, 0).squeeze()


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
    _check_size(path, data, dims)
    stored = np.fromfile(data, dtype="<c8", count=math.prod(dims)).reshape(slices, sets, coils, cols, rows)
    maps = stored.transpose(0, 1, 2, 4, 3)
    return maps[:, 0] if sets == 1 else maps


def _check_size(path: str, data: str, dims: list[int]) -> None:
    """Raise BadVolume unless the data are as long as the header says."""
    declared, stored = 8 * math.prod(dims), os.path.getsize(data)
    check_declared(path, declared, stored)
    if stored > declared:
        raise BadVolume(
            path,
            f"header declares {declared} bytes of data, {os.path.basename(data)} holds {stored}: it is another file's"
            " header, or the values are not complex64",
        )


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
