"""What is to be reconstructed: one request for command, library, batch, evaluation, search and service."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from kdrift.data.volume import ReadOptions

SIGMA = (
    "noise_sigma must be a number above 0, got {}: expected the standard deviation of each real component of the noise;"
    " leave it out to have it estimated"
)
"""What is wrong with a noise level."""


@dataclass(frozen=True)
class MaskRequest:
    """Retrospective undersampling of full data; see `kdrift.mri.masks.make_mask`."""

    kind: str | None = None
    """Kind of mask that is drawn (kdrift list masks). `--mask` of the command also takes a file, which is not drawn:
    see `file`; of data that were measured undersampled it states what was measured."""
    acceleration: float = 4.0
    """Nominal factor."""
    acs_fraction: float | None = None
    """Fully sampled centre as a fraction of the width."""
    acs_lines: int | None = None
    """Fully sampled centre in lines; give one of the two."""
    seed: int = 0
    """Seed of the draw."""
    released: bool = False
    """Draw as the published code does."""
    file: str | None = None
    """Mask that is not drawn: a file (.npy, .npz, .h5 or .mat with `mask`, or a .cfl of BART) with axes (col,),
    (row, 1), (row, col), or these a slice."""

    def __post_init__(self) -> None:
        if (self.kind is None) == (self.file is None):
            raise ValueError("a mask is drawn by its kind or comes from a file: give one of the two")

    @property
    def draw(self) -> dict[str, Any]:
        """Keywords of `make_mask` besides kind and shape."""
        return {key: getattr(self, key) for key in ("acceleration", "acs_fraction", "acs_lines", "seed", "released")}


@dataclass(frozen=True, kw_only=True)
class AcquisitionOptions:
    """How a source is read, the same wherever it is asked for."""

    slices: tuple[int | None, int | None] | str | int | None = None
    """Slices A to B - 1 of a volume as [A, B] or "A:B", or one by its number; negative numbers count from the end, null
    in [A, B] goes to that end; null: all."""
    mask: MaskRequest | None = None
    """Retrospective undersampling of full data; null: data as they are."""
    select: str | None = None
    """Which of several there are in a file, such as contrast=1,repetition=0 or group=dataset_2; null: the first of
    each. kdrift info says what there is."""
    axes: str | None = None
    """Axes of an array that does not say, in its order, such as row,col,coil; null: as documented for its format."""
    centred: bool | None = None
    """Whether zero frequency lies in the middle of k-space (true) or at its corner (false); null: in the middle."""
    virtual_coils: int | None = None
    """Compress to so many coils first; null: all coils."""
    smaps: str | None = None
    """Coil maps that were made elsewhere: `store` for those that `kdrift convert --smaps` put beside the volume, or a
    file (.npy, .npz, .mat, the .h5 of a reconstruction with its maps, or a .cfl of BART) with axes ([slice, [set,]]
    coil, row, col) of all coils as measured. null: they are estimated, see maps."""
    noise_cov: str | None = None
    """File (.npy, .npz, .h5, .mat, .cfl) with the noise covariance (coil, coil), in any unit, by which coils are
    weighted; null: of the noise scan in the file, else coil by coil from the periphery of k-space."""
    noise_scan: str | None = None
    """File with samples of noise alone, axes (coil, sample, ...): .npy, .npz, .h5, .mat, .cfl of BART, or an ISMRMRD
    file with noise lines; instead of a covariance."""
    noise_sigma: float | None = None
    """Standard deviation of each real component of the noise, the same for all coils, in the unit of the data (beside a
    covariance: of the median coil); null: estimated."""

    def __post_init__(self) -> None:
        if self.virtual_coils is not None and self.virtual_coils < 1:
            raise ValueError(f"virtual_coils must be at least 1, got {self.virtual_coils}")
        if self.noise_cov is not None and self.noise_scan is not None:
            raise ValueError("noise_cov and noise_scan both say how noisy the coils are: give one of the two")
        if self.noise_sigma is not None and not 0 < self.noise_sigma < math.inf:
            raise ValueError(SIGMA.format(self.noise_sigma))
        _ = self.chosen  # raises where slices are neither numbers nor A:B

    @property
    def chosen(self) -> slice:
        """The slices as a Python slice."""
        if isinstance(self.slices, str | int):
            return slice(*_parse_slices(str(self.slices)))
        return slice(*self.slices) if self.slices else slice(None)

    @property
    def how(self) -> ReadOptions:
        """What is told to the reader of the file."""
        return ReadOptions.of(self.select, self.axes, self.centred)

    def of(self, source: str, **changes: Any) -> AcquisitionRequest:
        """Return the request for `source` with these options, some of them changed."""
        own = {each.name: getattr(self, each.name) for each in fields(AcquisitionOptions)}
        return AcquisitionRequest(source=source, **{**own, **changes})


@dataclass(frozen=True, kw_only=True)
class AcquisitionRequest(AcquisitionOptions):
    """One source and how it is read."""

    source: str
    """k-space file or URL, or a volume of a store (`X.zarr/NAME`)."""
    max_bytes: int | None = None
    """Refuse more k-space than this, by what the header declares; null: no limit."""


def _parse_slices(text: str) -> tuple[int | None, int | None]:
    start, separator, stop = text.partition(":")
    try:
        if not separator:
            return int(start), int(start) + 1 or None
        return int(start) if start else None, int(stop) if stop else None
    except ValueError:
        raise ValueError(f"slices are A:B or one number, got {text!r}") from None
