"""BART output: `mean.cfl` and `.hdr`, and likewise `std`, `lower` and `upper`; it has no room for a verdict."""

from __future__ import annotations

from pathlib import Path

from kdrift.data.formats.bart import write_bart
from kdrift.recon.outputs.image_set import ImageSet


def write_bart_images(folder: Path, images: ImageSet) -> list[str]:
    """Write each kind of image as a BART pair: rows in dimension 0, columns in 1, slices in 13, no geometry."""
    for kind, values in images.images.items():
        write_bart(folder / kind, values[:, None])
    return [f"{kind}.{suffix}" for kind in images.images for suffix in ("cfl", "hdr")]
