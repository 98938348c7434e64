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
from kdrift.recon.acquisition import Acquisition, AcquisitionFacts
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
    """Write an acquisition: a file a slice, with all that its reconstruction takes, and one of what is told of them."""
    for position in range(len(acquisition.slice_indices)):
        raw = acquisition.raw(position)
        arrays = {"kspace": raw.kspace, "mask": raw.mask, "smaps": raw.smaps, "calibration": raw.calibration}
        coils = {name: value for name, value in vars(raw.coils).items() if name != "noise_cov"}
        arrays["noise_cov"] = raw.coils.noise_cov
        _save(folder / slice_file(position), {"index": raw.index, "coils": coils}, arrays)
    said = {
        "info": to_dict(acquisition.info),
        "slice_indices": acquisition.slice_indices,
        "sampling": acquisition.sampling,
        "net_acceleration": acquisition.net_acceleration,
        "reference_definition": acquisition.reference_definition,
        "image_shape": list(acquisition.image_shape),
        "reference_fit": None if acquisition.reference_fit is None else asdict(acquisition.reference_fit),
        "notes": list(acquisition.notes),
    }
    _save(folder / HEADER, said, {"mask": acquisition.mask, "reference": acquisition.reference})


def read_facts(path: Path) -> AcquisitionFacts:
    """Return what is told of an acquisition, by its header file. Raises `OtherFormat`."""
    said, arrays = _load(path)
    fit = said["reference_fit"]
    return AcquisitionFacts(
        info=parse(VolumeInfo, said["info"], "info"),
        slice_indices=said["slice_indices"],
        mask=arrays["mask"],
        sampling=said["sampling"],
        net_acceleration=said["net_acceleration"],
        reference=arrays.get("reference"),
        reference_definition=said["reference_definition"],
        image_shape=tuple(said["image_shape"]),
        reference_fit=None if fit is None else parse(ReferenceFit, fit, "reference_fit"),
        notes=tuple(said["notes"]),
    )


def read_slice(path: Path) -> RawSlice:
    """Return one slice. Raises `OtherFormat`."""
    said, arrays = _load(path)
    coils = Coils(noise_cov=arrays.pop("noise_cov", None), **said["coils"])
    smaps, calibration = (arrays.get(name) for name in ("smaps", "calibration"))
    return RawSlice(said["index"], arrays["kspace"], arrays["mask"], smaps, calibration, coils)


def _save(path: Path, said: dict[str, Any], arrays: dict[str, Tensor | None]) -> None:
    kept = {name: value.numpy() for name, value in arrays.items() if value is not None}
    np.savez(path, allow_pickle=False, said=np.array(json.dumps({"format": FORMAT, **said})), **kept)


def _load(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with np.load(path, allow_pickle=False) as file:
        said = json.loads(str(file["said"]))
        if said["format"] != FORMAT:
            raise OtherFormat("the data of this job were read by another version of kdrift: send it again")
        return said, {name: torch.from_numpy(file[name]) for name in file.files if name != "said"}
