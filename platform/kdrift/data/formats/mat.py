"""MATLAB files, v5 and v7.3 (HDF5), above all those of CMRxRecon.

Layout: "ChallengeDataFormat" of the CMRxRecon challenges 2023 and 2024.
"""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from kdrift.data.centring import from_corner, mask_from_corner
from kdrift.data.formats.arrange import unsaid_axes
from kdrift.data.formats.beside import check_beside
from kdrift.data.formats.hdf5 import Hdf5, keys
from kdrift.data.formats.mat_variables import Variable, variables_of, variables_v5, variables_v73
from kdrift.data.formats.selection import check_names, selected_index, taken_note
from kdrift.data.images import ImageInfo, image_volume
from kdrift.data.volume import (
    AS_THE_FILE_SAYS,
    Attr,
    BadVolume,
    BoolArray,
    ReadOptions,
    Volume,
    VolumeInfo,
    check_dims,
    naming,
)

_KSPACE = re.compile(r"(kspace|ksp$|kus$|kdata$)", re.IGNORECASE)
_IMAGE = re.compile(r"(?!.*ksp)(im|rec)", re.IGNORECASE)
_MASK = re.compile(r"mask", re.IGNORECASE)


def open_mat(path: str, name: str, how: ReadOptions = AS_THE_FILE_SAYS) -> Volume:
    """Open a MATLAB v5 file as `matlab_volume` says; v7.3 files are HDF5 and opened as such.

    The variable that is read is held in memory: v5 compresses each as a whole.
    """
    with naming(path, "not a readable MATLAB file"):
        return matlab_volume(path, name, variables_v5(path), how)


def is_matlab(source: Hdf5) -> bool:
    """Return whether an HDF5 file comes from MATLAB, or has the variables of CMRxRecon."""
    if source.read_at(0, 6) == b"MATLAB":
        return True
    names = keys(source)
    return "kspace" not in names and any(key == "kus" or key.startswith("kspace_") for key in names)


def open_matlab_hdf5(source: Hdf5, name: str, how: ReadOptions = AS_THE_FILE_SAYS) -> Volume:
    """Open a MATLAB v7.3 file as `matlab_volume` says: HDF5, axes reversed, complex as records of real and imag."""
    return matlab_volume(source.path, name, variables_v73(source), how)


