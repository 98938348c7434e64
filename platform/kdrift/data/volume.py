"""The volume model: what every file format reader returns.

A volume is one scan: either k-space `(slice, coil, row, col)` or magnitude images `(slice, row, col)`. Rows are the
readout direction, columns the phase-encoding direction. Data is read by slices; opening reads headers only.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kdrift.data.geometry import Geometry
from kdrift.data.measured import BoolArray as BoolArray
from kdrift.data.measured import Marks, Sampling, as_mask, magnitudes, sampling_of
from kdrift.mri.mask_place import check_mask
from kdrift.mri.plausibility import check_kspace
from kdrift.mri.unit import out_of_range
from kdrift.runs.hint import one_line

Attr = str | int | float | bool
ComplexArray = npt.NDArray[np.complex64]
FloatArray = npt.NDArray[np.float32]
Loader = Callable[[int, int], npt.NDArray[Any]]

AXES = ("slice", "coil", "row", "col")
"""Names of the axes of k-space, in the order that volumes have."""
MAX_SLICE_BYTES = 4 << 30  # no MR slice is larger; a header that claims more is hostile or broken
SMALL_BYTES = 256 << 20
MAX_EXPANSION = 32
"""Beyond `SMALL_BYTES`, data are at most so many times as large as the file that holds them."""


class BadVolume(ValueError):
    """A file that cannot be read as a volume: names the file and the reason."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both in args, so that the error survives pickling (Ray)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class ReadOptions:
    """What a file cannot say of itself, or leaves to choose."""

    select: Mapping[str, str] = field(default_factory=dict)
    """Which of several there are, by name (contrast, repetition, group, echo, ...); which, the format says."""
    axes: tuple[str, ...] | None = None
    """Names of an array's axes in its order, of row, col, coil, slice; None: the format's own order."""
    centred: bool | None = None
    """Whether zero frequency lies in the middle of k-space (n // 2) or at its corner; None: as the format has it."""

    @property
    def any_values(self) -> bool:
        """Whether images are read whatever their values, `values=any`; else only magnitudes are."""
        return self.select.get("values") == "any"

    @classmethod
    def of(cls, select: str | None = None, axes: str | None = None, centred: bool | None = None) -> ReadOptions:
        """Read `contrast=1,group=dataset_2` and `row,col,coil`. Raises ValueError for text of another form."""
        chosen: dict[str, str] = {}
        for part in select.split(",") if select else ():
            name, separator, value = part.partition("=")
            if not (name.strip() and separator and value.strip()):
                raise ValueError(f"select is {select!r}, expected NAME=VALUE, ... such as contrast=1,repetition=0")
            chosen[name.strip()] = value.strip()
        named = None if axes is None else tuple(name.strip() for name in axes.split(","))
        if named is not None and (set(named) - set(AXES) or len(set(named)) != len(named)):
            raise ValueError(f"axes are {axes!r}, expected some of {', '.join(AXES)} in the order of the array")
        return cls(chosen, named, centred)


AS_THE_FILE_SAYS = ReadOptions()


@dataclass(frozen=True)
class VolumeInfo:
    """What is known of a volume from its header."""

    name: str
    """File or folder name without its suffix."""
    kind: Literal["kspace", "image"]
    num_slices: int
    num_coils: int
    """1 for images and single-coil k-space."""
    rows: int
    cols: int
    recon_rows: int
    """Rows after readout oversampling is removed (fastMRI reconSpace), never more than `rows`."""
    recon_cols: int
    """Columns after the centre crop, never more than `cols`."""
    has_mask: bool = False
    """Whether the file states a mask; where none is stated, exact zeros say what was measured."""
    has_reference: bool = False
    """Whether k-space comes with a stored reference image."""
    has_phase: bool = False
    """Whether images are complex, so that their phase can be read as well (`Volume.read_complex_image`)."""
    attrs: dict[str, Attr] = field(default_factory=dict)
    """acquisition, patient_id, field_T, fov_mm "rows x cols x slice", padding_left, padding_right, max, norm,
    simulated, source_format, citation, ... where the file says so."""
    geometry: Geometry | None = None
    """Voxels and place of the image `(recon_rows, recon_cols)`; None: the file says nothing of it."""
    notes: tuple[str, ...] = ()
    """Sentences on what was guessed, chosen, left out or is doubtful; shown wherever the volume is used."""


