"""What a batch leaves while it runs: finished slices, each a file, and a mark on each finished volume.

A file is whole or absent, and holds the key of its task: what was made under other settings, or from other data, is
not taken for done.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdrift.data.measured import Marks
from kdrift.evaluation.work import VolumeTask
from kdrift.recon.gather import Outcome, SliceFacts
from kdrift.recon.merge import SliceResult
from kdrift.recon.report import MARK
from kdrift.recon.seen import Doubts, Seen
from kdrift.runs.config import parse, to_dict
from kdrift.runs.files import read_json, whole_file, write_json
from kdrift.trust.verdict import Verdict

SEEN = "seen_"
"""What names of arrays begin with that say what was seen of k-space."""
MARKS = ("nonzero", "residue")


def is_finished(task: VolumeTask) -> bool:
    """Whether the volume's results are there, made from these data with these settings."""
    mark = read_json(task.out / MARK)
    return mark.get("key") == task.key and mark.get("slices") == list(task.slices)


def mark_finished(task: VolumeTask) -> None:
    """Mark the volume, whose results are written, as finished, and remove its slices."""
    write_json(task.out / MARK, {"key": task.key, "slices": list(task.slices)})
    shutil.rmtree(_folder(task), ignore_errors=True)


def slices_left(task: VolumeTask) -> list[int]:
    """Return the slices of a volume that are not done yet."""
    return [index for index in task.slices if not _is_done(task, index)]


def save_slice(task: VolumeTask, facts: SliceFacts, result: SliceResult, seen: Seen) -> None:
    """Write one finished slice, and what was seen of its k-space."""
    values = {**vars(facts), **vars(result)}
    arrays = {name: value.numpy() for name, value in values.items() if isinstance(value, torch.Tensor)}
    _save(task, facts.index, {"facts": _scalars(facts), "result": _scalars(result)}, arrays, seen)


def save_failure(task: VolumeTask, index: int, reason: str, seen: Seen | None) -> None:
    """Write down why a slice has no images; it is tried again when the batch is resumed."""
    _save(task, index, {"failed": reason}, {}, seen)


def load_slice(task: VolumeTask, index: int) -> Outcome:
    """Read one finished slice, or why there is none."""
    with np.load(_path(task, index), allow_pickle=False) as file:
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


def load_seen(task: VolumeTask, index: int) -> Seen | None:
    """Return what was seen of a slice's k-space; None where it was not read, or whoever read it is lost."""
    with np.load(_path(task, index), allow_pickle=False) as file:
        said = json.loads(str(file["scalars"])).get("seen")
        if said is None:
            return None
        shape, size = said["shape"], math.prod(said["shape"])
        nonzero, residue = (np.unpackbits(file[f"{SEEN}{name}"], count=size).reshape(shape) != 0 for name in MARKS)
        doubts, mask_doubts = (Doubts(peak, tuple(found)) for peak, found in (said["doubts"], said["mask_doubts"]))
        shown = file[f"{SEEN}shown"] if f"{SEEN}shown" in file.files else None
        return Seen(Marks(nonzero, residue), doubts, mask_doubts, shown)


def _save(task: VolumeTask, index: int, scalars: dict[str, Any], arrays: dict[str, Any], seen: Seen | None) -> None:
    if seen is not None:
        shape = seen.marks.nonzero.shape
        both = {"doubts": seen.doubts, "mask_doubts": seen.mask_doubts}
        said = {name: (doubts.peak, doubts.sentences) for name, doubts in both.items()}
        scalars |= {"seen": {"shape": shape, **said}}
        arrays |= {f"{SEEN}{name}": np.packbits(getattr(seen.marks, name)) for name in MARKS}
        arrays |= {} if seen.shown is None else {f"{SEEN}shown": seen.shown}
    text = np.array(json.dumps({**scalars, "key": task.key}))
    with whole_file(_path(task, index)) as temporary:
        np.savez(temporary, allow_pickle=False, scalars=text, **arrays)


def _is_done(task: VolumeTask, index: int) -> bool:
    path = _path(task, index)
    if not path.is_file():
        return False
    try:
        # the stream is ours: np.load leaves open what it opened of a damaged archive
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            scalars = json.loads(str(file["scalars"]))
            return bool(scalars["key"] == task.key and "failed" not in scalars)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile):  # damaged on the disk: done again
        return False


def _scalars(record: Any) -> dict[str, Any]:
    kept = {name: value for name, value in vars(record).items() if not isinstance(value, torch.Tensor | None)}
    return {name: to_dict(value) if dataclasses.is_dataclass(value) else value for name, value in kept.items()}


def _folder(task: VolumeTask) -> Path:
    return task.out.parent / ".partial" / task.out.name


def _path(task: VolumeTask, index: int) -> Path:
    return _folder(task) / f"{index:05d}.npz"
