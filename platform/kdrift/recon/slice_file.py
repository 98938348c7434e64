"""One finished slice as a file: its images and facts, or why there are none, and what was seen of its k-space."""

from __future__ import annotations

import dataclasses
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdrift.data.measured import Marks
from kdrift.recon.gather import Outcome, SliceFacts
from kdrift.recon.merge import SliceResult
from kdrift.recon.seen import Doubts, Seen
from kdrift.runs.config import parse, to_dict
from kdrift.runs.files import whole_file
from kdrift.trust.verdict import Verdict

SEEN = "seen_"
"""What names of arrays begin with that say what was seen of k-space."""
MARKS = ("nonzero", "residue")


def write_slice(path: Path, facts: SliceFacts, result: SliceResult, *, key: str = "", seen: Seen | None = None) -> None:
    """Write a slice that is done; `key` names what it was made of."""
    values = {**vars(facts), **vars(result)}
    arrays = {name: value.numpy() for name, value in values.items() if isinstance(value, torch.Tensor)}
    _write(path, {"facts": _scalars(facts), "result": _scalars(result), "key": key}, arrays, seen)


def write_failure(path: Path, reason: str, *, key: str = "", seen: Seen | None = None) -> None:
    """Write why a slice has no images."""
    _write(path, {"failed": reason, "key": key}, {}, seen)


def read_outcome(path: Path) -> Outcome:
    """Return what became of a slice."""
    with np.load(path, allow_pickle=False) as file:
        scalars = json.loads(str(file["scalars"]))
        names = [name for name in file.files if name != "scalars" and not name.startswith(SEEN)]
        arrays = {name: torch.from_numpy(file[name]) for name in names}
    if "failed" in scalars:
        return str(scalars["failed"])
    said = scalars["facts"]
    facts = SliceFacts(zero_filled=arrays["zero_filled"], **{**said, "notes": tuple(said["notes"])})
    result = scalars["result"]
    result["diverged"] = {int(sample): why for sample, why in result["diverged"].items()}  # JSON has no numbers as keys
    if "verdict" in result:
        result["verdict"] = parse(Verdict, result["verdict"], "verdict")
    return facts, SliceResult(arrays["mean"], arrays["std"], arrays.get("samples"), **result)


def read_seen(path: Path) -> Seen | None:
    """Return what was seen of a slice's k-space; None where it was not read, or whoever read it is lost."""
    with np.load(path, allow_pickle=False) as file:
        said = json.loads(str(file["scalars"])).get("seen")
        if said is None:
            return None
        shape, size = said["shape"], math.prod(said["shape"])
        nonzero, residue = (np.unpackbits(file[f"{SEEN}{name}"], count=size).reshape(shape) != 0 for name in MARKS)
        doubts, mask_doubts = (Doubts(peak, tuple(found)) for peak, found in (said["doubts"], said["mask_doubts"]))
        shown = file[f"{SEEN}shown"] if f"{SEEN}shown" in file.files else None
        return Seen(Marks(nonzero, residue), doubts, mask_doubts, shown)


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


def _write(path: Path, scalars: dict[str, Any], arrays: dict[str, Any], seen: Seen | None) -> None:
    if seen is not None:
        both = {"doubts": seen.doubts, "mask_doubts": seen.mask_doubts}
        said = {name: (doubts.peak, doubts.sentences) for name, doubts in both.items()}
        scalars |= {"seen": {"shape": seen.marks.nonzero.shape, **said}}
        arrays |= {f"{SEEN}{name}": np.packbits(getattr(seen.marks, name)) for name in MARKS}
        arrays |= {} if seen.shown is None else {f"{SEEN}shown": seen.shown}
    with whole_file(path) as temporary:
        np.savez(temporary, allow_pickle=False, scalars=np.array(json.dumps(scalars)), **arrays)


def _scalars(record: Any) -> dict[str, Any]:
    kept = {name: value for name, value in vars(record).items() if not isinstance(value, torch.Tensor | None)}
    return {name: to_dict(value) if dataclasses.is_dataclass(value) else value for name, value in kept.items()}
