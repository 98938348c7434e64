"""Arrays whose axes come in any order: read as k-space `(slice, coil, row, col)` or images `(slice, row, col)`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kdrift.data.centring import Centre, from_corner, mask_from_corner
from kdrift.data.measured import as_mask
from kdrift.data.volume import AXES, BadVolume, BoolArray, ReadOptions, check_dims

IMAGE_AXES = ("slice", "row", "col")
Names = tuple[str | None, ...]
_PLURAL = {"slice": "slices", "coil": "coils", "row": "rows", "col": "columns"}


@dataclass(frozen=True)
class Arranged:
    """An array, or what has its `shape` and is sliced like one, with its axes in our order; slicing it reads."""

    source: Any
    names: Names
    """Name of each stored axis; None for one of length 1 that has none."""
    order: tuple[str, ...]
    """`AXES` or `IMAGE_AXES`."""
    centre: Centre | None = None
    """What brings zero frequency to the middle; None: it is stored there."""
    notes: tuple[str, ...] = ()
    """What is doubtful about that."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes in our order; 1 for an axis that is not stored."""
        sizes = dict(zip(self.names, self.source.shape, strict=True))
        return tuple(sizes.get(name, 1) for name in self.order)

    def __getitem__(self, items: slice) -> npt.NDArray[Any]:
        """Read slices `start:stop`."""
        index = tuple(items if name == "slice" else slice(None) for name in self.names)
        values = ordered(np.asarray(self.source[index]), self.names, self.order)
        return values if self.centre is None else self.centre(values)


def arrange(
    path: str, key: str, source: Any, default: tuple[str, ...], how: ReadOptions, *,
    known: bool = False, images: bool = False,
) -> Arranged:  # fmt: skip
    """Return an array with its axes in our order: those that were stated, else `default`, the last ones of these first.

    Complex values are k-space unless they are said to be `images`, others images. Where neither the request nor the
    file (`known`) says which axes of k-space have coils and which slices, a note says what was assumed. Raises
    BadVolume for another number of axes, names that do not fit, and sizes that no scan has.
    """
    is_kspace = source.dtype.kind == "c" and not images
    order = AXES if is_kspace else IMAGE_AXES
    stated = how.axes is not None
    names = how.axes if how.axes is not None else default[max(0, len(default) - len(source.shape)) :]
    if stated and not is_kspace:
        names = tuple(name for name in names if name != "coil")
    if not {"row", "col"} <= set(names):
        raise BadVolume(path, f"axes {','.join(names)} name no row and col: an image has both")
    placed = _placed(source.shape, names)
    if placed is None:
        raise BadVolume(path, f"{key} has shape {source.shape}, the axes {','.join(names)} are {len(names)}")
    unsaid = is_kspace and not stated and not known
    notes = unsaid_axes(placed, source.shape) if unsaid else ()
    found = Arranged(source, placed, order, notes=notes)
    check_dims(path, **{_PLURAL[name]: size for name, size in zip(order, found.shape, strict=True)})
    return centred(found, how) if is_kspace else found