def matlab_volume(path: str, name: str, variables: list[Variable], how: ReadOptions) -> Volume:
    """Return the volume of one variable.

    K-space has a name that begins with `kspace`, or is `kus`; `select` chooses another `variable`, and a file with one
    array needs no name. Axes, in MATLAB's order: k-space `(row, col, coil, slice, time)`, with `single` in the name
    `(row, col, slice, time)`; images (a name that begins with `im` or `rec`, or real values) `(row, col, slice, time)`;
    MATLAB leaves out trailing axes of one. `how.axes` states others, and what it does not name, at the end, is time.
    `select` chooses the `time`, from 0. K-space is centred unless `how.centred` says no. A `mask` `(row, col)` or
    `(row, col, time)` in the file, or in `<stem>_mask.mat` beside it (CMRxRecon 2023), says what was measured.

    Raises BadVolume for variables that leave open what is meant, and for other shapes.
    """
    check_names(path, how, ("variable", "time", "values"))
    check_beside(path, [each.name for each in variables], ())
    unread = [each for each in variables if each.unread]
    variables = [each for each in variables if not each.unread]
    variable, notes = _choose(path, variables, unread, how)
    if unread:
        notes += (f"not read: {_listed(unread)}",)
    has_phase = variable.is_complex
    is_image = not has_phase or bool(_IMAGE.match(variable.name))
    axes = _axes(path, variable, is_image, how)
    if how.axes is None and not is_image and "single" not in variable.name.lower():
        notes += unsaid_axes(axes, variable.shape)
    sizes = dict(zip(axes, variable.shape, strict=True))
    times = sizes.get("time", 1)
    time = selected_index(path, how, "time", times)
    notes += (taken_note("time", time, times),) if times > 1 else ()
    rows, cols, coils, slices = (sizes.get(axis, 1) for axis in ("row", "col", "coil", "slice"))
    check_dims(path, slices=slices, coils=coils, rows=rows, columns=cols)

    def load(start: int, stop: int) -> npt.NDArray[Any]:
        part = {"slice": slice(start, stop), "time": time}
        values = variable.read(tuple(part.get(axis, slice(None)) for axis in axes))
        kept = [axis for axis in axes if axis != "time"]
        order = [kept.index(axis) for axis in ("slice", "coil", "row", "col") if axis in kept]
        return values.transpose(order).reshape(stop - start, coils, rows, cols)

    if is_image:
        attrs: dict[str, Attr] = {"source_format": "matlab", "variable": variable.name}
        shape = (slices, rows, cols)
        image = ImageInfo(name, shape, attrs, notes=notes, has_phase=has_phase, axes_known=how.axes is not None)
        return image_volume(path, image, lambda start, stop: load(start, stop)[:, 0], any_values=how.any_values)

    centre = None
    if how.centred is False:
        centre, doubts = from_corner(load(slices // 2, slices // 2 + 1)[0])
        notes += doubts

    def load_kspace(start: int, stop: int) -> npt.NDArray[Any]:
        return load(start, stop) if centre is None else centre(load(start, stop))

    _refuse_unread_mask(path, unread, variables)
    mask, said = _mask(path, variable, variables, (rows, cols), time)
    if mask is not None and how.centred is False:
        mask = mask_from_corner(mask)
    info = VolumeInfo(
        name, "kspace", slices, coils, rows, cols, rows, cols, has_mask=mask is not None,
        attrs={"source_format": "matlab", "variable": variable.name}, notes=(*notes, *said),
    )  # fmt: skip
    return Volume(path, info, load_kspace, load_mask=lambda: mask, names=tuple(axes))


def _listed(unread: list[Variable]) -> str:
    return ", ".join(f"{each.name} ({each.unread})" for each in unread)


def _refuse_unread_mask(path: str, unread: list[Variable], variables: list[Variable]) -> None:
    """Raise BadVolume where the only masks there are cannot be read: they may say what was measured."""
    masks = [each for each in unread if _MASK.search(each.name) and each.unread != "text"]
    if masks and not any(_MASK.match(each.name) for each in variables):
        raise BadVolume(path, f"{_listed(masks)} cannot be read as a mask: save it as an array of numbers")


def _choose(
    path: str, variables: list[Variable], unread: list[Variable], how: ReadOptions
) -> tuple[Variable, tuple[str, ...]]:
    """Return the variable to read, and a note where there are several and none was chosen."""
    arrays = [each for each in variables if sum(n > 1 for n in each.shape) > 1]
    listed = ", ".join(f"{each.name} {each.shape}" for each in arrays) or "no numeric array"
    listed += f"; not read: {_listed(unread)}" if unread else ""
    if "variable" in how.select:
        wanted = [each for each in arrays if each.name == how.select["variable"]]
        if not wanted:
            raise BadVolume(path, f"has no array {how.select['variable']!r}; it has {listed}")
        return wanted[0], ()
    others = [each for each in arrays if not _MASK.match(each.name)]
    if arrays and not others:
        raise BadVolume(path, f"holds sampling masks alone ({listed}): they belong to k-space, reconstruct --mask FILE")
    named = [each for each in others if _KSPACE.match(each.name)]
    found = named or others
    if len(found) != 1:
        raise BadVolume(
            path, f"found {listed}, expected one array, or one named kspace...; --select variable=NAME chooses"
        )
    if len(others) == 1:
        return found[0], ()
    detail = f" ({', '.join(each.name for each in others)})"
    return found[0], (taken_note("variable", found[0].name, len(others), detail, "NAME"),)


def _axes(path: str, variable: Variable, is_image: bool, how: ReadOptions) -> tuple[str, ...]:
    """Return the names of the axes of a variable."""
    dims = len(variable.shape)
    if is_image or "single" in variable.name.lower():
        usual: tuple[str, ...] = ("row", "col", "slice", "time")
    else:
        usual = ("row", "col", "coil", "slice", "time")
    axes = usual[:dims] if how.axes is None else (*how.axes, *("time",) * (dims - len(how.axes)))
    fits = len(axes) == dims == len(set(axes)) and {"row", "col"} <= set(axes) and not (is_image and "coil" in axes)
    if not fits:
        expected = f"({', '.join(usual)})" if how.axes is None else f"axes {','.join(how.axes)} and then time"
        raise BadVolume(path, f"{variable.name} has shape {variable.shape}, expected {expected}; --axes states others")
    return axes


def _mask(
    path: str, kspace: Variable, variables: list[Variable], shape: tuple[int, int], time: int
) -> tuple[BoolArray | None, tuple[str, ...]]:
    """Return the mask that belongs to k-space, `(col,)` or `(row, col)`, and a note where it is of another file."""
    masks = [each for each in variables if _MASK.match(each.name)]
    notes: tuple[str, ...] = ()
    beside = f"{os.path.splitext(path)[0]}_mask.mat"
    if not masks and "full" not in kspace.name and os.path.isfile(beside) and not os.path.islink(beside):
        masks, notes = variables_of(beside), (f"the sampling mask is that of {os.path.basename(beside)}",)
        if (others := [each for each in masks if each.unread]) and len(others) == len(masks):
            raise BadVolume(path, f"{os.path.basename(beside)} holds no array of numbers: {_listed(others)}")
        masks = [each for each in masks if not each.unread]
    factor = re.search(r"\d+$", kspace.name)
    if len(masks) > 1 and factor is not None:
        masks = [each for each in masks if each.name.endswith(factor.group())]
    if not masks:
        return None, ()
    if len(masks) > 1:
        names = ", ".join(each.name for each in masks)
        return None, (f"{names}: which mask belongs to {kspace.name} is not said, so none is used",)
    mask = masks[0]
    rows, cols = shape
    plane, fits = mask.shape[:2], (shape, (1, cols), (rows, 1), (cols, 1))
    if plane not in fits or len(mask.shape) > 3 or mask.is_complex:
        raise BadVolume(
            path,
            f"{mask.name} has shape {mask.shape}, expected {shape}, (1, {cols}), ({rows}, 1) or {(*shape, 'time')}",
        )
    which = (time,) if len(mask.shape) == 3 and mask.shape[2] > 1 else (0,) * (len(mask.shape) - 2)
    if which and which[0] >= mask.shape[2]:
        raise BadVolume(path, f"{mask.name} has {mask.shape[2]} times, time {time} was chosen")
    values = mask.read((slice(None), slice(None), *which)) != 0
    if not values.any():
        raise BadVolume(path, f"{mask.name} samples nothing")
    if plane == (rows, 1) and rows == cols > 1:
        along = f"along the rows, as MATLAB multiplies it; along the columns it is (1, {cols})"
        notes += (f"{mask.name} {plane} is taken {along}",)
    elif plane == (cols, 1):  # every vector has two axes in MATLAB
        values = values.T
    values = np.broadcast_to(values, shape)
    return np.array(values[0] if (values == values[0]).all() else values), notes
