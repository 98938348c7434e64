"""ISMRMRD output: `images.h5` with the image groups that Gadgetron and the ismrmrd packages read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import h5py
import numpy as np

from kdrift.data.formats.header import write_header
from kdrift.notice import RESEARCH_ONLY
from kdrift.recon.outputs.image_set import ImageSet
from kdrift.runs.files import whole_file

_HEADER = np.dtype([
    ("version", "<u2"), ("data_type", "<u2"), ("flags", "<u8"), ("measurement_uid", "<u4"),
    ("matrix_size", "<u2", (3,)), ("field_of_view", "<f4", (3,)), ("channels", "<u2"), ("position", "<f4", (3,)),
    ("read_dir", "<f4", (3,)), ("phase_dir", "<f4", (3,)), ("slice_dir", "<f4", (3,)),
    ("patient_table_position", "<f4", (3,)), ("average", "<u2"), ("slice", "<u2"), ("contrast", "<u2"),
    ("phase", "<u2"), ("repetition", "<u2"), ("set", "<u2"), ("acquisition_time_stamp", "<u4"),
    ("physiology_time_stamp", "<u4", (3,)), ("image_type", "<u2"), ("image_index", "<u2"),
    ("image_series_index", "<u2"), ("user_int", "<i4", (8,)), ("user_float", "<f4", (8,)),
    ("attribute_string_len", "<u4"),
])  # fmt: skip
_FLOAT, _MAGNITUDE = 5, 1
KIND = "kind"
"""Attribute of a group of images: mean, std, lower or upper."""


def write_ismrmrd_images(folder: Path, images: ImageSet) -> list[str]:
    """Write each kind of image as a series, `dataset/image_0` the mean, then std, lower and upper.

    Data are float32 `(slice, channel, z, y, x)` with x along the rows, which is the readout, and y along the columns;
    position is that of the middle pixel, as in headers of acquisitions.
    """
    slices, rows, cols = images.shape
    row_mm, col_mm, _ = images.geometry.voxel_mm
    fov_mm = (rows * row_mm, cols * col_mm, images.geometry.slice_distance_mm)
    known = {name: images.attrs[name] for name in ("field_T", "patient_id") if name in images.attrs}
    with whole_file(folder / "images.h5") as temporary, h5py.File(temporary, "w") as file:
        xml = write_header((rows, cols), (rows, cols), fov_mm, known)
        file.create_dataset("dataset/xml", data=[xml.encode()], dtype=h5py.special_dtype(vlen=bytes))
        for number, (kind, values) in enumerate(images.images.items()):
            texts = [_attributes(kind, images, position) for position in range(slices)]
            heads = np.zeros(slices, dtype=_HEADER)
            heads["version"], heads["data_type"], heads["image_type"], heads["channels"] = 1, _FLOAT, _MAGNITUDE, 1
            heads["matrix_size"], heads["field_of_view"] = (rows, cols, 1), fov_mm
            for name, direction in zip(("read_dir", "phase_dir", "slice_dir"), images.geometry.directions, strict=True):
                heads[name] = direction
            middles = np.array([(rows // 2, cols // 2, index, 1) for index in range(slices)])
            heads["position"] = (middles @ images.affine_lps.T)[:, :3]
            heads["slice"] = images.first_slice + np.arange(slices)
            heads["image_index"], heads["image_series_index"] = 1 + np.arange(slices), number
            heads["attribute_string_len"] = [len(text.encode()) for text in texts]
            group = file.create_group(f"dataset/image_{number}")
            group.attrs[KIND] = kind
            group.create_dataset("header", data=heads, maxshape=(None,))
            group.create_dataset("attributes", data=texts, dtype=h5py.string_dtype(), maxshape=(None,))
            stored = np.asarray(values, dtype="<f4").transpose(0, 2, 1)[:, None, None]
            group.create_dataset("data", data=stored, maxshape=(None, *stored.shape[1:]), chunks=(1, *stored.shape[1:]))
    return ["images.h5"]


def _attributes(kind: str, images: ImageSet, position: int) -> str:
    """Return the attributes of an image, as XML of the ISMRMRD package: names that MRD knows, then our own."""
    geometry, voxel_mm = images.geometry, (*images.geometry.voxel_mm[:2], images.geometry.slice_distance_mm)
    values: dict[str, Sequence[object]] = {
        "DataRole": ["Image" if kind == "mean" else "Quantitative"],
        "ImageType": [f"DERIVED\\{'PRIMARY' if kind == 'mean' else 'SECONDARY'}\\OTHER\\{kind.upper()}"],
        "SeriesDescription": [f"{kind} {images.method}".strip()],
        "ImageComment": [f"{RESEARCH_ONLY} {images.told(position)}".strip()],
        "ImageRowDir": [f"{x:.9g}" for x in geometry.directions[0]],
        "ImageColumnDir": [f"{x:.9g}" for x in geometry.directions[1]],
        "Image": [kind],
        "Unit": ["of the k-space, arbitrary"],
        "VoxelSize_mm": [f"{x:.6g}" for x in voxel_mm],
        "GeometryStated": [str(geometry.stated).lower()],
        **({"GeometryNotes": images.notes} if images.notes else {}),
        "Notice": [RESEARCH_ONLY],
    }
    if images.verdicts:
        verdict = images.verdicts[position]
        values |= {"Verdict": [verdict.level], "VerdictReasons": verdict.reasons}
        values |= {"GivenInPlaceOfMean": [verdict.given]} if verdict.given else {}
    entries = "".join(
        f"<meta><name>{name}</name>{''.join(f'<value>{escape(str(each))}</value>' for each in held)}</meta>"
        for name, held in values.items()
        if held
    )
    return f'<?xml version="1.0"?>\n<ismrmrdMeta>{entries}</ismrmrdMeta>\n'
