"""One finished slice as a file: its images and facts, or why there are none."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdrift.recon.gather import Outcome, SliceFacts
from kdrift.recon.merge import SliceResult
from kdrift.runs.config import parse, to_dict
from kdrift.runs.files import whole_file
from kdrift.trust.verdict import Verdict


def write_slice(path: Path, facts: SliceFacts, result: SliceResult, key: str = "") -> None:
    """Write a slice that is done; `key` names what it was made of."""
    values = {**vars(facts), **vars(result)}
    arrays = {name: value.numpy() for name, value in values.items() if isinstance(value, torch.Tensor)}
    _write(path, {"facts": _scalars(facts), "result": _scalars(result), "key": key}, **arrays)


def write_failure(path: Path, reason: str, key: str = "") -> None:
    """Write why a slice has no images."""
    _write(path, {"failed": reason, "key": key})


def read_outcome(path: Path) -> Outcome:
    """Return what became of a slice."""
    with np.load(path, allow_pickle=False) as file:
        scalars = json.loads(str(file["scalars"]))
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "scalars"}
    if "failed" in scalars:
        return str(scalars["failed"])
    said = scalars["facts"]
    facts = SliceFacts(zero_filled=arrays["zero_filled"], **{**said, "notes": tuple(said["notes"])})
    result = scalars["result"]
    result["diverged"] = {int(sample): why for sample, why in result["diverged"].items()}  # JSON has no numbers as keys
    if "verdict" in result:
        result["verdict"] = parse(Verdict, result["verdict"], "verdict")
    return facts, SliceResult(arrays["mean"], arrays["std"], arrays.get("samples"), **result)


def has_images(path: Path, key: str = "") -> bool:
    """Whether a file is there, whole, of this key, and of a slice that has images."""
    if not path.is_file():
        return False
    try:
        # the stream is ours: np.load leaves open what it opened of a damaged archive
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            scalars = json.loads(str(file["scalars"]))
            return bool(scalars["key"] == key and "failed" not in scalars)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile):  # damaged on the disk: done again
        return False


def _write(path: Path, scalars: dict[str, Any], **arrays: Any) -> None:
    with whole_file(path) as temporary:
        np.savez(temporary, allow_pickle=False, scalars=np.array(json.dumps(scalars)), **arrays)


def _scalars(record: Any) -> dict[str, Any]:
    kept = {name: value for name, value in vars(record).items() if not isinstance(value, torch.Tensor | None)}
    return {name: to_dict(value) if dataclasses.is_dataclass(value) else value for name, value in kept.items()}
