"""Volumes of images: what their readers know, and the one rule for their values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdrift.data.geometry import Geometry
from kdrift.data.magnitude import NoMagnitudes, as_magnitudes
from kdrift.data.volume import Attr, BadVolume, Loader, Volume, VolumeInfo, check_dims, naming

_COLOURS = (3, 4)
_THIN = 3
"""Images are thin where one axis has less than one such part of the pixels of the other, and of the slices."""


@dataclass(frozen=True)
class ImageInfo:
    """What a reader of images knows."""

    name: str
    shape: tuple[int, ...]
    """(slice, row, col)."""
    attrs: dict[str, Attr]
    geometry: Geometry | None = None
    notes: tuple[str, ...] = ()
    has_phase: bool = False
    """Whether the images are complex."""
    axes_known: bool = False
    """Whether the order of axes was stated, by the format or by who reads it; else its shape is doubted."""


def image_volume(path: str, image: ImageInfo, load: Loader, *, any_values: bool = False) -> Volume:
    """Return a volume of images; `load` gives them `(slice, row, col)`.

    Raises `BadVolume` for an impossible shape, for colours and, unless `any_values` or `image.has_phase`, for values
    that are no magnitudes: three slices are read for that.
    """
    num_slices, rows, cols = image.shape
    check_dims(path, slices=num_slices, rows=rows, columns=cols)
    shape_notes = () if image.axes_known else _shape_notes(path, image.shape, load)
    checked, doubts = load, tuple[str, ...]()
    if not (any_values or image.has_phase):
        with naming(path, "images cannot be read"):
            try:
                checked, doubts = as_magnitudes(load, num_slices)
            except NoMagnitudes as error:
                raise BadVolume(path, str(error)) from None
    info = VolumeInfo(
        image.name, "image", num_slices, 1, rows, cols, rows, cols, has_phase=image.has_phase, attrs=image.attrs,
        geometry=image.geometry, notes=(*image.notes, *shape_notes, *doubts),
    )  # fmt: skip
    if image.has_phase:
        return Volume(path, info, load_complex_image=load)
    return Volume(path, info, load_image=checked)


def _shape_notes(path: str, shape: tuple[int, ...], load: Loader) -> tuple[str, ...]:
    """Return notes on a shape that another order of axes would give; raise `BadVolume` for colours as columns."""
    num_slices, rows, cols = shape
    fewer, more = sorted((rows, cols))
    if min(fewer, num_slices) in _COLOURS:
        with naming(path, "images cannot be read"):
            is_byte = load(0, 1).dtype == np.uint8
        if is_byte and cols in _COLOURS and cols < min(num_slices, rows):
            raise BadVolume(
                path,
                f"uint8 with a last axis of {cols} is a colour image (RGB), expected grey values (slice, row, col);"
                " where these are slices, --axes row,col,slice says so",
            )
        if is_byte and num_slices in _COLOURS and num_slices < fewer:
            return (f"uint8 and {num_slices} slices: or is it one colour image (RGB)?",)
    if _THIN * fewer < min(more, num_slices):
        return (
            f"its {num_slices} images have {rows} x {cols} pixels: is the axis of {fewer} that of slices or channels?"
            " --axes states the order, such as row,col,slice or slice,row,col",
        )
    return ()
