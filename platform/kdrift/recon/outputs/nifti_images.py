"""NIfTI output: `mean.nii.gz`, `std.nii.gz`, `lower.nii.gz`, `upper.nii.gz`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdrift.notice import RESEARCH_ONLY
from kdrift.recon.outputs.image_set import ImageSet
from kdrift.runs.files import whole_file

_SCANNER, _ALIGNED = 1, 2
_COMMENT = 6
"""Code of an extension that is text."""
_DESCRIPTION_MOST = 79


def write_nifti_images(folder: Path, images: ImageSet) -> list[str]:
    """Write each kind of image as `KIND.nii.gz`.

    The verdict stands in `descrip`; that of each slice, and what of the geometry is a guess, in a comment.
    """
    numbers = range(images.first_slice, images.first_slice + images.shape[0])
    lines = [f"slice {number}: {verdict}" for number, verdict in zip(numbers, images.verdicts, strict=False)]
    lines += images.notes
    for kind, values in images.images.items():
        path, stated = folder / f"{kind}.nii.gz", images.geometry.stated
        write_nifti(path, values, images.affine_ras, stated=stated, verdict=images.verdict, comment="\n".join(lines))
    return [f"{kind}.nii.gz" for kind in images.images]


def write_nifti(
    path: Path,
    images: npt.NDArray[np.float32],
    affine: npt.NDArray[np.float64],
    *,
    stated: bool = False,
    verdict: str = "",
    comment: str = "",
) -> None:
    """Write images `(slice, row, col)` as NIfTI with axes (col, row, slice), which `affine` takes to mm (RAS).

    qform and sform have the code of the scanner where the place is `stated`, else that of an aligned image. `verdict`
    goes into the description, `comment` into an extension. Raises ValueError where nibabel is not installed.
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
    image.header["descrip"] = f"{RESEARCH_ONLY} {verdict and f'Verdict: {verdict}.'}".strip()[:_DESCRIPTION_MOST]
    if comment:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(_COMMENT, comment.encode()))
    with whole_file(path) as temporary:
        nibabel.save(image, temporary)
