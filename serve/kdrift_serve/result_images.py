"""Images of a result as numbers, one slice at a time: what viewers take."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kdrift.runs.hint import suggest

DATASETS = {
    "mean": "reconstruction", "std": "std", "lower": "lower", "upper": "upper", "zero_filled": "zero_filled",
    "reference": "reference", "samples": "samples",
}  # fmt: skip
"""Images by their names, and what `reconstruction.h5` calls them."""


def list_images(path: Path) -> dict[str, Any]:
    """Return what `ImagesView` says of a `reconstruction.h5`."""
    with h5py.File(path) as file:
        report = json.loads(file.attrs["kdrift"])
        names = [name for name, dataset in DATASETS.items() if dataset in file]
        if not report["nfe"]:  # a classical method: zeros, and its image again
            names = [name for name in names if name not in ("std", "samples")]
        return {
            "shape": [int(size) for size in file["reconstruction"].shape[1:]],
            "slices": [int(index) for index in report["slices"]],
            "images": names,
            "samples": int(file["samples"].shape[1]) if "samples" in names else 0,
            "voxel_mm": [float(size) for size in file.attrs["voxel_mm"]],
        }


def read_image(path: Path, name: str, position: int, sample: int) -> bytes:
    """Return one image `(row, col)` of a `reconstruction.h5` as a NumPy file, float32, in the unit of the data.

    `position` is that of the slice among those of the job, `sample` is of `samples` alone; both count from 0. Raises
    ValueError for what there is not.
    """
    with h5py.File(path) as file:
        known = [each for each, dataset in DATASETS.items() if dataset in file]
        if name not in known:
            raise ValueError(f"no image {name[:40]!r}{suggest(name, known)}; this result has {', '.join(known)}")
        images = file[DATASETS[name]]
        if not 0 <= position < len(images):
            raise ValueError(f"slice is {position}, expected 0 to {len(images) - 1}")
        if name == "samples":
            if not 0 <= sample < images.shape[1]:
                raise ValueError(f"sample is {sample}, expected 0 to {images.shape[1] - 1}")
            image = images[position, sample]
        else:
            image = images[position]
    buffer = io.BytesIO()
    np.save(buffer, image.astype("<f4", copy=False), allow_pickle=False)
    return buffer.getvalue()
