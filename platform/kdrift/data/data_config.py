"""Which images a prior is trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kdrift.mri.image_scale import ImageScale, ScaleRule


@dataclass(frozen=True)
class DataConfig:
    """Which images a prior is trained on and how they are varied."""

    stores: list[str] = field(default_factory=list)
    """Stores (paths or URLs) or compact array files (.npy (slice, row, col); .npz of such arrays)."""
    include: list[str] = field(default_factory=lambda: ["*"])
    """Glob patterns of volume names to use; a name is used if any matches."""
    exclude: list[str] = field(default_factory=list)
    """Glob patterns of volume names to leave out, in either split."""
    validation: list[str] = field(default_factory=list)
    """Glob patterns of volume names held out for validation. Split by patient, never by slice."""
    drop_first: int = 0
    """Slices left out at the start of every volume (Score-MRI: 5)."""
    drop_last: int = 0
    """Slices left out at the end of every volume (Score-MRI: 5)."""
    crop: int = 128
    """Rows and columns of a training image; a smaller slice is padded with zeros."""
    normalise: Literal["volume", "slice"] = "volume"
    """What the scale is taken from: the whole volume or each slice."""
    scale: ScaleRule = "quantile"
    """What of the magnitudes becomes 1: a quantile, the standard deviation (std) or the maximum (max). The prior
    carries the rule, and reconstructions with it scale alike."""
    quantile: float = 0.99
    """Which quantile (scale quantile)."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """Range of a random shrinking of each crop, e.g. [0.6, 1.0]: scanners interpolate magnitude images,
    shrunken ones have the sharpness of raw data."""
    scale_jitter: tuple[float, float] = (1.0, 1.0)
    """Range of a random factor on each training image, log-uniform, e.g. [0.7, 1.3]."""
    flip: bool = True
    """Flip at random along either axis."""
    rot90: bool = True
    """Turn at random by a multiple of 90 degrees."""
    images: Literal["real", "complex"] = "real"
    """real: one channel. complex: real and imaginary part, for a prior of two channels."""
    augment_phase: Literal["none", "sign", "smooth", "measured"] = "none"
    """The phase of images. none: as it is stored, measured or zero (real images: magnitudes). sign: magnitudes times -1
    at random (real images alone). smooth: magnitudes times exp(i phi), phi a uniform constant plus a random smooth
    field. measured: stored complex images times exp(i phi), phi a uniform constant, since no measurement fixes that;
    every volume needs a measured phase. Of smooth and measured, real images are the real part. A magnitude never goes
    negative, real and imaginary parts do: a prior that scores them separately should have seen both signs."""
    phase_rad: float = 1.5
    """Standard deviation of the smooth part of phi at the knots of its field, in radians."""
    min_foreground: float = 0.1
    """Least fraction of pixels above 0.05 in a random crop; the best of 8 tries is taken if none has it."""
    cache_mib: int = 4096
    """Images are held in memory as float16 if they need no more than this, in all loaders of a worker together; else
    they are read slice by slice."""

    def __post_init__(self) -> None:
        if self.crop < 1:
            raise ValueError(f"crop is {self.crop}, expected at least 1")
        ImageScale(self.scale, self.quantile)  # raises where the quantile is none
        if not 0 < self.zoom[0] <= self.zoom[1] <= 1:
            raise ValueError(f"zoom is {list(self.zoom)}, expected 0 < low <= high <= 1")
        low, high = self.scale_jitter
        if not 0 < low <= high:
            raise ValueError(f"scale_jitter is [{low}, {high}], expected 0 < low <= high")
        if self.drop_first < 0 or self.drop_last < 0:
            raise ValueError(f"drop_first {self.drop_first} and drop_last {self.drop_last} must not be negative")
        if not 0 <= self.min_foreground < 1:
            raise ValueError(f"min_foreground is {self.min_foreground}, expected a number in [0, 1)")
        if self.images == "complex" and self.augment_phase == "sign":
            raise ValueError("complex images need augment_phase 'smooth', 'measured' or 'none', got 'sign'")

    @property
    def wants_phase(self) -> bool:
        """Whether the measured phase of images is used, where they have one."""
        return self.augment_phase == "measured" or (self.images == "complex" and self.augment_phase == "none")

    @property
    def image_scale(self) -> ImageScale:
        """The rule by which images are scaled."""
        return ImageScale(self.scale, self.quantile)
