"""ISMRMRD raw data in HDF5 (Inati et al., Magn. Reson. Med. 77:411, 2017), read with h5py alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from kdrift.data.formats.field_of_view import ImageField, image_field
from kdrift.data.formats.hdf5 import Hdf5
from kdrift.data.formats.header import Encoding
from kdrift.data.formats.ismrmrd_doubts import check_grid, repeats, true_readout
from kdrift.data.formats.ismrmrd_epi import Ramp, check_trajectory, directions, phase_ramp, read_slab
from kdrift.data.formats.ismrmrd_geometry import read_geometry
from kdrift.data.formats.ismrmrd_lines import (
    CHOICES,
    DIMENSIONS,
    Grid,
    Lines,
    Roles,
    choose_lines,
    encoding_of,
    like_image,
    place_lines,
)
from kdrift.data.formats.ismrmrd_missing import missing_lines, missing_values, present_slices
from kdrift.data.formats.ismrmrd_table import (
    CALIBRATION,
    IMAGE,
    PHASE_CORRECTION,
    Table,
    count_roles,
    image_groups,
    noise_cov,
    noise_lines,
    noise_note,
    read_table,
    same_tables,
)
from kdrift.data.formats.kspace import check_partitions, slab_loader
from kdrift.data.formats.selection import check_names, ranges, taken_note
from kdrift.data.volume import (
    AS_THE_FILE_SAYS,
    Attr,
    BadVolume,
    BoolArray,
    Loader,
    ReadOptions,
    Volume,
    VolumeInfo,
    check_dims,
    naming,
)


def open_ismrmrd(source: Hdf5, name: str, groups: Sequence[str], how: ReadOptions = AS_THE_FILE_SAYS) -> Volume:
    """Open Cartesian ISMRMRD raw data as k-space `(slice, coil, row = readout, col = phase encoding)`.

    Of several groups the first with image lines is read, of several contrasts, phases, repetitions, sets and encoding
    spaces the first; `how.select` chooses others by `CHOICES`. Averages and repeated lines are averaged.
    Lines are used by their flags (see `choose_lines`): embedded calibration is part of the image, separate calibration
    is given for the coil maps, noise of the same coils (of another group where this one has none) gives `noise_cov`,
    scaled by the ratio of dwell times, phase-correction lines correct reversed lines of an EPI scan. Notes name what
    was taken and count what is not used. Lines are placed by `center_sample` and the centre of the encoding limits. A
    second phase encoding becomes slices by an inverse FFT. Lines that were not acquired are zero and make the mask;
    slices without lines are left out. Notes say which slices, lines, repetitions, ... the header states and are not
    there. The image is cut and its place is known by fields of view and acquisition headers, in mm.

    Slices that are numbered in another order than they lie are sorted by position. Opening reads the acquisition
    headers, and samples or trajectories of a few lines where these can contradict them. Raises BadVolume for missing
    keys, other trajectories, lines outside of the encoded matrix, a choice that is not there, or a hostile header.
    """
    path = source.path
    check_names(path, how, CHOICES)
    if how.axes is not None or how.centred is False:
        raise BadVolume(path, "ISMRMRD data say where their lines lie: leave out axes and centred")
    tables, notes = _read_tables(source, groups, how.select.get("group"))
    table = _choose_group(path, tables, how.select.get("group"))
    if others := [f"{other.group} ({count_roles(other.roles)})" for other in tables if other is not table]:
        notes.append(taken_note("group", table.group, len(tables), f" (others: {', '.join(others)})", "NAME"))
    if images := image_groups(source, table.group):
        notes.append(f"images in the group ({', '.join(images)}) are not used")
    with naming(path, "ISMRMRD acquisition headers cannot be read"):
        roles = choose_lines(table, how.select)
        encoding = encoding_of(table, roles.taken["encoding"])
        encoding, resized = true_readout(table, roles.image, encoding)
        grid, without = _grid(table, roles.image, encoding)
        placing = [*resized, *check_trajectory(path, encoding)]
        check_grid(table, roles.image, encoding)
        lines, odd = place_lines(table, roles.image, encoding, grid)
        _check_positions(table, lines, grid)
        placing += [*odd, *repeats(table, lines, grid)]
        num_slabs = len(grid.slices)
        field = image_field(encoding, grid.rows, grid.cols, grid.partitions)
        coils = roles.taken["channels"]
        check_dims(path, slices=num_slabs * field.depth, coils=coils, rows=grid.rows, columns=grid.cols)
        unmet = missing_lines(table, roles, encoding, grid, lines)
        ends_told = any("of second phase encoding" in note for note in unmet)
        patterns, which, unmeasured = _patterns(path, lines, grid, ends_told)
        ramp, navigators, correcting = _correction(table, roles, lines, grid)
        calibration, calibrating = _calibration(table, roles, grid, coils, field, ramp)
        lacking = [
            *without,
            *missing_values(table, roles, encoding),
            *unmet,
            *unmeasured,
        ]
        notes += [*roles.notes, *lacking, *placing, *calibrating, *correcting, *field.notes]
        info = _info(name, table, roles, encoding, lines, grid, field)
    if len(patterns) > 1:
        notes.append("slices are sampled at different positions: there is one mask a slice")
    dwell = float(table.heads["sample_time_us"][lines.index[0]])
    noise, told = _noise(tables, table, coils, dwell)
    used = np.concatenate([roles.image, roles.calibration, navigators])
    used = np.union1d(used, noise_lines(table, coils)) if noise is table else used
    if left := count_roles(np.delete(table.roles, used)):
        notes.append(f"not used: {left}")
    full = all(pattern.all() for pattern in patterns)
    groups_told = "; ".join(f"{each.group}: {count_roles(each.roles)}" for each in tables)
    info = replace(
        info, has_mask=not full, notes=(*notes, *told, *info.notes), attrs={**info.attrs, "groups": groups_told}
    )
    volume = Volume(
        path,
        info,
        slab_loader(read_slab(table, lines, grid, coils, ramp), grid.partitions, field.depth),
        load_mask=lambda: None if full else _mask(patterns, which, field.depth),
        load_calibration=calibration,
    )
    if noise is not None:
        volume.load_noise_cov = lambda: noise_cov(noise, coils, dwell)
    return volume


def _read_tables(source: Hdf5, groups: Sequence[str], wanted: str | None) -> tuple[list[Table], list[str]]:
    """Read all groups; one that cannot be read is a note, unless it is the only one or `wanted`."""
    if wanted is not None and wanted not in groups:
        raise BadVolume(source.path, f"group {wanted} is not there: the file has {', '.join(groups)}")
    tables, notes = [], []
    for group, other in same_tables(source, groups).items():
        if other is not None and group != wanted:
            notes.append(f"group {group} is group {other} under another name")
            continue
        try:
            tables.append(read_table(source, group))
        except BadVolume as error:
            if len(groups) == 1 or group == wanted:
                raise
            notes.append(f"group {group} cannot be read: {error.reason}")
    if not tables:
        raise BadVolume(source.path, "; ".join(notes))
    return tables, notes


def _choose_group(path: str, tables: Sequence[Table], wanted: str | None) -> Table:
    for table in tables:
        if table.is_role(IMAGE).any() and wanted in (None, table.group):
            return table
    held = "; ".join(f"group {table.group} holds {count_roles(table.roles) or 'nothing'}" for table in tables)
    raise BadVolume(path, f"there are no image lines{f' in group {wanted}' if wanted else ''}: {held}")


def _grid(table: Table, image: npt.NDArray[np.int64], encoding: Encoding) -> tuple[Grid, list[str]]:
    """Return the encoded matrix, and notes on slices that are missing; it has partitions only where lines step through
    them.
    """
    path = table.source.path
    if encoding.encoded is None:
        raise BadVolume(path, "ISMRMRD header has no encodedSpace matrix size")
    rows, cols, partitions = encoding.encoded
    steps = np.unique(table.heads["idx"]["kspace_encode_step_2"][image])
    if partitions == 1 and len(steps) > 1:
        raise BadVolume(path, f"lines have kspace_encode_step_2 {ranges(steps)}, the encoded matrix has z = 1")
    slices, notes = present_slices(table, image, encoding)
    grid = Grid(rows, cols, partitions if len(steps) > 1 else 1, slices)
    check_dims(path, partitions=1, rows=rows * grid.partitions, columns=cols)  # the pattern is held in memory
    return grid, notes


def _check_positions(table: Table, lines: Lines, grid: Grid) -> None:
    """Raise BadVolume where lines of one slice number lie at different places: they are no repeats of each other."""
    places = np.round(table.heads["position"][lines.index].astype(np.float64), 2)
    places = np.where(np.isfinite(places), places, 0)  # which the geometry says itself
    for slab in np.unique(lines.slab):
        found = np.unique(places[lines.slab == slab], axis=0)
        if len(found) > 1:
            raise BadVolume(
                table.source.path,
                f"lines of slice {grid.slices[slab]} lie at {len(found)} positions, expected one: their idx.slice does"
                " not tell the slices apart; number it by position",
            )


def _patterns(path: str, lines: Lines, grid: Grid, ends_told: bool) -> tuple[list[BoolArray], list[int], list[str]]:
    """Return the different sampling patterns `(row, col)` of slabs, which of them each slab has, and notes."""
    known: dict[bytes, int] = {}
    members: list[npt.NDArray[np.int64]] = []
    which = []
    order = np.argsort(lines.slab, kind="stable")
    for slab in np.split(order, np.flatnonzero(np.diff(lines.slab[order])) + 1):
        places = np.stack([lines.partition[slab], lines.col[slab], lines.first_row[slab], lines.kept[slab]], axis=1)
        key = np.unique(places, axis=0).tobytes()
        if key not in known:
            known[key] = len(members)
            members.append(slab)
        which.append(known[key])
    check_dims(path, patterns=1, rows=len(members) * grid.rows * grid.partitions, columns=grid.cols)
    patterns, notes = [], list[str]()
    for slab in members:
        sampled = np.zeros((grid.partitions, grid.rows, grid.cols), dtype=bool)
        for line in slab.tolist():
            sampled[lines.place(line)] = True
        pattern, unmeasured = check_partitions(path, sampled, ends_told)
        patterns.append(pattern)
        notes += unmeasured
    return patterns, which, list(dict.fromkeys(notes))


def _mask(patterns: Sequence[BoolArray], which: Sequence[int], depth: int) -> BoolArray:
    """Return `(col,)` or `(row, col)` where all slices are sampled alike, else `(slice, row, col)`."""
    if len(patterns) > 1:
        return np.stack([patterns[number] for number in which for _ in range(depth)])
    pattern = patterns[0]
    return np.asarray(pattern[0] if (pattern == pattern[0]).all() else pattern)


def _correction(
    table: Table, roles: Roles, lines: Lines, grid: Grid
) -> tuple[Ramp | None, npt.NDArray[np.int64], list[str]]:
    """Return the phase correction of reversed lines, the acquisitions that it comes from, and what is to be said."""
    none = np.zeros(0, dtype=np.int64)
    mixed = sorted(slab for slab, both in directions(lines).items() if both)
    if not mixed:
        return None, none, []
    found = np.flatnonzero(like_image(table, table.is_role(PHASE_CORRECTION), roles.taken))
    encoding = encoding_of(table, roles.taken["encoding"])
    navigators, notes = place_lines(table, found, encoding, grid, PHASE_CORRECTION)
    corrected = [slab for slab, both in directions(navigators).items() if both and slab in mixed]
    if len(corrected) < len(mixed):
        which = "" if not corrected else f" in slices {ranges(np.sort(grid.slices[np.setdiff1d(mixed, corrected)]))}"
        notes.append(
            f"lines of both readout directions are in the image without phase-correction lines of both{which}:"
            " a ghost may be left"
        )
    if not corrected:
        return None, none, notes
    notes.append(f"the phase of reversed lines is corrected by {len(found)} phase-correction lines")
    return phase_ramp(table, navigators, grid), found, notes


def _calibration(
    table: Table, roles: Roles, grid: Grid, coils: int, field: ImageField, ramp: Ramp | None
) -> tuple[Loader | None, list[str]]:
    """Return the loader of calibration lines for the coil maps alone, None where there are none, and notes."""
    if len(roles.calibration) == 0:
        return None, []
    number = int(table.heads["encoding_space_ref"][roles.calibration[0]])
    encoding = encoding_of(table, number)
    lines, notes = place_lines(table, roles.calibration, encoding, grid, CALIBRATION)
    if len(lines.index) == 0:
        return None, notes
    if len(missing := np.setdiff1d(grid.slices, grid.slices[lines.slab])):
        notes.append(f"slices {ranges(missing)} have no calibration lines")
    return slab_loader(read_slab(table, lines, grid, coils, ramp), grid.partitions, field.depth), notes


def _noise(tables: Sequence[Table], own: Table, coils: int, dwell: float) -> tuple[Table | None, list[str]]:
    """Return the table whose noise is that of the coils, its own first, and notes."""
    for table in sorted(tables, key=lambda table: table is not own):
        if count := len(noise_lines(table, coils)):
            told = f"noise is measured in group {table.group}, by {count} line{'s' if count > 1 else ''}"
            return table, [*([told] if table is not own else []), *noise_note(table, coils, dwell)]
    return None, []


def _info(
    name: str, table: Table, roles: Roles, encoding: Encoding, lines: Lines, grid: Grid, field: ImageField
) -> VolumeInfo:
    attrs: dict[str, Attr] = {"source_format": "ismrmrd", **table.header.attrs}
    if "protocol" in attrs:
        attrs["acquisition"] = attrs["protocol"]
    attrs |= {f"{dimension}_values": ranges(roles.there[dimension]) for dimension in DIMENSIONS}
    geometry, notes = None, tuple[str, ...]()
    _, first = np.unique(lines.slab, return_index=True)
    if field.voxel_mm is not None:
        row_mm, col_mm, slice_mm = field.voxel_mm
        attrs["fov_mm"] = f"{row_mm * field.rows:g} x {col_mm * field.cols:g} x {slice_mm:g}"
        geometry, notes = read_geometry(table.heads[lines.index[first]], field.voxel_mm, field.depth)
    return VolumeInfo(
        name, "kspace", len(first) * field.depth, roles.taken["channels"], grid.rows, grid.cols, field.rows,
        field.cols, attrs=attrs, geometry=geometry, notes=notes,
    )  # fmt: skip
