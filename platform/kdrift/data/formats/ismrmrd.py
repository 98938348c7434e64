"""ISMRMRD raw data in HDF5 (Inati et al., Magn. Reson. Med. 77:411, 2017), read with h5py alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from kdrift.data.formats.hdf5 import ITEM, Hdf5, check_items, dataset, raw_table, text
from kdrift.data.formats.header import Header, read_header
from kdrift.data.formats.kspace import slab_volume
from kdrift.data.volume import AS_THE_FILE_SAYS, Attr, BadVolume, BoolArray, ReadOptions, Volume, check_dims, naming

NOISE_FLAG = 19  # flags are numbered from 1: bit n - 1
REVERSE_FLAG = 22
# parallel calibration alone, navigator, phase correction, feedback, dummy, surface coil, phase stabilisation
_NOT_IMAGING = (NOISE_FLAG, 20, 23, 24, 26, 27, 28, 29, 30, 31)
_BLOCK = 256


@dataclass(frozen=True)
class _Table:
    """The table of acquisitions: headers are read, samples are not."""

    source: Hdf5
    data: h5py.Dataset
    heads: Any
    items: npt.NDArray[Any]
    """Where the heaps hold the trajectory and the samples, `ITEM` `(acquisition, 1 or 2)`."""


@dataclass(frozen=True)
class _Lines:
    """The imaging acquisitions, one entry each, placed on the encoded grid."""

    index: npt.NDArray[np.int64]
    slab: npt.NDArray[np.int64]
    partition: npt.NDArray[np.int64]
    col: npt.NDArray[np.int64]
    first_row: npt.NDArray[np.int64]
    skipped: npt.NDArray[np.int64]
    """Samples to drop at the start of each line, in the order of acquisition."""
    kept: npt.NDArray[np.int64]
    """Samples after those; what remains is dropped too."""
    reverse: BoolArray

    def place(self, line: int) -> tuple[int, slice, int]:
        """Return partition, rows and column of one line."""
        first = int(self.first_row[line])
        return int(self.partition[line]), slice(first, first + int(self.kept[line])), int(self.col[line])


def open_ismrmrd(source: Hdf5, name: str, group: str, how: ReadOptions = AS_THE_FILE_SAYS) -> Volume:
    """Open Cartesian ISMRMRD raw data as k-space `(slice, coil, row = readout, col = phase encoding)`.

    Noise, navigator, calibration-only and other non-imaging acquisitions are left out; repeated lines are averaged; of
    several contrasts, phases, repetitions and sets the first is read (the attributes count them). Lines are placed by
    `center_sample` and the centre of the encoding limits, reversed readouts are turned round. A second phase encoding
    becomes slices by an inverse FFT, cropped to reconSpace. Lines that were not acquired are zero and make the mask.
    `noise_cov` is that of the noise acquisitions, scaled by the ratio of dwell times to the bandwidth of the imaging
    data. Opening reads the acquisition headers only.

    Raises BadVolume for missing keys, other trajectories, lines outside of the encoded matrix, or a hostile header.
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
        lines, counts = _place(path, table.heads, header)
    rows, cols, partitions = header.encoded
    first_head = table.heads[lines.index[0]]
    coils = int(first_head["active_channels"])
    sampled = np.zeros((partitions, rows, cols), dtype=bool)
    for line in range(len(lines.index)):
        sampled[lines.place(line)] = True
    attrs: dict[str, Attr] = {"source_format": "ismrmrd", **header.attrs, **counts}
    if "protocol" in attrs:
        attrs["acquisition"] = attrs["protocol"]
    volume = slab_volume(
        path,
        name,
        sampled,
        lambda slab: _read_slab(table, lines, (partitions, coils, rows, cols), slab),
        num_slabs=int(lines.slab.max()) + 1,
        num_coils=coils,
        recon=header.recon or header.encoded,
        attrs=attrs,
    )
    volume.load_noise_cov = lambda: _noise_cov(table, coils, float(first_head["sample_time_us"]))
    return volume


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
    items = []
    for name in names:
        lengths = rows[name]["length"]
        wrong = (lengths != expected[name]) & ((lengths != 0) | (name == "data"))
        if wrong.any():
            bad = int(np.argmax(wrong))
            claim = f"holds {lengths[bad]} numbers of {name}, its header says {expected[name][bad]}"
            raise BadVolume(source.path, f"acquisition {bad} {claim}")
        items.append(rows[name].astype(ITEM))
    return _Table(source, data, heads, np.stack(items, axis=1))


