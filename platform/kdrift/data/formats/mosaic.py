"""Siemens mosaics: the slices of one time point as tiles of one image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from kdrift.data.volume import BadVolume, naming

_MOST_ACROSS = 64
_COUNT, _CSA = (0x0019, 0x100A), (0x0029, 0x1010)


@dataclass(frozen=True)
class Mosaic:
    """How an image is divided."""

    images: int
    """Tiles that hold an image; the last ones may be empty."""
    across: int
    """Tiles in a row, and in a column."""
    normal: tuple[float, ...]
    """Direction from slice to slice (LPS); empty: not stated."""


def read_mosaic(file: str, header: Any) -> Mosaic:
    """Return how the mosaic of a Siemens header is divided, by its number of images.

    Raises BadVolume where the number is not stated, or the image cannot be divided so.
    """
    csa = _csa(file, header)
    counts = csa.get("NumberOfImagesInMosaic") or ([header[_COUNT].value] if _COUNT in header else [])
    images = int(counts[0]) if counts and isinstance(counts[0], (int, float)) else 0
    if images < 1:
        raise BadVolume(
            file,
            "image is a Siemens mosaic, and its header does not say of how many images (the number in its private tags"
            " is gone): it cannot be divided; convert it where the scan was made",
        )
    across = math.ceil(math.sqrt(images))
    if across > _MOST_ACROSS or int(header.Rows) % across or int(header.Columns) % across:
        raise BadVolume(
            file, f"mosaic of {images} images is {header.Rows}x{header.Columns}, not {across} x {across} tiles"
        )
    normal = csa.get("SliceNormalVector") or ()
    return Mosaic(images, across, tuple(float(x) for x in normal) if len(normal) == 3 else ())


def _csa(file: str, header: Any) -> dict[str, Any]:
    """Return the items of the Siemens CSA header, none where there is none."""
    if _CSA not in header or not isinstance(header[_CSA].value, bytes):
        return {}
    try:
        from nibabel.nicom import csareader
    except ImportError:
        raise ValueError("reading Siemens mosaics needs nibabel: pip install 'kdrift[nifti]'") from None
    with naming(file, "its Siemens (CSA) header cannot be read"):
        tags = csareader.read(header[_CSA].value)["tags"]
        return {name: tags[name]["items"] for name in ("NumberOfImagesInMosaic", "SliceNormalVector") if name in tags}
