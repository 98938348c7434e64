"""ISMRMRD raw data in HDF5 (Inati et al., Magn. Reson. Med. 77:411, 2017), read with h5py alone."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from kdrift.data.formats.hdf5 import ITEM, Hdf5, check_heaps, dataset, raw_table, text
from kdrift.data.formats.header import Header, read_header
from kdrift.data.formats.kspace import check_partitions, mask_from_pattern, partitions_to_slices
from kdrift.data.volume import Attr, BadVolume, BoolArray, Volume, VolumeInfo, check_dims, naming

NOISE_FLAG = 19  # flags are numbered from 1: bit n - 1
REVERSE_FLAG = 22
# parallel calibration alone, navigator, phase correction, feedback, dummy, surface coil, phase stabilisation
_NOT_IMAGING = (NOISE_FLAG, 20, 23, 24, 26, 27, 28, 29, 30, 31)
_NOT_IMAGING_BITS = sum(1 << (flag - 1) for flag in _NOT_IMAGING)
_BLOCK = 256


@dataclass(frozen=True)
class _Table:
    """The table of acquisitions: headers are read, samples are not."""

    source: Hdf5
    data: h5py.Dataset
    heads: Any
    heaps: npt.NDArray[np.uint64]
    """Addresses of the heaps that hold the trajectory and the samples `(acquisition, 1 or 2)`, 0 for none."""


@dataclass(frozen=True)
class _Lines:
    """The imaging acquisitions, one entry each, placed on the encoded grid."""

    index: npt.NDArray[np.int64]
    slab: npt.NDArray[np.int64]
    partition: npt.NDArray[np.int64]
    col: npt.NDArray[np.int64]
    first_row: npt.NDArray[np.int64]
    discard: npt.NDArray[np.int64]
    """Samples to drop at the start and at the end of each line, `(line, 2)`, in the order of acquisition."""
    num_samples: npt.NDArray[np.int64]
    reverse: BoolArray


@dataclass(frozen=True)
class _Grid:
    slabs: int
    partitions: int
    coils: int
    rows: int
    cols: int


def open_ismrmrd(source: Hdf5, name: str, group: str, resources: contextlib.ExitStack) -> Volume:
    """Open Cartesian ISMRMRD raw data as k-space `(slice, coil, row = readout, col = phase encoding)`.

    Noise, navigator, calibration-only and other non-imaging acquisitions are left out; repeated lines are
    averaged; of several contrasts, phases, repetitions and sets the first is read (the attributes count
    them). Lines are placed by `center_sample` and the centre of the encoding limits, reversed readouts are
    turned round. A second phase encoding becomes slices by an inverse FFT, cropped to reconSpace. Lines
    that were not acquired are zero and make the mask. `noise_cov` is that of the noise acquisitions, scaled
    by the ratio of dwell times to the bandwidth of the imaging data. Opening reads the acquisition headers
    only.

    Raises
    ------
    BadVolume
        For missing keys, other trajectories, lines outside of the encoded matrix, or a hostile header.
    """
    path = source.path
    data, xml = dataset(source, f"{group}/data"), dataset(source, f"{group}/xml")
    if data is None or xml is None:
        raise BadVolume(path, f"ISMRMRD group {group} lacks {'data' if data is None else 'xml'}")
    header = read_header(path, text(source, xml))
    if header.encoded is None:
        raise BadVolume(path, "ISMRMRD header has no encodedSpace matrix size")
    if header.trajectory != "cartesian":
        raise BadVolume(path, f"trajectory is {header.trajectory!r}, expected cartesian")
    with naming(path, "ISMRMRD acquisition headers cannot be read"):
        if data.ndim != 1 or data.dtype.names is None or not {"head", "data"} <= set(data.dtype.names):
            raise BadVolume(path, f"{group}/data is {data.dtype}, expected ISMRMRD acquisitions (head, traj, data)")
        table = _table(source, data)
        lines, grid, counts = _place(path, table.heads, header)
    sampled = np.zeros((grid.partitions, grid.rows, grid.cols), dtype=bool)
    for line in range(len(lines.index)):
        rows = _rows(lines, line)
        sampled[lines.partition[line], rows, lines.col[line]] = True
    mask = mask_from_pattern(check_partitions(path, sampled))
    recon = header.recon or header.encoded
    depth = min(recon[2], grid.partitions)
    offset = grid.partitions // 2 - depth // 2

    @functools.lru_cache(maxsize=1)  # of 3-D data, neighbouring slices come from the same transform
    def partitions_of(slab: int) -> npt.NDArray[Any]:
        return partitions_to_slices(_read_slab(table, lines, grid, slab), axis=0)

    def load(start: int, stop: int) -> npt.NDArray[Any]:
        if grid.partitions == 1:
            return np.concatenate([_read_slab(table, lines, grid, slab) for slab in range(start, stop)])
        return np.stack([partitions_of(i // depth)[offset + i % depth] for i in range(start, stop)])

    attrs: dict[str, Attr] = {"source_format": "ismrmrd", **header.attrs, **counts}
    if "protocol" in attrs:
        attrs["acquisition"] = attrs["protocol"]
    info = VolumeInfo(
        name, "kspace", grid.slabs * depth, grid.coils, grid.rows, grid.cols,
        min(recon[0], grid.rows), min(recon[1], grid.cols), has_mask=mask is not None, attrs=attrs,
    )  # fmt: skip
    return Volume(
        path,
        info,
        load,
        load_mask=(lambda: mask) if mask is not None else None,
        load_noise_cov=lambda: _noise_cov(table, grid.coils, lines),
        resources=resources,
    )


def _table(source: Hdf5, data: h5py.Dataset) -> _Table:
    """Read all acquisition headers, and check that the lengths of the samples are what they say."""
    dtype = data.dtype
    names = [name for name in ("traj", "data") if name in dtype.names]
    head, place = dtype.fields["head"][:2]
    stored = np.dtype(
        {
            "names": ["head", *names],
            "formats": [head, *(ITEM for _ in names)],
            "offsets": [place, *(dtype.fields[name][1] for name in names)],
            "itemsize": dtype.itemsize,
        }
    )
    rows = np.frombuffer(raw_table(source, data), dtype=stored)
    heads = rows["head"]
    samples = heads["number_of_samples"].astype(np.int64)
    expected = {
        "traj": samples * heads["trajectory_dimensions"],
        "data": 2 * samples * heads["active_channels"],
    }
    heaps = []
    for name in names:
        lengths = rows[name]["length"]
        wrong = (lengths != expected[name]) & ((lengths != 0) | (name == "data"))
        if wrong.any():
            bad = int(np.argmax(wrong))
            claim = f"holds {lengths[bad]} numbers of {name}, its header says {expected[name][bad]}"
            raise BadVolume(source.path, f"acquisition {bad} {claim}")
        heaps.append(np.where(lengths > 0, rows[name]["heap"], np.uint64(0)))
    return _Table(source, data, heads, np.stack(heaps, axis=1))


def _place(path: str, head: Any, header: Header) -> tuple[_Lines, _Grid, dict[str, Attr]]:
    """Select the imaging acquisitions and place them on the encoded grid."""
    assert header.encoded is not None
    rows, cols, partitions = header.encoded
    index = head["idx"]
    imaging = (head["flags"].astype(np.uint64) & np.uint64(_NOT_IMAGING_BITS)) == 0
    imaging &= head["encoding_space_ref"] == 0
    counts: dict[str, Attr] = {}
    for dimension in ("contrast", "phase", "repetition", "set"):
        values = np.unique(index[dimension][imaging])
        if len(values) > 1:
            counts[f"num_{dimension}s"] = len(values)
            imaging &= index[dimension] == values[0]
    chosen = np.flatnonzero(imaging)
    if len(chosen) == 0:
        raise BadVolume(path, "file holds no imaging acquisitions")
    heads, index = head[chosen], index[chosen]
    coils = np.unique(heads["active_channels"])
    if len(coils) > 1:
        raise BadVolume(path, f"acquisitions have {', '.join(str(c) for c in coils)} channels, expected one number")
    slabs = int(index["slice"].max()) + 1
    present = np.unique(index["slice"])
    if len(present) != slabs:
        missing = int(np.setdiff1d(np.arange(slabs), present)[0])
        raise BadVolume(path, f"slice {missing} of {slabs} has no acquisitions")
    check_dims(path, slices=slabs * partitions, coils=int(coils[0]), rows=rows, columns=cols)
    check_dims(path, partitions=1, rows=rows * partitions, columns=cols)  # the sampling pattern is held in memory
    centre1, centre2 = header.centre
    col = index["kspace_encode_step_1"].astype(np.int64) + cols // 2 - (cols // 2 if centre1 is None else centre1)
    partition = index["kspace_encode_step_2"].astype(np.int64) + partitions // 2
    partition -= partitions // 2 if centre2 is None else centre2
    if partitions == 1:
        partition[:] = 0
    samples = heads["number_of_samples"].astype(np.int64)
    discard = np.stack([heads["discard_pre"], heads["discard_post"]], axis=1).astype(np.int64)
    centre = heads["center_sample"].astype(np.int64)
    centre[(samples == rows) & (centre == 0)] = rows // 2  # 0 on a full readout: the field was not set
    reverse = (heads["flags"].astype(np.uint64) & np.uint64(1 << (REVERSE_FLAG - 1))) != 0
    centre = np.where(reverse, samples - 1 - centre, centre)
    kept_from = np.where(reverse, discard[:, 1], discard[:, 0])
    first_row = rows // 2 - centre + kept_from
    kept = samples - discard.sum(axis=1)
    outside = (col < 0) | (col >= cols) | (partition < 0) | (partition >= partitions)
    outside |= (kept < 1) | (first_row < 0) | (first_row + kept > rows)
    if outside.any():
        bad = int(np.argmax(outside))
        raise BadVolume(
            path,
            f"acquisition {chosen[bad]} (row {first_row[bad]} on, {kept[bad]} samples, column {col[bad]},"
            f" partition {partition[bad]}) lies outside of the encoded matrix {rows} x {cols} x {partitions}",
        )
    slab = index["slice"].astype(np.int64)
    lines = _Lines(chosen, slab, partition, col, first_row, discard, samples, reverse)
    return lines, _Grid(slabs, partitions, int(coils[0]), rows, cols), counts


def _rows(lines: _Lines, line: int) -> slice:
    first = int(lines.first_row[line])
    return slice(first, first + int(lines.num_samples[line] - lines.discard[line].sum()))


def _read_slab(table: _Table, lines: _Lines, grid: _Grid, slab: int) -> npt.NDArray[np.complex64]:
    """Read one slice or slab `(partition, coil, row, col)`, repeated lines averaged."""
    # lines are contiguous while they are filled in: columns of the result would be scattered over memory
    kspace = np.zeros((grid.partitions, grid.cols, grid.coils, grid.rows), dtype=np.complex64)
    repeats = np.zeros((grid.partitions, grid.cols, 1, grid.rows), dtype=np.int32)
    members = np.flatnonzero(lines.slab == slab)
    for line, stored in zip(members.tolist(), _payloads(table, lines.index[members]), strict=True):
        samples = _as_complex(stored, grid.coils)
        before, after = lines.discard[line]
        samples = samples[:, before : samples.shape[1] - after]
        if lines.reverse[line]:
            samples = samples[:, ::-1]
        place, rows, col = int(lines.partition[line]), _rows(lines, line), int(lines.col[line])
        kspace[place, col, :, rows] += samples
        repeats[place, col, 0, rows] += 1
    if repeats.max() > 1:
        kspace /= np.maximum(repeats, 1)
    return kspace.transpose(0, 2, 3, 1)


def _payloads(table: _Table, indices: npt.NDArray[np.int64]) -> Iterator[Any]:
    """Yield the samples of acquisitions in order, reading runs of neighbours at once."""
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    for run in np.split(indices, breaks):
        for first in range(int(run[0]), int(run[-1]) + 1, _BLOCK):
            block = slice(first, min(first + _BLOCK, int(run[-1]) + 1))
            check_heaps(table.source, table.heaps[block].ravel().tolist())
            yield from table.data.fields("data")[block]


def _as_complex(stored: Any, coils: int) -> npt.NDArray[np.complex64]:
    """Return interleaved real and imaginary parts as `(coil, sample)`."""
    return np.ascontiguousarray(stored, dtype=np.float32).view(np.complex64).reshape(coils, -1)


def _noise_cov(table: _Table, coils: int, lines: _Lines) -> npt.NDArray[np.complex128] | None:
    """Return E[n n^H] over all noise samples, complex128 `(coil, coil)`; None without a noise acquisition."""
    head = table.heads
    is_noise = (head["flags"].astype(np.uint64) & np.uint64(1 << (NOISE_FLAG - 1))) != 0
    noise = np.flatnonzero(is_noise & (head["active_channels"] == coils))
    if len(noise) == 0:
        return None
    total, count = np.zeros((coils, coils), dtype=np.complex128), 0
    for stored in _payloads(table, noise):
        samples = _as_complex(stored, coils)
        total += samples.astype(np.complex128) @ samples.conj().T
        count += samples.shape[1]
    if not count or not np.isfinite(total).all():
        raise BadVolume(table.source.path, "noise acquisitions are empty or hold NaN or infinite values")
    # white noise: the variance of a sample goes with the bandwidth, the inverse of the dwell time
    noise_dwell = float(head["sample_time_us"][noise[0]])
    dwell = float(head["sample_time_us"][lines.index[0]])
    scale = noise_dwell / dwell if noise_dwell > 0 and 0 < dwell < np.inf else 1.0
    return total / count * scale
