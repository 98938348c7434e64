"""Volumes of images: what their readers know, and the one rule for their values."""

from __future__ import annotations

from dataclasses import dataclass

from kdrift.data.geometry import Geometry
from kdrift.data.magnitude import NoMagnitudes, as_magnitudes
from kdrift.data.volume import Attr, BadVolume, Loader, Volume, VolumeInfo, check_dims, naming


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


def image_volume(path: str, image: ImageInfo, load: Loader, *, any_values: bool = False) -> Volume:
    """Return a volume of images; `load` gives them `(slice, row, col)`.

    Raises `BadVolume` for an impossible shape and, unless `any_values` or `image.has_phase`, for values that are no
    magnitudes: three slices are read for that.
    """
    num_slices, rows, cols = image.shape
    check_dims(path, slices=num_slices, rows=rows, columns=cols)
    checked, doubts = load, tuple[str, ...]()
    if not (any_values or image.has_phase):
        with naming(path, "images cannot be read"):
            try:
                checked, doubts = as_magnitudes(load, num_slices)
            except NoMagnitudes as error:
                raise BadVolume(path, str(error)) from None
    info = VolumeInfo(
        image.name, "image", num_slices, 1, rows, cols, rows, cols, has_phase=image.has_phase, attrs=image.attrs,
        geometry=image.geometry, notes=(*image.notes, *doubts),
    )  # fmt: skip
    if image.has_phase:
        return Volume(path, info, load_complex_image=load)
    return Volume(path, info, load_image=checked)
