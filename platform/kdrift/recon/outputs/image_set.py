"""What every output is written from: images, and where they lie in the patient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kdrift.data.geometry import Geometry
from kdrift.data.volume import Attr, VolumeInfo
from kdrift.recon.sentences import verdict_summary
from kdrift.trust.verdict import Verdict


@dataclass(frozen=True)
class ImageSet:
    """Images of the same slices, by what they are."""

    name: str
    """Name of the volume."""
    images: Mapping[str, npt.NDArray[np.float32]]
    """`mean` and, of a method that samples, `std`, and `lower` and `upper` where there is a spread: magnitudes `(slice,
    row, col)`."""
    geometry: Geometry
    """Voxels and place of the whole volume."""
    first_slice: int = 0
    """Slice of the volume that is the first here."""
    method: str = ""
    """How they were made, in a few words."""
    attrs: Mapping[str, Attr] = field(default_factory=dict)
    """What the source said: patient_id, study_uid, frame_of_reference_uid, field_T, ..."""
    verdicts: tuple[Verdict, ...] = ()
    """Verdict on each slice; empty where nothing is said."""
    notes: tuple[str, ...] = ()
    """What of the geometry is a guess."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        slices, rows, cols = next(iter(self.images.values())).shape
        return slices, rows, cols

    @property
    def verdict(self) -> str:
        """The worst verdict, in few words; empty where nothing is said."""
        return verdict_summary([verdict.level for verdict in self.verdicts]) if self.verdicts else ""

    def told(self, position: int) -> str:
        """Return the verdict on a slice, by its position here, as a sentence; empty where nothing is said."""
        return f"Verdict: {self.verdicts[position]}." if self.verdicts else ""

    @property
    def affine_lps(self) -> npt.NDArray[np.float64]:
        """From (row, col, slice) here to mm (LPS)."""
        return self.geometry.affine_lps(*self.shape[1:], self.first_slice)

    @property
    def affine_ras(self) -> npt.NDArray[np.float64]:
        """From (col, row, slice) here to mm (RAS)."""
        return self.geometry.affine_ras(*self.shape[1:], self.first_slice)


def method_line(config: Mapping[str, Any], nfe: int, sampling: str) -> str:
    """Return how images were made, in a few words: method, preset, samples of one that draws some, undersampling."""
    how = " ".join(part for part in (config["method"], config["preset"]) if part)
    samples = f", {config['num_samples']} samples" if nfe else ""
    return f"{how}{samples}, {sampling.partition(':')[0]}"


def place_of(info: VolumeInfo, rows: int, cols: int) -> tuple[Geometry, tuple[str, ...]]:
    """Return the geometry of a volume's images of `rows` x `cols`, and notes on what of it is a guess.

    Where the file states no geometry, voxels are the field of view over the pixels, or 1 mm.
    """
    geometry, notes = info.geometry, list[str]()
    if geometry is None:
        field_of_view = [float(part) for part in str(info.attrs.get("fov_mm", "")).split("x") if part.strip()]
        if len(field_of_view) == 3 and min(field_of_view) > 0:
            tall, wide, depth = field_of_view
            geometry = Geometry((tall / rows, wide / cols, depth))
        else:
            geometry = Geometry((1.0, 1.0, 1.0))
            notes.append("the source states no voxel size: lengths in NIfTI, DICOM and ISMRMRD outputs mean nothing")
    if not geometry.stated:
        notes.append(
            "the source states no position and direction: outputs lie as an axial slice seen from the feet would, and"
            " left and right are not to be taken from them"
        )
    return geometry, tuple(notes)