def _place(path: str, head: Any, header: Header) -> tuple[_Lines, dict[str, Attr]]:
    """Select the imaging acquisitions and place them on the encoded grid; count what was left out."""
    assert header.encoded is not None
    rows, cols, partitions = header.encoded
    index = head["idx"]
    imaging = ~_has_flag(head, *_NOT_IMAGING) & (head["encoding_space_ref"] == 0)
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
    slab = index["slice"].astype(np.int64)
    slabs = int(slab.max()) + 1
    if len(missing := np.setdiff1d(np.arange(slabs), slab)):
        raise BadVolume(path, f"slice {missing[0]} of {slabs} has no acquisitions")
    check_dims(path, slices=slabs * partitions, coils=int(coils[0]), rows=rows, columns=cols)
    check_dims(path, partitions=1, rows=rows * partitions, columns=cols)  # the sampling pattern is held in memory

    def along(step: str, size: int, centre: int | None) -> npt.NDArray[np.int64]:
        return np.asarray(index[step].astype(np.int64) + (0 if centre is None else size // 2 - centre))

    col = along("kspace_encode_step_1", cols, header.centre[0])
    partition = along("kspace_encode_step_2", partitions, header.centre[1])
    if partitions == 1:
        partition[:] = 0
    samples, skipped, skipped_at_end, centre = (
        heads[name].astype(np.int64) for name in ("number_of_samples", "discard_pre", "discard_post", "center_sample")
    )
    centre[(samples == rows) & (centre == 0)] = rows // 2  # 0 on a full readout: the field was not set
    reverse = _has_flag(heads, REVERSE_FLAG)
    first_row = rows // 2 - np.where(reverse, samples - 1 - centre - skipped_at_end, centre - skipped)
    kept = samples - skipped - skipped_at_end
    outside = (col < 0) | (col >= cols) | (partition < 0) | (partition >= partitions)
    outside |= (kept < 1) | (first_row < 0) | (first_row + kept > rows)
    if outside.any():
        bad = int(np.argmax(outside))
        raise BadVolume(
            path,
            f"acquisition {chosen[bad]} (row {first_row[bad]} on, {kept[bad]} samples, column {col[bad]},"
            f" partition {partition[bad]}) lies outside of the encoded matrix {rows} x {cols} x {partitions}",
        )
    return _Lines(chosen, slab, partition, col, first_row, skipped, kept, reverse), counts


def _has_flag(heads: Any, *flags: int) -> BoolArray:
    bits = np.uint64(sum(1 << (flag - 1) for flag in flags))
    return np.asarray((heads["flags"].astype(np.uint64) & bits) != 0)


def _read_slab(table: _Table, lines: _Lines, shape: tuple[int, int, int, int], slab: int) -> npt.NDArray[np.complex64]:
    """Read one slice or slab of `shape` (partition, coil, row, col), repeated lines averaged."""
    partitions, coils, rows, cols = shape
    # lines are contiguous while they are filled in: columns of the result would be scattered over memory
    kspace = np.zeros((partitions, cols, coils, rows), dtype=np.complex64)
    repeats = np.zeros((partitions, cols, 1, rows), dtype=np.int32)
    members = np.flatnonzero(lines.slab == slab)
    for line, stored in zip(members.tolist(), _payloads(table, lines.index[members]), strict=True):
        samples = _as_complex(stored, coils)[:, lines.skipped[line] :][:, : lines.kept[line]]
        if lines.reverse[line]:
            samples = samples[:, ::-1]
        partition, places, col = lines.place(line)
        kspace[partition, col, :, places] += samples
        repeats[partition, col, 0, places] += 1
    if repeats.max() > 1:
        kspace /= np.maximum(repeats, 1)
    return kspace.transpose(0, 2, 3, 1)


def _payloads(table: _Table, indices: npt.NDArray[np.int64]) -> Iterator[Any]:
    """Yield the samples of acquisitions in order, reading runs of neighbours at once."""
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    for run in np.split(indices, breaks):
        for first in range(int(run[0]), int(run[-1]) + 1, _BLOCK):
            block = slice(first, min(first + _BLOCK, int(run[-1]) + 1))
            check_items(table.source, table.items[block].ravel(), 4)
            yield from table.data.fields("data")[block]


def _as_complex(stored: Any, coils: int) -> npt.NDArray[np.complex64]:
    """Return interleaved real and imaginary parts as `(coil, sample)`."""
    return np.ascontiguousarray(stored, dtype=np.float32).view(np.complex64).reshape(coils, -1)


def _noise_cov(table: _Table, coils: int, dwell: float) -> npt.NDArray[np.complex128] | None:
    """Return E[n n^H] over all noise samples, complex128 `(coil, coil)`; None without a noise acquisition.

    `dwell` is the time of a sample of the imaging data in microseconds.
    """
    head = table.heads
    noise = np.flatnonzero(_has_flag(head, NOISE_FLAG) & (head["active_channels"] == coils))
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
    scale = noise_dwell / dwell if noise_dwell > 0 and 0 < dwell < np.inf else 1.0
    return total / count * scale