def unsaid_axes(names: Names, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return the note on three axes that were taken as those of one slice or of one coil, and on four with both."""
    taken = [str(name) for name in names]
    others = ",".join({"slice": "coil", "coil": "slice"}.get(name, name) for name in taken)
    if 1 in shape or set(taken) - set(AXES):
        return ()
    if len(taken) == 4:
        slices, coils = (shape[taken.index(name)] for name in ("slice", "coil"))
        told = f"4 axes were taken as {','.join(taken)}, {slices} slices of {coils} coils"
        return (f"{told}; if they stand in another order, such as {others}, say it by --axes",)
    if len(taken) != 3:
        return ()
    one, other = ("coil", "slice") if "coil" in taken else ("slice", "coil")
    return (
        f"3 axes were taken as {','.join(taken)}, {one}s of one {other}; if they are {other}s, say --axes {others}",
    )


def centred(kspace: Arranged, how: ReadOptions) -> Arranged:
    """Return k-space, brought to the middle where `how` states that it is not there, for which one slice is read."""
    if how.centred is not False:
        return kspace
    middle = kspace.shape[0] // 2
    centre, notes = from_corner(kspace[middle : middle + 1][0])
    return replace(kspace, centre=centre, notes=(*kspace.notes, *notes))


def arrange_mask(values: npt.NDArray[Any], names: Names, shape: tuple[int, ...], *, centred: bool = True) -> BoolArray:
    """Return a mask as `as_mask` does, of k-space of `shape` (slice, coil, row, col) that is stored with axes `names`.

    The mask has the same order of axes, without coils, and without slices where it serves all; an axis of length 1
    stands for all of it. With zero frequency at the corner of k-space, it is at the corner of the mask.

    Raises ValueError as `as_mask`, and for one axis alone that is as long as rows and as columns, where columns are not
    the last axis.
    """
    num_slices, _, rows, cols = shape
    stated = tuple(name for name in names if name is not None)
    if stated != tuple(name for name in AXES if name in stated):
        values = _reordered(values, stated, dict(zip(AXES, shape, strict=True)))
    mask = as_mask(values, num_slices, rows, cols)
    return mask if centred else mask_from_corner(mask)


def arrange_image(source: Any, like: Arranged) -> Arranged:
    """Return images that are stored with their axes in the order of the k-space `like`."""
    names = _placed(source.shape, tuple(name for name in like.names if name not in (None, "coil")))
    default = IMAGE_AXES[max(0, 3 - len(source.shape)) :]
    if names is None and len(default) == len(source.shape):
        names = default
    if names is None or Arranged(source, names, IMAGE_AXES).shape != (like.shape[0], *like.shape[2:]):
        num_slices, _, rows, cols = like.shape
        raise ValueError(f"reference is {source.dtype} {source.shape}, expected real ({num_slices}, {rows}, {cols})")
    return Arranged(source, names, IMAGE_AXES)


def ordered(values: npt.NDArray[Any], names: Names, order: tuple[str, ...]) -> npt.NDArray[Any]:
    """Return an array with its named axes in `order`, axes of length 1 for those that are missing."""
    present = [name for name in names if name is not None]
    sizes = [size for size, name in zip(values.shape, names, strict=True) if name is not None]
    values = values.reshape(sizes).transpose([present.index(name) for name in order if name in present])
    return np.expand_dims(values, tuple(place for place, name in enumerate(order) if name not in present))


def _placed(shape: tuple[int, ...], names: Names) -> Names | None:
    """Return a name for each axis; where there are more axes than names, those of length 1 have none."""
    if len(names) == len(shape):
        return names
    if len(names) != sum(size != 1 for size in shape):
        return None
    left = iter(names)
    return tuple(next(left) if size != 1 else None for size in shape)


def _reordered(values: npt.NDArray[Any], stated: tuple[str, ...], sizes: Mapping[str, int]) -> npt.NDArray[Any]:
    """Return a mask whose axes are some of those that were stated, in that order, as `([slice,] row, col)`."""
    for left_out in ((), ("coil",), ("coil", "slice")):
        names = tuple(name for name in stated if name not in left_out)
        allowed = ((1,) if name == "coil" else (1, sizes[name]) for name in names)
        if values.ndim == len(names) and all(size in fit for size, fit in zip(values.shape, allowed, strict=True)):
            found = ordered(values, names, ("coil", *IMAGE_AXES))[0]
            plane = np.broadcast_to(found, (len(found), sizes["row"], sizes["col"]))
            return plane[0] if len(plane) == 1 else plane
    if values.ndim == 1 and len(values) == sizes["row"] == sizes["col"] and stated.index("col") < stated.index("row"):
        n = len(values)
        raise ValueError(
            f"mask has shape ({n},), and rows and columns of k-space with axes {','.join(stated)} are as many: store it"
            f" as ({n}, 1) where it marks columns, as (1, {n}) where it marks rows"
        )
    return values