@dataclass
class Volume:
    """An open volume. Use as a context manager; arrays come out checked for shape and finite values."""

    path: str
    info: VolumeInfo
    load_kspace: Loader | None = None
    load_image: Loader | None = None
    load_mask: Callable[[], npt.NDArray[Any] | None] | None = None
    load_noise_cov: Callable[[], npt.NDArray[Any] | None] | None = None
    load_calibration: Loader | None = None
    """Calibration data for the coil maps alone, on the grid of the k-space, zero where nothing was measured."""
    load_complex_image: Loader | None = None
    """Complex images, where the source has them; the magnitude images are then theirs."""
    how: ReadOptions = AS_THE_FILE_SAYS
    """What was said of the file when it was opened, or converted."""
    names: tuple[str, ...] = ()
    """Axes as they are stored; empty: slice, coil, row, col."""
    known_finite: bool = False
    """Whether what is loaded was found finite when it was written, and is checked to be that."""
    resources: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """Open files and temporary copies, released by `close`."""

    def read_kspace(self, start: int, stop: int) -> ComplexArray:
        """Return k-space of slices `start:stop`, complex64 `(slice, coil, row, col)`.

        Raises BadVolume when the data cannot be read or holds NaN or infinite values (the slice is named), ValueError
        when the volume has no k-space or the range lies outside of it.
        """
        if self.load_kspace is None:
            raise ValueError(f"{self.path} holds images, not k-space: simulate k-space from it first")
        shape = (stop - start, self.info.num_coils, self.info.rows, self.info.cols)
        return self._read(self.load_kspace, start, stop, shape, np.dtype(np.complex64))

    def read_image(self, start: int, stop: int) -> FloatArray:
        """Return magnitude images of slices `start:stop`, float32 `(slice, recon_row, recon_col)`.

        For k-space this is the stored reference (fastMRI `reconstruction_rss` or `reconstruction_esc`), for complex
        images their magnitude. Errors as in `read_kspace`.
        """
        if self.load_image is None and self.load_complex_image is not None:
            return np.abs(self.read_complex_image(start, stop))
        if self.load_image is None:
            raise ValueError(f"{self.path} holds no reference image")
        shape = (stop - start, self.info.recon_rows, self.info.recon_cols)
        what = "the reference of " if self.info.kind == "kspace" else ""
        return self._read(self.load_image, start, stop, shape, np.dtype(np.float32), what)

    def read_complex_image(self, start: int, stop: int) -> ComplexArray:
        """Return complex images of slices `start:stop`, complex64 `(slice, recon_row, recon_col)`.

        Errors as in `read_kspace`; a ValueError too where the source has magnitudes alone.
        """
        if self.load_complex_image is None:
            raise ValueError(f"{self.path} holds no complex image: its images are magnitudes, without a phase")
        shape = (stop - start, self.info.recon_rows, self.info.recon_cols)
        return self._read(self.load_complex_image, start, stop, shape, np.dtype(np.complex64))

    def read_calibration(self, start: int, stop: int) -> ComplexArray | None:
        """Return separate calibration data of slices `start:stop` as `read_kspace` does; None where there are none."""
        if self.load_calibration is None:
            return None
        shape = (stop - start, self.info.num_coils, self.info.rows, self.info.cols)
        return self._read(self.load_calibration, start, stop, shape, np.dtype(np.complex64))

    def mask(self) -> BoolArray | None:
        """Return the mask that the file states, `(col,)`, `(row, col)` or one a slice `(slice, row, col)`, or None.

        What was measured is more than this: see `sampling`.
        """
        with naming(self.path, "mask cannot be read"):
            mask = None if self.load_mask is None else self.load_mask()
        if mask is None:
            return None
        try:
            return as_mask(mask, self.info.num_slices, self.info.rows, self.info.cols)
        except ValueError as error:
            raise BadVolume(self.path, str(error)) from None

    def sampling(self, kspace: ComplexArray, start: int) -> Sampling:
        """Return what was measured of the slices from `start` on, whose k-space was read."""
        return self.sampling_of(Marks.of(magnitudes(kspace)), start)

    def sampling_of(self, marks: Marks, start: int) -> Sampling:
        """Return the same by where they hold something."""
        return sampling_of(marks, self._mask_from(start, len(marks.nonzero)), self.info.attrs)

    def doubts(self, kspace: ComplexArray, start: int) -> tuple[str, ...]:
        """Return what `check_kspace` and `check_mask` doubt of the slices from `start` on, whose k-space was read.

        Raises BadVolume where they surely are no k-space with these axes, unless axes or centring were stated.
        """
        axes, centred = self.how.axes, self.how.centred
        names = axes or self.names or AXES[0 if self.info.num_slices > 1 else 1 :]
        mask = self._mask_from(start, len(kspace))
        try:
            found = check_kspace(kspace, axes_stated=bool(axes), centring_stated=centred is not None, names=names)
            what = "the mask of the file"
            return found if mask is None else (*found, *check_mask(kspace, mask, what, stated=centred is True))
        except ValueError as error:
            raise BadVolume(self.path, str(error)) from None

    def _mask_from(self, start: int, count: int) -> BoolArray | None:
        mask = self.mask()
        return mask[start : start + count] if mask is not None and mask.ndim == 3 else mask

    def noise_cov(self) -> npt.NDArray[np.complex128] | None:
        """Return the noise covariance `(coil, coil)` measured in the same scan, or None."""
        if self.load_noise_cov is None:
            return None
        with naming(self.path, "noise scan cannot be read"), _quiet():
            return self.load_noise_cov()

    @property
    def is_truth_stored(self) -> bool:
        """Whether k-space comes with a reference from elsewhere, not one that was computed of this k-space."""
        return self.info.kind == "kspace" and self.info.has_reference

    def close(self) -> None:
        """Close the files and remove temporary copies."""
        self.resources.close()

    def __enter__(self) -> Volume:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(
        self, load: Loader, start: int, stop: int, shape: tuple[int, ...], dtype: np.dtype[Any], what: str = ""
    ) -> npt.NDArray[Any]:
        if not 0 <= start < stop <= self.info.num_slices:
            raise ValueError(f"{self.path} has {self.info.num_slices} slices, asked for {start}:{stop}")
        with naming(self.path, f"slices {start}:{stop} cannot be read"), _quiet():
            loaded = load(start, stop)
            if loaded.shape != shape:
                raise BadVolume(self.path, f"slices {start}:{stop} have shape {loaded.shape}, expected {shape}")
            data = np.ascontiguousarray(loaded, dtype=dtype)
        if self.known_finite:
            return data
        if data.dtype.kind == "c" and data.size:
            with _quiet():
                fault = out_of_range(float(max(np.abs(part).max() for part in (loaded.real, loaded.imag))))
            if fault:
                raise BadVolume(self.path, f"slices {start}:{stop}: {fault}")
        finite = np.isfinite(data).reshape(stop - start, -1).all(axis=1)
        if not finite.all():
            cure = ": --slices leaves it out" if self.info.num_slices > 1 else ""
            if what:
                cure = ", expected an image: set them to zero, or take the reference out of the file"
            raise BadVolume(self.path, f"{what}slice {start + int(finite.argmin())} holds NaN or infinite values{cure}")
        return data


