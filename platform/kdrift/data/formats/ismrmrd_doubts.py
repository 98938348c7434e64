"""Acquisitions that contradict their ISMRMRD header, or each other: read as they truly are, refused, or told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from kdrift.data.formats.header import Encoding
from kdrift.data.formats.ismrmrd_lines import Grid, Lines
from kdrift.data.formats.ismrmrd_table import Table, payloads, trajectory
from kdrift.data.formats.selection import ranges
from kdrift.data.volume import BadVolume

_LOOKED_AT = 24
"""So many acquisitions, evenly spread, tell whether a trajectory is Cartesian."""
_OFF_GRID = 0.25
"""In steps of the grid: samples that lie further off are on no grid."""
_ALIKE = 0.7
"""Cosine between two measurements of a line below which their mean loses signal."""
Numbers = npt.NDArray[np.int64]


def true_readout(table: Table, image: Numbers, encoding: Encoding) -> tuple[Encoding, list[str]]:
    """Return the encoding with the extent of the readout that lines truly have, and a note where the header's differs.

    Where all lines have as many samples as reconSpace has rows, fewer than encodedSpace states, with the echo in their
    middle, readout oversampling was removed before they were written: k-space then reaches as far, in steps of the
    reconstructed field of view. It is left as stated where the two fields of view do not differ as the matrices do.
    """
    if encoding.encoded is None or encoding.recon is None:
        return encoding, []
    rows, kept = encoding.encoded[0], encoding.recon[0]
    heads = table.heads[image]
    samples, before, after, centre = (
        heads[name].astype(np.int64) for name in ("number_of_samples", "discard_pre", "discard_post", "center_sample")
    )
    middle = (centre - before == kept // 2) | (centre >= samples)
    if kept >= rows or not ((samples - before - after == kept) & middle).all():
        return encoding, []
    fields, field = (encoding.encoded_fov_mm, encoding.recon_fov_mm), encoding.encoded_fov_mm
    if fields[0] is not None and fields[1] is not None and fields[0][0] > 0 and fields[1][0] > 0:
        if abs(fields[0][0] / fields[1][0] / (rows / kept) - 1) > 0.02:
            return encoding, []
        field = (fields[1][0], *fields[0][1:])
    note = (
        f"lines have {kept} samples with the echo in the middle, as reconSpace, where encodedSpace states {rows}:"
        f" readout oversampling was removed before, so rows are read as the {kept} of the reconstructed field of view"
    )
    return replace(encoding, encoded=(kept, *encoding.encoded[1:]), encoded_fov_mm=field), [note]


def check_grid(table: Table, image: Numbers, encoding: Encoding) -> None:
    """Raise BadVolume where acquisitions bring a trajectory that is not on a Cartesian grid, whatever the header says.

    On a grid all lines have one direction and even steps, and lie where their encoding steps say, evenly too.
    """
    dims = table.heads["trajectory_dimensions"][image]
    chosen = image[dims == dims.max(initial=0)]
    chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, _LOOKED_AT).astype(int))] if dims.any() else chosen[:0]
    places = [trajectory(table, int(number)) for number in chosen]
    places = [line for line in places if len(line) > 1 and np.ptp(line, axis=0).any()]
    if not places:
        return
    if not all(np.isfinite(line).all() for line in places):
        raise BadVolume(table.source.path, "the trajectory in the acquisitions holds NaN or infinite values")
    steps = [(line[-1] - line[0]) / (len(line) - 1) for line in places]
    length = max(float(np.linalg.norm(step)) for step in steps)
    odd = ""
    for line, step in zip(places, steps, strict=True):
        sign = 1 if step @ steps[0] >= 0 else -1
        if np.abs(step * sign - steps[0]).max() * len(line) > _OFF_GRID * length:
            odd = "lines of different directions"
        elif np.abs(line - line[0] - np.arange(len(line))[:, None] * step).max() > _OFF_GRID * length:
            odd = "samples that are not evenly spaced on a straight line"
        if odd:
            break
    if not odd and len(places) == len(chosen) > 3:
        odd = _off_steps(table, chosen, np.array([line.mean(axis=0) for line in places]), steps[0])
    if odd:
        raise BadVolume(
            table.source.path,
            f"the header says {encoding.trajectory}, the acquisitions have a trajectory of {dims.max()} dimensions with"
            f" {odd}: expected a Cartesian grid; grid them first, or take the trajectory out if it is wrong",
        )


def _off_steps(table: Table, chosen: Numbers, middles: npt.NDArray[np.float64], along: npt.NDArray[np.float64]) -> str:
    """Return what is odd where lines do not lie evenly, across the readout, by their encoding steps."""
    across = middles - np.outer(middles @ along, along) / (along @ along)
    index = table.heads["idx"][chosen]
    steps = [index[name].astype(float) for name in ("kspace_encode_step_1", "kspace_encode_step_2")]
    design = np.stack([*steps, np.ones(len(chosen))], axis=1)
    fit = np.linalg.lstsq(design, across, rcond=None)[0]
    size = max(np.linalg.norm(fit[:2], axis=1).max(), 1e-12)
    return "lines off the places that their steps say" if np.abs(across - design @ fit).max() > _OFF_GRID * size else ""


def repeats(table: Table, lines: Lines, grid: Grid) -> list[str]:
    """Return notes where lines were measured several times, and where two measurements of the one nearest to the middle
    of k-space cancel in their mean.
    """
    places = np.stack([lines.slab, lines.partition, lines.col], axis=1)
    found, which, counts = np.unique(places, axis=0, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(counts > 1)
    if len(repeated) == 0:
        return []
    told = f"{len(repeated)} of {len(counts)} lines were measured up to {counts.max()} times and are averaged"
    away = np.abs(found[repeated, 1] - grid.partitions // 2) + np.abs(found[repeated, 2] - grid.cols // 2)
    members = np.flatnonzero(which.ravel() == repeated[np.argmin(away)])
    alike = np.flatnonzero(
        (lines.kept[members] == lines.kept[members[0]]) & (lines.reverse[members] == lines.reverse[members[0]])
    )
    pair = np.sort(lines.index[members[alike[[0, -1]]]])
    one, other = (samples.astype(np.complex128).ravel() for samples in payloads(table, pair))
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    if len(alike) < 2 or one.shape != other.shape or not 0 < size < np.inf:
        return [told]
    cosine = complex(np.vdot(one, other)) / size
    if cosine.real >= _ALIKE:
        return [told]
    how = f"differ in phase by {abs(np.degrees(np.angle(cosine))):.0f} degrees" if abs(cosine) > _ALIKE else "differ"
    several = np.unique(table.heads["idx"]["average"][pair])
    cure = "; --select average=N takes one" if len(several) > 1 else ""
    return [told, f"two measurements of a line at the middle of k-space {how}: their mean loses signal{cure}"]


def ordered_slices(table: Table, image: Numbers, slices: Numbers) -> tuple[Numbers, list[str]]:
    """Return numbers of slices in the order of their places along the normal, and a note where it is another.

    Interleaved scans may be numbered in the order of time. Numbers that run along the normal, either way, stay as they
    are, and so do slices without one direction and different, finite places.
    """
    first = np.array([image[np.argmax(table.heads["idx"]["slice"][image] == number)] for number in slices])
    heads = table.heads[first]
    normals, places = heads["slice_dir"].astype(float), heads["position"].astype(float)
    if not (np.isfinite(normals).all() and np.isfinite(places).all()) or np.abs(normals - normals[0]).max() > 0.01:
        return slices, []
    along = places @ normals[0]
    order = np.argsort(along, kind="stable")
    steps, sorted_steps = np.diff(along), np.diff(along[order])
    if len(slices) < 3 or (steps > 0).all() or (steps < 0).all() or sorted_steps.min() < 1e-3:
        return slices, []
    told = ranges(slices[order])
    return slices[order], [
        "slices are numbered in another order than they lie, as interleaved scans are in the order of time: they are"
        f" sorted by position, slices 0-{len(slices) - 1} here are {told} of the scan"
    ]
