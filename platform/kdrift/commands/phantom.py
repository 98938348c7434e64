"""`kdrift phantom`: a simulated multi-coil head scan in the fastMRI layout."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from kdrift.commands.common import decibels


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write a simulated multi-coil head phantom in the fastMRI layout, labelled simulated."""

    out: Annotated[str, Parameter(metavar="FILE.h5|URL")]
    """File to write, or a URL such as s3://bucket/x.h5."""
    slices: int = 8
    """Number of slices."""
    size: Annotated[str, Parameter(metavar="N|ROWSxCOLS")] = "256"
    """Matrix size."""
    coils: int = 8
    """Number of receive coils."""
    seed: int = 0
    """Seed of anatomy, contrast, phase and noise."""
    contrast: Literal["T1", "T2", "FLAIR", "PD"] | None = None
    """Contrast of the head; by default the seed chooses it."""
    snr: Annotated[str, Parameter(metavar="DB")] = "35"
    """Signal-to-noise ratio in dB, in the coil-combined image; none: no noise."""


def run(options: Options) -> int:
    """Write the file."""
    from kdrift.data.formats.fastmri import write_fastmri
    from kdrift.data.phantom import phantom_volume
    from kdrift.runs.home import file_at

    rows, cols = _size(options.size)
    snr_db = decibels(options.snr)
    if options.seed < 0:
        raise ValueError(f"--seed is {options.seed}, expected 0 or more")
    noise = math.inf if snr_db is None else snr_db
    with file_at(options.out, what="phantom") as path:
        phantom = phantom_volume(options.slices, rows, cols, options.coils, options.seed, noise, options.contrast)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_fastmri(path, phantom.kspace, reference=phantom.reference, attrs=phantom.attrs)
    shape = " x ".join(str(n) for n in phantom.kspace.shape)
    print(f"{options.out}: simulated, {shape}, {phantom.attrs['acquisition']}, noise std {phantom.noise_std:.4g}")
    return 0


def _size(text: str) -> tuple[int, int]:
    rows, _, cols = text.partition("x")
    if not rows.isdigit() or not (cols or rows).isdigit():
        raise ValueError(f"--size is {text!r}, expected a number like 256 or two like 320x256")
    return int(rows), int(cols or rows)
