"""Files that results are written to besides `reconstruction.h5`: one module a format, and the table of them.

A new one is a file with a function `(folder, images) -> names of what it wrote` and a row in `OUTPUTS`.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdrift.recon.outputs.bart_images import write_bart_images
from kdrift.recon.outputs.dicom_series import write_dicom_series
from kdrift.recon.outputs.image_set import ImageSet
from kdrift.recon.outputs.ismrmrd_images import write_ismrmrd_images
from kdrift.recon.outputs.nifti_images import write_nifti_images
from kdrift.runs.hint import one_line, suggest

ALWAYS = "h5"


@dataclass(frozen=True)
class Output:
    """One row of `OUTPUTS`."""

    write: Callable[[Path, ImageSet], list[str]]
    """Write the images into a folder and return the names of the files and folders made."""
    package: str = ""
    """Package that it needs; kdrift's extra is called like the output."""


OUTPUTS: dict[str, Output] = {
    "nifti": Output(write_nifti_images, "nibabel"),
    "dicom": Output(write_dicom_series, "pydicom"),
    "ismrmrd": Output(write_ismrmrd_images),
    "bart": Output(write_bart_images),
}
"""Outputs by their names."""


def read_outputs(text: str) -> tuple[str, ...]:
    """Read `h5,nifti,dicom`: the outputs besides `h5`, which is always written.

    Raises ValueError for a name that there is not, and where the package that an output needs is not installed.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name != ALWAYS and name not in OUTPUTS:
            raise ValueError(f"no output {name[:40]!r}{suggest(name, [ALWAYS, *OUTPUTS])}")
        package = OUTPUTS[name].package if name in OUTPUTS else ""
        if package and importlib.util.find_spec(package) is None:
            raise ValueError(f"output {name} needs {package}: pip install 'kdrift[{name}]'")
    return tuple(name for name in names if name != ALWAYS)


def remove_output(folder: Path, name: str) -> None:
    """Remove what a writer once named as written: a file, or a folder of a series."""
    path = folder / name
    if path.is_dir():
        shutil.rmtree(path)
        if path.parent != folder and not any(path.parent.iterdir()):
            path.parent.rmdir()
        return
    path.unlink(missing_ok=True)


def write_outputs(folder: Path, images: ImageSet, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Write some outputs, each file or folder whole or not at all; return what was written, and what failed and why.

    An output that fails costs itself alone.
    """
    written: list[str] = []
    failed: list[str] = []
    for name in names:
        try:
            written += OUTPUTS[name].write(folder, images)
        except (OSError, ValueError) as error:
            failed.append(f"output {name} was not written: {one_line(error)}")
    return written, failed
