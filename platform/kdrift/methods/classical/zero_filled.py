"""Zero-filled reconstruction: no prior, what every other method is measured from."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from kdrift.methods.classical.sigpy_app import checked_maps, coil_images


def zero_filled(
    kspace: Tensor,
    mask: Tensor,
    smaps: Tensor | None = None,
    *,
    weight: float = 0.0,
    max_iter: int = 1,
    combination: Literal["sense", "rss"] = "sense",
) -> Tensor:
    """S^H F^-1 M y, or the root sum of squares of the coil images (as complex numbers with phase zero).

    kspace (coil, row, col), mask (row, col), smaps (coil, row, col) -> image (row, col). `weight` and
    `max_iter` are there because every baseline is called alike; a direct method has nothing to weigh or
    iterate.
    """
    maps = checked_maps(kspace, mask, smaps) if combination == "sense" else None
    images = coil_images(kspace, mask)
    if maps is None:
        return images.abs().square().sum(0).sqrt().to(kspace.dtype)
    return (maps.conj() * images).sum(0)
