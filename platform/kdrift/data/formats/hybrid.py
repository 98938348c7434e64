"""3-D scans whose readout is transformed already, `(x, ky, kz, ...)`: the Calgary-Campinas and SKM-TEA sets.

Each position x along the readout is a slice, fully independent of the others; rows are ky, columns kz.
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from kdrift.data.centring import Centre, from_corner, from_cornered_image
from kdrift.data.formats.hdf5 import Hdf5, dataset, keys
from kdrift.data.formats.selection import check_names, selected_index, taken_note
from kdrift.data.volume import (
    AS_THE_FILE_SAYS,
    BadVolume,
    Loader,
    ReadOptions,
    Volume,
    VolumeInfo,
    check_dims,
)

_MOST_CHANNELS = 128  # of 64 coils, real and imaginary part
_PAIRS_NOTE = "channels were taken as real and imaginary part of each coil in turn (not all real parts first)"
_AXES_NOTE = "the readout is transformed already: slices are positions along it, rows ky, columns kz"


def hybrid_layout(source: Hdf5) -> str | None:
    """Return `calgary` or `skm-tea` where `kspace` has the type and shape of these sets, else None."""
    if "kspace" not in keys(source):
        return None
    node = dataset(source, "kspace")
    assert node is not None
    if node.ndim == 5 and node.dtype.kind == "c" and "ismrmrd_header" not in keys(source):
        return "skm-tea"
    if node.ndim == 4 and node.dtype.kind == "f":
        _, rows, cols, channels = node.shape
        if channels % 2 == 0 and channels <= _MOST_CHANNELS and channels < min(rows, cols):
            return "calgary"
    return None


def open_calgary(source: Hdf5, name: str, how: ReadOptions = AS_THE_FILE_SAYS) -> Volume:
    """Open a multi-channel raw file of Calgary-Campinas (Souza et al. 2018; MC-MRRec challenge).

    `kspace` is real `(x, ky, kz, 2 coil)`, real and imaginary part of each coil in turn. Assumed: zero frequency lies
    in the middle, and the image is where a plain inverse FFT (`numpy.fft.ifft2`) puts it, as the set's own code has
    it; `how.centred` states otherwise, for k-space that is centred in both senses, or in neither. The last columns were
    not measured (85 % are): they hold zeros, or what rounding left of them (`kdrift.data.measured`).

    Raises BadVolume for anything to choose, and for a single coil without `how.centred`: files of real and imaginary
    part alone come with either.
    """
    path = source.path
    check_names(path, how, ())
    _no_axes(path, how, "(x, ky, kz, 2 coil)")
    node = dataset(source, "kspace")
    assert node is not None
    num_slices, rows, cols, channels = node.shape
    check_dims(path, slices=num_slices, coils=channels // 2, rows=rows, columns=cols)
    if channels == 2 and how.centred is None:
        raise BadVolume(
            path,
            f"kspace is {node.dtype} {node.shape}: real and imaginary part of one coil, without a word on where zero"
            " frequency lies; state it with --centred or --not-centred",
        )

    def load_stored(start: int, stop: int) -> npt.NDArray[Any]:
        parts = np.ascontiguousarray(node[start:stop])
        return np.asarray((parts[..., ::2] + 1j * parts[..., 1::2]).transpose(0, 3, 1, 2))

    centre, doubts = _centre(load_stored, num_slices, how)
    if how.centred is None:
        centre = from_cornered_image

    def load(start: int, stop: int) -> npt.NDArray[Any]:
        return centre(load_stored(start, stop))

    info = VolumeInfo(
        name, "kspace", num_slices, channels // 2, rows, cols, rows, cols,
        attrs={"source_format": "calgary-campinas"}, notes=(*doubts, _PAIRS_NOTE, _AXES_NOTE),
    )  # fmt: skip
    return Volume(path, info, load)


def open_skm_tea(source: Hdf5, name: str, how: ReadOptions = AS_THE_FILE_SAYS) -> Volume:
    """Open a raw data file of SKM-TEA (Desai et al. 2021, `files_recon_calib-24`).

    `kspace` is complex `(x, ky, kz, echo, coil)`, centred, zero where it was padded; `target`
    `(x, ky, kz, echo, map)` is the reference, of its first map set the magnitude. `select` chooses the `echo`, from 0.
    Sensitivity maps and undersampling masks in the file are left out, and said.

    Raises BadVolume for other shapes of k-space and target.
    """
    path = source.path
    check_names(path, how, ("echo",))
    _no_axes(path, how, "(x, ky, kz, echo, coil)")
    node, target = dataset(source, "kspace"), dataset(source, "target")
    assert node is not None
    num_slices, rows, cols, echoes, coils = node.shape
    check_dims(path, slices=num_slices, coils=coils, rows=rows, columns=cols)
    echo = selected_index(path, how, "echo", echoes)
    notes: tuple[str, ...] = (taken_note("echo", echo, echoes),) if echoes > 1 else ()
    if target is not None and (target.ndim != 5 or target.shape[:4] != node.shape[:4]):
        raise BadVolume(path, f"target has shape {target.shape}, expected {(*node.shape[:4], 'map')} as kspace has it")
    notes += (_AXES_NOTE,)
    unused = [key for key in keys(source) if key in ("maps", "masks")]
    if unused:
        notes += (f"{' and '.join(unused)} of the file are not used",)

    def load_stored(start: int, stop: int) -> npt.NDArray[Any]:
        return np.asarray(node[start:stop, :, :, echo, :].transpose(0, 3, 1, 2))

    centre, doubts = _centre(load_stored, num_slices, how)
    notes += doubts

    def load_target(start: int, stop: int) -> npt.NDArray[Any]:
        assert isinstance(target, h5py.Dataset)
        return np.asarray(np.abs(target[start:stop, :, :, echo, 0]))

    info = VolumeInfo(
        name, "kspace", num_slices, coils, rows, cols, rows, cols, has_reference=target is not None,
        attrs={"source_format": "skm-tea", "echo": echo}, notes=notes,
    )  # fmt: skip
    return Volume(
        path, info, lambda start, stop: centre(load_stored(start, stop)), load_target if target is not None else None
    )


def _centre(load: Loader, num_slices: int, how: ReadOptions) -> tuple[Centre, tuple[str, ...]]:
    """Return what brings k-space to the middle where `how` states that it is not there, and notes."""
    if how.centred is not False:
        return np.asarray, ()
    return from_corner(load(num_slices // 2, num_slices // 2 + 1)[0])


def _no_axes(path: str, how: ReadOptions, order: str) -> None:
    if how.axes is not None:
        raise BadVolume(path, f"axes are stated, but those of this layout are known to be {order}: leave them out")
