"""Results in other forms than `reconstruction.h5`, made of it when somebody asks."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

from kdrift.recon.outputs import ALWAYS, OUTPUTS, read_outputs
from kdrift.recon.outputs.from_file import read_image_set
from kdrift.runs.files import write_zip
from kdrift.runs.hint import suggest
from kdrift_serve.pictures import picture

_WORDS = {
    ALWAYS: "HDF5 in the layout of fastMRI: all images and what was run", "npz": "NumPy: the same arrays",
    "png": "pictures of mean and deviation, a slice each", "nifti": "NIfTI-1, with the scanner's geometry",
    "dicom": "DICOM: an MR series each", "ismrmrd": "ISMRMRD images, each with its verdict",
    "bart": "BART: .cfl and .hdr",
}  # fmt: skip
FORMS = {name: _WORDS.get(name, name) for name in (ALWAYS, "npz", "png", *OUTPUTS)}
"""What `format` may name, and what it is."""
MEDIA_TYPES = {
    ".h5": "application/x-hdf5", ".npz": "application/x-npz", ".png": "image/png", ".gz": "application/gzip",
    ".zip": "application/zip",
}  # fmt: skip


def check_form(name: str) -> None:
    """Raise ValueError for a form that there is not, or whose package is not installed."""
    if name not in FORMS:
        raise ValueError(f"no format {name[:40]!r}{suggest(name, FORMS)}; there are {', '.join(FORMS)}")
    if name in OUTPUTS:
        read_outputs(name)


def make_form(path: Path, name: str, folder: Path) -> Path:
    """Write the result `path` in a form into an empty folder and return the file: a zip archive of several.

    Raises ValueError where it cannot be made of this result.
    """
    made = folder / "made"
    made.mkdir()
    if name == "npz":
        _write_npz(path, made / "reconstruction.npz")
    elif name == "png":
        _write_pngs(path, made)
    else:
        OUTPUTS[name].write(made, read_image_set(path))
    files = sorted(each for each in made.rglob("*") if each.is_file())
    if len(files) == 1:
        return files[0]
    write_zip(folder / f"{name}.zip", made, files)
    return folder / f"{name}.zip"


def _write_npz(path: Path, target: Path) -> None:
    """Write the arrays of a result by their names, and what it says of itself as JSON text, `kdrift`."""
    with h5py.File(path) as file:
        arrays = {name: file[name][:] for name in file}
        report = str(file.attrs["kdrift"])
    np.savez(target, allow_pickle=False, kdrift=np.array(json.dumps(json.loads(report))), **arrays)


def _write_pngs(path: Path, folder: Path) -> None:
    """Write each slice of mean and deviation, by its number in the volume."""
    with h5py.File(path) as file:
        report = json.loads(file.attrs["kdrift"])
    for kind in ("mean", "std") if report["nfe"] else ("mean",):
        (folder / kind).mkdir()
        for position, index in enumerate(report["slices"]):
            (folder / kind / f"{index:04d}.png").write_bytes(picture(path, kind, position)[0])
