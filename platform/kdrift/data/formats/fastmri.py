"""The fastMRI HDF5 layout: k-space, its reference image and its header, reading and writing.

Layout: Zbontar et al., "fastMRI: An Open Dataset and Benchmarks for Accelerated MRI" (2018), section 4.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from kdrift.data.centring import centre_crop, fft_centred, ifft_centred
from kdrift.data.formats.arrange import IMAGE_AXES, arrange, arrange_image, arrange_mask
from kdrift.data.formats.beside import check_beside
from kdrift.data.formats.field_of_view import image_field
from kdrift.data.formats.hdf5 import Hdf5, attributes, dataset, keys, text
from kdrift.data.formats.header import Header, read_header, write_header
from kdrift.data.formats.selection import check_names, selected_index, taken_note
from kdrift.data.geometry import Geometry
from kdrift.data.images import ImageInfo, image_volume
from kdrift.data.measured import mask_shape
from kdrift.data.volume import AS_THE_FILE_SAYS, AXES, Attr, BadVolume, ReadOptions, Volume, VolumeInfo, naming
from kdrift.runs.files import whole_file

REFERENCES = ("reconstruction_rss", "reconstruction_esc")
IMAGES = (*REFERENCES, "reconstruction")


def open_fastmri(source: Hdf5, name: str, how: ReadOptions = AS_THE_FILE_SAYS) -> Volume:
    """Open a file in the fastMRI layout.

    `kspace` is `(slice, coil, row, col)`, single-coil `(slice, row, col)`, or, beside a header, `(average, slice, coil,
    row, col)` as the prostate set has it, of which `how.select` chooses the `average`, from 0. Rows lie along the
    (oversampled) readout, or as `how.axes` and `how.centred` state. Optional are `reconstruction_rss` or
    `reconstruction_esc`, `mask`, `ismrmrd_header` and attributes (`padding_left` and `padding_right` bound what was
    measured). A file with reconstructions only is read as images. The image size is that of the reference, else of the
    header's fields of view (`image_field`), and never larger than the k-space (some published references are: they are
    cropped).

    Raises BadVolume for missing keys, wrong types or shapes, or a hostile header.
    """
    path = source.path
    check_names(path, how, ("values", "average"))
    xml = dataset(source, "ismrmrd_header")
    header = read_header(path, text(source, xml)) if xml is not None else Header()
    attrs: dict[str, Attr] = {"source_format": "fastmri", **header.attrs, **attributes(source)}
    images = {key: node for key in IMAGES if (node := dataset(source, key)) is not None}
    kspace: Any = dataset(source, "kspace")
    if kspace is None:
        if not images:
            there = ", ".join(keys(source))
            raise BadVolume(path, f"found keys {there}, expected kspace or one of {', '.join(IMAGES)}")
        first = next(iter(images.values()))
        if how.axes is None:
            _image_shape(path, first)
        found, has_phase = arrange(path, str(first.name), first, IMAGE_AXES, how, images=True), first.dtype.kind == "c"
        others = [key for key in images if images[key] is not first]
        notes = (f"{first.name.lstrip('/')} was taken, {' and '.join(others)} are not used",) if others else ()
        image = ImageInfo(name, found.shape, attrs, notes=notes, has_phase=has_phase, axes_known=how.axes is not None)
        return image_volume(path, image, lambda start, stop: found[start:stop], any_values=how.any_values)
    beside = check_beside(path, keys(source), ("kspace", "mask", "ismrmrd_header", *IMAGES))
    averages: tuple[str, ...] = ()
    if kspace.ndim == 5 and kspace.dtype.kind == "c" and xml is not None and how.axes is None:
        average = selected_index(path, how, "average", len(kspace))
        averages = (taken_note("average", average, len(kspace), ", in which some lines may be missing,"),)
        kspace = _Average(kspace, average)
    elif "average" in how.select:
        check_names(path, how, ("values",))
    if kspace.dtype.kind != "c" or (how.axes is None and kspace.ndim not in (3, 4)):
        expected = "complex (slice, coil, row, col) or (slice, row, col); --axes states another order"
        raise BadVolume(path, f"kspace is {kspace.dtype} {kspace.shape}, expected {expected}")
    known = bool(header.encodings) or any(key in images for key in REFERENCES)
    slices = arrange(path, "kspace", kspace, AXES if kspace.ndim == 4 else IMAGE_AXES, how, known=known)
    num_slices, coils, rows, cols = slices.shape
    field = image_field(header.encodings[0], rows, cols) if header.encodings else None
    image_rows, image_cols = (field.rows, field.cols) if field is not None else (rows, cols)
    reference = next((images[key] for key in REFERENCES if key in images), None)
    images_of: Any = reference
    if reference is not None:
        num_references, image_rows, image_cols = _image_shape(path, reference)
        if how.axes is not None and set(how.axes) >= {"row", "col"}:
            with naming(path, "the reference does not fit the axes"):
                images_of = arrange_image(reference, slices)
            num_references, image_rows, image_cols = images_of.shape
        if image_rows > rows or image_cols > cols:
            beside += (
                f"the stored reference is {image_rows} x {image_cols}, larger than the {rows} x {cols} of k-space: its"
                " centre is compared, which is right where it was padded, not where it was interpolated",
            )
        if num_references != num_slices:
            raise BadVolume(path, f"reference has {num_references} slices, kspace has {num_slices}")
    recon_rows, recon_cols = min(image_rows, rows), min(image_cols, cols)
    mask = dataset(source, "mask")
    if mask is not None and mask.size > num_slices * rows * cols:
        raise BadVolume(path, f"mask has shape {mask.shape}, more than the {num_slices} x {rows} x {cols} of kspace")

    def load_image(start: int, stop: int) -> npt.NDArray[Any]:
        values = images_of[start:stop]
        return centre_crop(np.abs(values) if np.iscomplexobj(values) else values, recon_rows, recon_cols)

    info = VolumeInfo(
        name, "kspace", num_slices, coils, rows, cols, recon_rows, recon_cols,
        has_mask=mask is not None, has_reference=reference is not None, attrs=attrs,
        geometry=Geometry(field.voxel_mm) if field is not None and field.voxel_mm is not None else None,
        notes=(*averages, *slices.notes, *beside, *(field.notes if field is not None and reference is None else ())),
    )  # fmt: skip
    return Volume(
        path,
        info,
        lambda start, stop: slices[start:stop],
        load_image if reference is not None else None,
        None
        if mask is None
        else lambda: arrange_mask(
            _read_mask(mask, num_slices, rows, cols), slices.names, slices.shape, centred=slices.centre is None
        ),
    )


class _Average:
    """One average of k-space `(average, slice, coil, row, col)`, sliced like an array; slicing it reads."""

    def __init__(self, node: h5py.Dataset, number: int) -> None:
        self._node, self._number = node, number
        self.shape, self.ndim, self.dtype = node.shape[1:], node.ndim - 1, node.dtype

    def __getitem__(self, items: tuple[slice, ...]) -> npt.NDArray[Any]:
        return np.asarray(self._node[(self._number, *items)])


def write_fastmri(
    path: str | os.PathLike[str],
    kspace: npt.NDArray[Any],
    *,
    reference: npt.NDArray[Any] | None = None,
    mask: npt.NDArray[Any] | None = None,
    recon_size: tuple[int, int] | None = None,
    fov_mm: tuple[float, float, float] = (220.0, 220.0, 5.0),
    attrs: Mapping[str, Attr] | None = None,
) -> None:
    """Write k-space in the fastMRI layout, atomically.

    Parameters
    ----------
    kspace
        `(slice, coil, row, col)`, or `(slice, row, col)` for single-coil; stored as complex64.
    reference
        `(slice, recon_row, recon_col)`: `reconstruction_rss` for multi-coil, `reconstruction_esc` for
        single-coil; gives the attributes `max` and `norm`.
    mask
        `(col,)`, `(row, col)` or one a slice `(slice, row, col)`, for really undersampled data.
    recon_size
        Rows and columns of reconSpace, where there is no reference; default that of the k-space.
    fov_mm
        Field of view of the image: readout, phase encoding, slice thickness.
    attrs
        Attributes of the file; `field_T`, `receiver_channels` and `patient_id` also go into the header.

    Raises
    ------
    ValueError
        For shapes that do not fit together.
    """
    if kspace.ndim not in (3, 4) or not np.iscomplexobj(kspace) or 0 in kspace.shape:
        raise ValueError(f"kspace is {kspace.dtype} {kspace.shape}, expected complex (slice, coil, row, col)")
    rows, cols = kspace.shape[-2:]
    if reference is not None and (reference.ndim != 3 or len(reference) != len(kspace)):
        raise ValueError(f"reference has shape {reference.shape}, expected ({len(kspace)}, row, col)")
    if mask is not None:
        mask_shape(mask.shape, len(kspace), rows, cols)
    size = (reference.shape[1], reference.shape[2]) if reference is not None else recon_size or (rows, cols)
    values: dict[str, Attr] = {"acquisition": "unknown", "patient_id": "unknown", **(attrs or {})}
    if reference is not None:
        values["max"] = float(reference.max())
        values["norm"] = float(np.linalg.norm(reference.astype(np.float64)))
    fields = {"receiver_channels": kspace.shape[1] if kspace.ndim == 4 else 1, **values}
    with whole_file(path) as temporary, h5py.File(temporary, "w") as file:
        file["kspace"] = kspace.astype(np.complex64, copy=False)
        if reference is not None:
            key = "reconstruction_rss" if kspace.ndim == 4 else "reconstruction_esc"
            file[key] = reference.astype(np.float32, copy=False)
        if mask is not None:
            file["mask"] = mask.astype(np.uint8)
        file["ismrmrd_header"] = write_header((rows, cols), size, fov_mm, fields)
        file.attrs.update(values)


def remove_readout_oversampling(kspace: npt.NDArray[Any], recon_rows: int) -> npt.NDArray[Any]:
    """Return k-space `(*batch, recon_rows, col)` of the central rows of the image: inverse FFT, crop, FFT.

    Scanners sample the readout twice as densely as needed; the doubled field of view holds only air. The FFTs are
    centred and orthonormal, the precision stays.

    Raises ValueError when there are fewer than `recon_rows` rows.
    """
    rows, cols = kspace.shape[-2:]
    if rows == recon_rows:
        return kspace
    return fft_centred(centre_crop(ifft_centred(kspace, axes=(-2,)), recon_rows, cols), axes=(-2,))


def _image_shape(path: str, node: h5py.Dataset) -> tuple[int, int, int]:
    if node.ndim != 3 or node.dtype.kind not in "iufc":
        key = str(node.name).lstrip("/")
        raise BadVolume(path, f"{key} is {node.dtype} {node.shape}, expected numbers (slice, row, col)")
    num_slices, rows, cols = node.shape
    return num_slices, rows, cols


def _read_mask(node: h5py.Dataset, num_slices: int, rows: int, cols: int) -> npt.NDArray[Any]:
    if node.size > num_slices * rows * cols:
        mask_shape(node.shape, num_slices, rows, cols)  # raises, before it is read
    values: npt.NDArray[Any] = node[()]
    return values