def _quiet() -> np.errstate:
    """Silence what NaN and overflowing values cause: they are found by the check of the result."""
    return np.errstate(over="ignore", invalid="ignore")


@contextlib.contextmanager
def naming(path: str, what: str) -> Iterator[None]:
    """Turn whatever a parser of foreign bytes raises inside the block into a `BadVolume`."""
    try:
        yield
    except BadVolume:
        raise
    except Exception as error:  # parsers of hostile bytes raise nearly anything
        raise BadVolume(path, f"{what}: {one_line(error)[:300]}") from error


def check_dims(path: str, **dims: int) -> None:
    """Raise `BadVolume` unless all dimensions are positive and one slice has a possible size."""
    for name, value in dims.items():
        if value < 1:
            raise BadVolume(path, f"number of {name} is {value}, expected at least 1")
    if 8 * math.prod(value for name, value in dims.items() if name != "slices") > MAX_SLICE_BYTES:
        shape = " x ".join(f"{value} {name}" for name, value in dims.items())
        raise BadVolume(path, f"header claims {shape}: one slice is over {MAX_SLICE_BYTES >> 30} GiB")


def check_declared(path: str, declared: int, stored: int, compressed: bool = False) -> None:
    """Raise `BadVolume` when a header declares more bytes than the file can hold.

    Compressed data may be larger than what is stored, within `check_expansion`.
    """
    if compressed:
        check_expansion(path, declared, stored)
    elif declared > stored:
        raise BadVolume(path, f"header declares {declared} bytes of data, the file holds {stored}: truncated?")


def check_expansion(path: str, declared: int, stored: int) -> None:
    """Raise `BadVolume` when what is read of a file would take far more memory than the file is large.

    Deflate cannot expand by more than a factor of 1032, so neither can an honest file. Scans expand by less than
    `MAX_EXPANSION`, and up to `SMALL_BYTES` any factor does no harm.
    """
    if declared > 1032 * stored:
        raise BadVolume(path, f"header declares {declared} bytes of data, the file holds {stored}: truncated?")
    if declared > max(SMALL_BYTES, MAX_EXPANSION * stored):
        raise BadVolume(
            path,
            f"header declares {declared >> 20} MiB of data in {stored} bytes, expected at most {MAX_EXPANSION} times"
            " what is stored: if the scan is really so empty, save it without compression",
        )
