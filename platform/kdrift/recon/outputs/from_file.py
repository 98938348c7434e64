"""What outputs are written from, out of a `reconstruction.h5`: the others can be made of it later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from kdrift.data.geometry import Geometry
from kdrift.recon.outputs.image_set import ImageSet, method_line
from kdrift.trust.verdict import Verdict

DATASETS = {"mean": "reconstruction", "std": "std", "lower": "lower", "upper": "upper"}
"""Where `reconstruction.h5` has each kind of image."""


def read_image_set(path: Path) -> ImageSet:
    """Return the images of a `reconstruction.h5` and where they lie.

    Raises ValueError for a file that does not say where its data came from, as those of older versions do.
    """
    with h5py.File(path) as file:
        if "source" not in file.attrs or "kdrift" not in file.attrs:
            raise ValueError("this result was written by an older kdrift, which left out what the source said")
        report, attrs = json.loads(file.attrs["kdrift"]), json.loads(file.attrs["source"])
        images = {kind: file[name][:] for kind, name in DATASETS.items() if name in file}
    if not report["nfe"]:
        del images["std"]
    rows, cols = images["mean"].shape[1:]
    first = int(report["slices"][0])
    affine, voxel = np.array(report["geometry"]["affine_lps"]), report["geometry"]["voxel_mm"]
    axes = [tuple(float(x) for x in affine[:3, axis] / voxel[axis]) for axis in range(3)]
    centre = (affine @ (rows // 2, cols // 2, -first, 1))[:3]
    geometry = Geometry(tuple(voxel), tuple(axes), tuple(map(float, centre)), report["geometry"]["stated"])  # type: ignore[arg-type]
    return ImageSet(
        report["volume"], images, geometry, first,
        method_line(report["config"], report["nfe"], report["sampling"]), attrs,
        tuple(_verdict(report, str(index)) for index in report["slices"]),
        tuple(report["geometry"].get("notes", ())),
    )  # fmt: skip


def _verdict(report: dict[str, Any], index: str) -> Verdict:
    values = report["verdicts"].get(index)
    if index in report["failed"] or values is None:
        return Verdict("not checked", ("the slice failed" if index in report["failed"] else "",))
    return Verdict(values["level"], tuple(values["reasons"]), given=values.get("given") or "")
