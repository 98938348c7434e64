"""The table of acquisitions in an ISMRMRD group: headers, roles, and samples of the lines that are asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from kdrift.data.formats.hdf5 import ITEM, Hdf5, check_items, contains, dataset, find, keys, open_file, raw_table, text
from kdrift.data.formats.header import Header, read_header
from kdrift.data.volume import BadVolume, BoolArray, naming

IMAGE, CALIBRATION, NOISE, PHASE_CORRECTION = "image", "calibration", "noise", "phase correction"
_EMPTY = "empty"
REVERSE_FLAG = 22  # flags are numbered from 1: bit n - 1
_CALIBRATION_FLAG, _CALIBRATION_AND_IMAGE_FLAG = 20, 21
_ROLES = (
    (_CALIBRATION_FLAG, CALIBRATION),
    (31, "phase stabilisation"),
    (30, "phase stabilisation"),
    (29, "surface coil correction"),
    (28, "real-time feedback"),
    (27, "dummy"),
    (26, "HP feedback"),
    (23, "navigation"),
    (24, PHASE_CORRECTION),
    (19, NOISE),
)
"""Flags and what a line is by them, the weightiest last; all other flags say nothing of that."""
_BLOCK = 256
_LACKING = {
    "data": "data, its acquisitions: expected raw data",
    "xml": "xml, its header, without which nothing says where lines lie: write it into the group",
}


@dataclass(frozen=True)
class Table:
    """One group: its header and the table of acquisitions, of which headers are read and samples are not."""

    source: Hdf5
    group: str
    header: Header
    data: h5py.Dataset
    heads: Any
    items: npt.NDArray[Any]
    """Where the heaps hold the trajectory and the samples, `ITEM` `(acquisition, 1 or 2)`."""
    roles: npt.NDArray[np.str_]
    """What each acquisition is: image, calibration, noise, phase correction, navigation, ..."""

    def is_role(self, role: str) -> BoolArray:
        """Return which acquisitions have a role."""
        return np.asarray(self.roles == role)


def read_table(source: Hdf5, group: str) -> Table:
    """Read the header and all acquisition headers of a group, and check that samples are as long as these say.

    Raises BadVolume for missing keys, a hostile header, or another table than ISMRMRD's.
    """
    path = source.path
    data, xml = dataset(source, f"{group}/data"), dataset(source, f"{group}/xml")
    if data is None and (images := image_groups(source, group)):
        raise BadVolume(
            path,
            f"ISMRMRD group {group} holds images ({', '.join(images)}), no raw data: expected the acquisitions that"
            " they were made of; images are read from DICOM, NIfTI or HDF5 with an array `reconstruction`",
        )
    if data is None or xml is None:
        raise BadVolume(path, f"ISMRMRD group {group} lacks {_LACKING['data' if data is None else 'xml']}")
    header = read_header(path, text(source, xml))
    with naming(path, "ISMRMRD acquisition headers cannot be read"):
        if data.ndim != 1 or data.dtype.names is None or not {"head", "data"} <= set(data.dtype.names):
            raise BadVolume(path, f"{group}/data is {data.dtype}, expected ISMRMRD acquisitions (head, traj, data)")
        heads, items = _read_heads(source, data)
        return Table(source, group, header, data, heads, items, _roles(heads))


def ismrmrd_groups(source: Hdf5) -> list[str]:
    """Return the names at the top of a file that hold what ISMRMRD has: a header, acquisitions, or images."""
    return [key for key in keys(source) if contains(source, f"{key}/xml") or _acquisitions(source, key)]


def image_groups(source: Hdf5, group: str) -> list[str]:
    """Return the names of the ISMRMRD images in a group."""
    node = find(source, group) if contains(source, group) else None
    if not isinstance(node, h5py.Group) or len(node) > _BLOCK:
        return []
    return [
        name for name in sorted(node) if all(contains(source, f"{group}/{name}/{part}") for part in ("header", "data"))
    ]


def _acquisitions(source: Hdf5, group: str) -> bool:
    """Return whether a group holds acquisitions or images, though no header."""
    if image_groups(source, group):
        return True
    node = find(source, f"{group}/data") if contains(source, f"{group}/data") else None
    return isinstance(node, h5py.Dataset) and {"head", "data"} <= set(node.dtype.names or ())


def same_tables(source: Hdf5, groups: Sequence[str]) -> dict[str, str | None]:
    """Return for each group an earlier one whose table is the very same object, None for a table of its own."""
    first: dict[int, str] = {}
    found: dict[str, str | None] = {}
    for group in groups:
        node = find(source, f"{group}/data") if contains(source, f"{group}/data") else None
        owner = first.setdefault(h5py.h5o.get_info(node.id).addr, group) if node is not None else group
        found[group] = owner if owner != group else None
    return found


def has_flag(heads: Any, flag: int) -> BoolArray:
    """Return which acquisitions carry a flag, numbered from 1."""
    return np.asarray((heads["flags"].astype(np.uint64) & np.uint64(1 << (flag - 1))) != 0)


def count_roles(roles: npt.NDArray[np.str_]) -> str:
    """Return `80 image lines, 1 noise line`, most frequent first; empty for none."""
    names, counts = np.unique(roles, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return ", ".join(f"{counts[i]} {names[i]} line{'s' if counts[i] > 1 else ''}" for i in order)


def payloads(table: Table, indices: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.complex64]]:
    """Yield the samples `(coil, sample)` of acquisitions in order, reading runs of neighbours at once."""
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    for run in np.split(indices, breaks) if len(indices) else ():
        for first in range(int(run[0]), int(run[-1]) + 1, _BLOCK):
            block = slice(first, min(first + _BLOCK, int(run[-1]) + 1))
            check_items(table.source, table.items[block].ravel(), 4)
            stored = table.data.fields("data")[block]
            for coils, samples in zip(table.heads["active_channels"][block].tolist(), stored, strict=True):
                yield np.ascontiguousarray(samples, dtype=np.float32).view(np.complex64).reshape(coils, -1)


def noise_lines(table: Table, coils: int) -> npt.NDArray[np.int64]:
    """Return the noise acquisitions of so many coils."""
    return np.flatnonzero(table.is_role(NOISE) & (table.heads["active_channels"] == coils))


def noise_cov(table: Table, coils: int, dwell: float) -> npt.NDArray[np.complex128]:
    """Return E[n n^H] over all noise samples, complex128 `(coil, coil)`.

    `dwell` is the time of a sample of the imaging data in microseconds: the noise is scaled to its bandwidth.
    """
    noise = noise_lines(table, coils)
    total, count = np.zeros((coils, coils), dtype=np.complex128), 0
    for samples in _noise_samples(table, noise, dwell):
        total += samples.astype(np.complex128) @ samples.conj().T
        count += samples.shape[1]
    if not count or not np.isfinite(total).all():
        raise BadVolume(table.source.path, "noise acquisitions are empty or hold NaN or infinite values")
    return total / count


def noise_note(table: Table, coils: int, dwell: float) -> list[str]:
    """Return a note where noise was sampled at another rate than the imaging data, or at none that is stated."""
    rates = np.unique(table.heads["sample_time_us"][noise_lines(table, coils)])
    if (rates == np.float32(dwell)).all():
        return []
    told = " and ".join(f"{rate:g}" for rate in rates)
    if not (_is_time(rates).all() and _is_time(np.array(dwell))):
        return [f"dwell times are {told} us of noise and {dwell:g} us of the image: its noise is not scaled"]
    return [f"noise was sampled every {told} us, the image every {dwell:g} us: it is scaled to the image's bandwidth"]


def _noise_samples(
    table: Table, lines: npt.NDArray[np.int64], dwell: float | None = None
) -> Iterator[npt.NDArray[np.complex64]]:
    """Yield the noise `(coil, sample)` of acquisitions without what is to be discarded, scaled to one bandwidth.

    That is of `dwell`, the time of a sample in microseconds, or of the first acquisition. Noise is white: the variance
    of a sample goes with the bandwidth, the inverse of its dwell time.
    """
    heads = table.heads[lines]
    times = heads["sample_time_us"].astype(np.float64)
    reference = times[:1] if dwell is None else np.array([dwell])
    scales = np.sqrt(times / reference) if _is_time(times).all() and _is_time(reference).all() else np.ones(len(lines))
    for head, scale, samples in zip(heads, scales.tolist(), payloads(table, lines), strict=True):
        kept = slice(int(head["discard_pre"]), samples.shape[1] - int(head["discard_post"]))
        yield samples[:, kept] * np.float32(scale)


def _is_time(value: npt.NDArray[Any]) -> BoolArray:
    return np.asarray((value > 0) & (value < np.inf))


def trajectory(table: Table, number: int) -> npt.NDArray[np.float64]:
    """Return the trajectory of an acquisition `(sample, dimension)`, as written; no samples where there is none."""
    dims = int(table.heads["trajectory_dimensions"][number])
    if dims == 0 or "traj" not in table.data.dtype.names:
        return np.zeros((0, max(dims, 1)))
    check_items(table.source, table.items[number][:1], 4)
    return np.asarray(table.data.fields("traj")[number], dtype=np.float64).reshape(-1, dims)


def read_noise(path: str) -> npt.NDArray[np.complex64] | None:
    """Return the noise acquisitions of an ISMRMRD file, of all its groups, `(coil, sample)`; None for other HDF5 files.

    Raises BadVolume where it holds other acquisitions alone, of different numbers of channels, or cannot be read.
    """
    with contextlib.ExitStack() as resources, naming(path, "noise acquisitions cannot be read"):
        source = open_file(path, resources)
        groups = [group for group in keys(source) if contains(source, f"{group}/xml")]
        tables = [read_table(source, group) for group, other in same_tables(source, groups).items() if other is None]
        found = [samples for table in tables for samples in _noise_samples(table, np.flatnonzero(table.is_role(NOISE)))]
    if not tables:
        return None
    if len({len(samples) for samples in found}) != 1:
        what = "of different numbers of channels" if found else "none"
        raise BadVolume(path, f"expected noise acquisitions (flag 19) of one number of channels, found {what}")
    return np.concatenate(found, axis=1)


def _roles(heads: Any) -> npt.NDArray[np.str_]:
    roles = np.full(len(heads), IMAGE, dtype="U24")
    for flag, role in _ROLES:
        found = has_flag(heads, flag)
        roles[found & ~has_flag(heads, _CALIBRATION_AND_IMAGE_FLAG) if role == CALIBRATION else found] = role
    roles[(heads["number_of_samples"] == 0) | (heads["active_channels"] == 0)] = _EMPTY
    return roles


def _read_heads(source: Hdf5, data: h5py.Dataset) -> tuple[Any, npt.NDArray[Any]]:
    """Return all acquisition headers and where their samples are; lengths are checked against the headers."""
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
    return heads, np.stack(items, axis=1)
