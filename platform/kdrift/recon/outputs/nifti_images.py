"""NIfTI output: `mean.nii.gz`, `std.nii.gz`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdrift.notice import RESEARCH_ONLY
from kdrift.recon.outputs.image_set import ImageSet
from kdrift.runs.files import whole_file

_SCANNER, _ALIGNED = 1, 2


def write_nifti_images(folder: Path, images: ImageSet) -> list[str]:
    """Write each kind of image as `KIND.nii.gz`."""
    for kind, values in images.images.items():
        write_nifti(folder / f"{kind}.nii.gz", values, images.affine_ras, stated=images.geometry.stated)
    return [f"{kind}.nii.gz" for kind in images.images]


def write_nifti(
    path: Path, images: npt.NDArray[np.float32], affine: npt.NDArray[np.float64], *, stated: bool = False
) -> None:
    """Write images `(slice, row, col)` as NIfTI with axes (col, row, slice), which `affine` takes to mm (RAS).

    qform and sform have the code of the scanner where the place is `stated`, else that of an aligned image. Raises
    ValueError where nibabel is not installed.
    """
    try:
        import nibabel
    except ImportError:
        raise ValueError("NIfTI output needs nibabel: pip install 'kdrift[nifti]'") from None
    image = nibabel.Nifti1Image(np.asarray(images, dtype=np.float32).transpose(2, 1, 0), affine)
    code = _SCANNER if stated else _ALIGNED
    image.set_qform(affine, code)
    image.set_sform(affine, code)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = RESEARCH_ONLY
    with whole_file(path) as temporary:
        nibabel.save(image, temporary)
