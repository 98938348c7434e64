"""Regions that are named for a reconstruction: boxes and files, placed on the images before anything is computed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdrift.data.formats import open_volume
from kdrift.data.geometry import Matrix
from kdrift.data.volume import ReadOptions
from kdrift.recon.acquisition import AcquisitionFacts
from kdrift.recon.outputs.image_set import place_of
from kdrift.recon.regions import Region
from kdrift.recon.result import ReconstructionResult

_BOX = re.compile(r"(\d*):(\d*),(\d*):(\d*)")
_NIFTI = (".nii", ".nii.gz")
_MOST_LABELS = 200
_OFF_GRID = 0.1
"""Voxels that two grids may be apart and still be one."""
Labels = npt.NDArray[np.int64]


def acquired_regions(texts: Sequence[str], acquisition: AcquisitionFacts) -> list[Region]:
    """Return the regions of `read_regions` for the slices of an acquisition, on the matrix of its k-space."""
    (rows, cols), shape = acquisition.mask.shape[-2:], acquisition.image_shape
    affine = place_of(acquisition.info, *shape)[0].affine_lps(*shape)
    found = read_regions(texts, shape, acquisition.slice_indices, acquisition.info.num_slices, affine)
    top, left = rows // 2 - shape[0] // 2, cols // 2 - shape[1] // 2  # as `centre_crop` cuts
    placed = []
    for region in found:
        mask = torch.zeros(len(region.mask), rows, cols, dtype=torch.bool)
        mask[:, top : top + shape[0], left : left + shape[1]] = region.mask
        placed.append(replace(region, mask=mask))
    return placed


def with_regions(
    result: ReconstructionResult, regions: Sequence[Region], *, keep_samples: bool
) -> ReconstructionResult:
    """Return a result with the means over regions; samples that were kept for these alone are dropped."""
    if not regions:
        return result
    found = tuple(replace(region, means=tuple(result.region(region.mask))) for region in regions)
    return replace(result, regions=found, samples=result.samples if keep_samples else None)


def read_regions(
    texts: Sequence[str], shape: tuple[int, int], slices: Sequence[int], num_slices: int, affine_lps: Matrix
) -> list[Region]:
    """Read regions of images as they are written.

    Parameters
    ----------
    texts
        `R0:R1,C0:C1`, rows R0 to R1 - 1 and columns likewise, or a file with a mask or labels, whose values above 0 are
        a region each: `.npy` with axes ([slice,] row, col), or NIfTI on the grid of the images.
    shape
        Rows and columns of the images.
    slices, num_slices
        Numbers of the slices that are reconstructed, and how many the volume has.
    affine_lps
        From (row, col, slice number, 1) to mm (LPS).

    Raises
    ------
    ValueError
        A region that is empty, reaches outside of the images, or cannot be read.
    """
    found = []
    for text in dict.fromkeys(texts):
        box = _BOX.fullmatch(text.replace(" ", ""))
        if box is not None:
            found.append(Region(text, _box(text, box.groups(), shape).expand(len(slices), *shape)))
            continue
        if not Path(text).is_file():
            raise ValueError(f"region {text!r} is no file, and not R0:R1,C0:C1 (rows, columns of the image)")
        if text.lower().endswith(_NIFTI):
            labels = _of_nifti(text, shape, slices, num_slices, affine_lps)
        elif text.lower().endswith(".npy"):
            labels = _of_numpy(text, shape, slices, num_slices)
        else:
            raise ValueError(f"region {text}: expected a mask or labels in .npy, .nii or .nii.gz")
        found += _by_label(text, labels)
    return found


def _box(text: str, ends: Sequence[str], shape: tuple[int, int]) -> Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    spans = [(int(a or 0), int(b or size)) for a, b, size in zip(ends[::2], ends[1::2], shape, strict=True)]
    if any(start >= stop for start, stop in spans):
        raise ValueError(f"region {text} is empty: expected R0:R1,C0:C1 with R0 below R1 and C0 below C1")
    if any(stop > size for (_, stop), size in zip(spans, shape, strict=True)):
        raise ValueError(
            f"region {text} reaches outside of the image, which has {shape[0]} rows and {shape[1]} columns"
        )
    (top, bottom), (left, right) = spans
    mask[top:bottom, left:right] = True
    return mask


def _by_label(text: str, labels: Labels) -> list[Region]:
    values = [int(value) for value in np.unique(labels) if value]
    if not values:
        raise ValueError(f"region {text} is empty: it marks nothing in the slices that are reconstructed")
    if len(values) > _MOST_LABELS or values[0] < 0:
        raise ValueError(
            f"region {text} holds {len(values)} values from {values[0]} to {values[-1]}: expected a mask of 0 and 1,"
            f" or at most {_MOST_LABELS} labels above 0"
        )
    names = {value: text if values == [1] else f"{text} label {value}" for value in values}
    return [Region(name, torch.from_numpy(labels == value)) for value, name in names.items()]


def _of_numpy(text: str, shape: tuple[int, int], slices: Sequence[int], num_slices: int) -> Labels:
    try:
        values = np.load(text, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"region {text} cannot be read: {error}") from None
    labels = _whole(text, values)
    if labels.ndim == 3 and len(labels) == num_slices != len(slices):
        labels = labels[list(slices)]
    if labels.shape not in (shape, (len(slices), *shape)):
        raise ValueError(
            f"region {text} has shape {labels.shape}: the image has {shape[0]} rows and {shape[1]} columns, expected"
            f" {shape}, or {(len(slices), *shape)} with slices first"
        )
    return np.broadcast_to(labels, (len(slices), *shape))


def _of_nifti(text: str, shape: tuple[int, int], slices: Sequence[int], num_slices: int, affine_lps: Matrix) -> Labels:
    """Return labels where their voxels lie in the patient, whichever way round the file stores them."""
    with open_volume(text, ReadOptions({"values": "any"})) as volume:
        info, values = volume.info, volume.read_image(0, volume.info.num_slices)
    assert info.geometry is not None  # NIfTI always has one
    labels = _whole(text, values)
    there = info.geometry.affine_lps(*labels.shape[1:])
    to_image = np.linalg.inv(affine_lps) @ there
    grid = to_image.round()
    corners = np.array(
        [(r, c, s, 1) for r in (0, labels.shape[1]) for c in (0, labels.shape[2]) for s in (0, len(labels))]
    )
    if float(np.abs(corners @ (to_image - grid).T).max()) > _OFF_GRID or abs(round(float(np.linalg.det(grid)))) != 1:
        raise ValueError(
            f"region {text} lies on another grid than the images: draw it on their own NIfTI (--output nifti), or"
            " resample it to that"
        )
    number, row, col = np.nonzero(labels)
    rows, cols, numbers = (grid @ np.stack([row, col, number, np.ones_like(row)]))[:3].astype(int)
    sizes = (*shape, num_slices)
    if any(((at < 0) | (at >= size)).any() for at, size in zip((rows, cols, numbers), sizes, strict=True)):
        raise ValueError(
            f"region {text} reaches outside of the images, which have {shape[0]} rows, {shape[1]} columns and"
            f" {num_slices} slices"
        )
    placed = np.zeros((num_slices, *shape), dtype=np.int64)
    placed[numbers, rows, cols] = labels[number, row, col]
    return placed[list(slices)]


def _whole(text: str, values: npt.NDArray[Any]) -> Labels:
    if values.dtype.kind not in "biuf" or not (np.isfinite(values).all() and (values == np.round(values)).all()):
        raise ValueError(f"region {text} holds {values.dtype} values that are no labels: expected 0, 1, 2, ...")
    return values.astype(np.int64)
