"""Mean and deviation of one slice as PNG, for the page."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import numpy.typing as npt

Kind = Literal["mean", "std"]
Image = npt.NDArray[np.float32]
QUANTILE = 0.998
COLOURS = {"mean": "gray", "std": "magma"}


def picture(path: Path, kind: Kind, position: int) -> tuple[bytes, float]:
    """Return slice `position` of a `reconstruction.h5` as PNG, and the value of its brightest colour; the darkest is 0.

    The mean's is on the scale of the data, the deviation's in per cent of the mean's. Raises ValueError where there is
    no such slice.
    """
    with h5py.File(path) as file:
        count = len(file["reconstruction"])
        if not 0 <= position < count:
            raise ValueError(f"slice is {position}, expected 0 to {count - 1}")
        mean, std = file["reconstruction"][position], file["std"][position]
    white = white_of(mean)
    png, brightest = draw(kind, mean if kind == "mean" else std, white)
    return png, white if kind == "mean" else 100 * brightest


def white_of(mean: Image) -> float:
    """Return the value of a mean `(row, col)` that is shown white."""
    return float(np.quantile(mean, QUANTILE)) or 1.0


def draw(kind: Kind, image: Image, white: float) -> tuple[bytes, float]:
    """Return mean or deviation `(row, col)` as PNG, and its brightest colour as a part of `white`; the darkest is 0."""
    import matplotlib.image

    shown = image / white
    brightest = 1.0 if kind == "mean" else float(np.quantile(shown, QUANTILE)) or 1.0
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, shown, cmap=COLOURS[kind], vmin=0.0, vmax=brightest, format="png")
    return buffer.getvalue(), brightest
