"""Mean and deviation of one slice as PNG, for the page."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

Kind = Literal["mean", "std"]
QUANTILE = 0.998
COLOURS = {"mean": "gray", "std": "magma"}


def picture(path: Path, kind: Kind, position: int) -> tuple[bytes, float]:
    """Return slice `position` of a `reconstruction.h5` as PNG, and the value of its brightest colour; the darkest is 0.

    The mean's is on the scale of the data, the deviation's in per cent of the mean's. Raises ValueError where there is
    no such slice.
    """
    import matplotlib.image

    with h5py.File(path) as file:
        count = len(file["reconstruction"])
        if not 0 <= position < count:
            raise ValueError(f"slice is {position}, expected 0 to {count - 1}")
        mean, std = file["reconstruction"][position], file["std"][position]
    white = float(np.quantile(mean, QUANTILE)) or 1.0
    image, top = mean / white, white
    brightest = 1.0
    if kind == "std":
        image = std / white
        brightest = float(np.quantile(image, QUANTILE)) or 1.0
        top = 100 * brightest
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, image, cmap=COLOURS[kind], vmin=0.0, vmax=brightest, format="png")
    return buffer.getvalue(), top
