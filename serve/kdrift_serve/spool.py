"""An acquisition as it was read, in files of our own that are read without a parser: numbers and JSON alone."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdrift.data.volume import VolumeInfo
from kdrift.recon.acquisition import Acquisition
from kdrift.recon.reference import ReferenceFit
from kdrift.recon.slices import Coils, RawSlice
from kdrift.runs.config import parse, to_dict

FORMAT = 1
"""The version of these files; those of another one are not read."""
SCAN = "scan"
HEADER = "acquisition.npz"


class OtherFormat(ValueError):
    """The files were written by another version of kdrift."""


def slice_file(position: int) -> str:
    """Return the name of the file of a slice, by its position among those chosen."""
    return f"{position:05d}.npz"


def write_spool(folder: Path, acquisition: Acquisition) -> None:
    """Write an acquisition, one file a slice and one of what they share."""
    for position in range(len(acquisition.slice_indices)):
        raw = acquisition.raw(position)
        arrays = {"kspace": raw.kspace, "mask": raw.mask, "smaps": raw.smaps, "calibration": raw.calibration}
        _save(folder / slice_file(position), {"index": raw.index}, arrays)
    coils = acquisition.coils
    said = {
        "format": FORMAT,
        "info": to_dict(acquisition.info),
        "slice_indices": acquisition.slice_indices,
        "sampling": acquisition.sampling,
        "net_acceleration": acquisition.net_acceleration,
        "reference_definition": acquisition.reference_definition,
        "image_shape": list(acquisition.image_shape),
        "reference_fit": None if acquisition.reference_fit is None else asdict(acquisition.reference_fit),
        "coils": {name: value for name, value in vars(coils).items() if name != "noise_cov"},
        "notes": list(acquisition.notes),
    }
    shared = {"mask": acquisition.mask, "reference": acquisition.reference, "noise_cov": coils.noise_cov}
    _save(folder / HEADER, said, shared)


def read_acquisition(path: Path) -> Acquisition:
    """Return the acquisition of a header file, without its k-space. Raises `OtherFormat`."""
    said, arrays = _load(path)
    if said["format"] != FORMAT:
        raise OtherFormat("the data of this job were read by another version of kdrift: send it again")
    fit = said["reference_fit"]
    return Acquisition(
        info=parse(VolumeInfo, said["info"], "info"),
        slice_indices=said["slice_indices"],
        kspace=torch.empty(0),
        mask=arrays["mask"],
        sampling=said["sampling"],
        net_acceleration=said["net_acceleration"],
        reference=arrays.get("reference"),
        reference_definition=said["reference_definition"],
        image_shape=tuple(said["image_shape"]),
        reference_fit=None if fit is None else parse(ReferenceFit, fit, "reference_fit"),
        coils=Coils(noise_cov=arrays.get("noise_cov"), **said["coils"]),
        notes=tuple(said["notes"]),
    )


def read_slice(header: Path, path: Path) -> RawSlice:
    """Return one slice, with what is known of its coils."""
    coils = read_acquisition(header).coils
    said, arrays = _load(path)
    smaps, calibration = (arrays.get(name) for name in ("smaps", "calibration"))
    return RawSlice(said["index"], arrays["kspace"], arrays["mask"], smaps, calibration, coils)


def _save(path: Path, said: dict[str, Any], arrays: dict[str, Tensor | None]) -> None:
    kept = {name: value.numpy() for name, value in arrays.items() if value is not None}
    np.savez(path, allow_pickle=False, said=np.array(json.dumps(said)), **kept)


def _load(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "said"}
        return json.loads(str(file["said"])), arrays
