"""Images of a result, as MRD messages."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from kdrift.recon.outputs.ismrmrd_images import KIND
from kdrift_serve.mrd.messages import Refused, image_message
from kdrift_serve.mrd.options import KINDS

OUTPUT = "images.h5"
"""The file of the output `ismrmrd`."""


def unpack_images(archive: Path) -> Path:
    """Return the file of images of the outputs of a job. Raises `Refused` where it was not written."""
    target = archive.parent / OUTPUT
    with zipfile.ZipFile(archive) as outputs:
        if OUTPUT not in outputs.namelist():
            raise Refused("the images could not be written: the notes of the reconstruction say why")
        outputs.extract(OUTPUT, archive.parent)
    archive.unlink()
    return target


def kinds_of(path: Path) -> tuple[str, ...]:
    """Return which images there are, in the order of `KINDS`."""
    with h5py.File(path, "r") as file:
        there = {str(group.attrs[KIND]) for name, group in file["dataset"].items() if name.startswith("image_")}
    return tuple(kind for kind in KINDS if kind in there)


def image_messages(path: Path, kinds: tuple[str, ...], measurement_uid: int) -> Iterator[bytes]:
    """Yield the messages of all slices of each kind, one after another; the scan's number is put into their headers."""
    with h5py.File(path, "r") as file:
        groups = {str(file["dataset"][name].attrs[KIND]): name for name in file["dataset"] if name.startswith("image_")}
        for kind in kinds:
            group = file["dataset"][groups[kind]]
            for head, text, data in zip(group["header"], group["attributes"], group["data"], strict=True):
                head["measurement_uid"] = measurement_uid
                yield image_message(head.tobytes(), bytes(text), np.ascontiguousarray(data, dtype="<f4").tobytes())
