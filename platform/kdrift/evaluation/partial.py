"""What a batch leaves while it runs: finished slices, each a file, and a mark on each finished volume.

A file is whole or absent, and holds the key of its task: what was made under other settings, or from other data, is
not taken for done.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from kdrift.evaluation.work import VolumeTask
from kdrift.recon.gather import Outcome, SliceFacts
from kdrift.recon.merge import SliceResult
from kdrift.recon.report import MARK
from kdrift.recon.seen import Seen
from kdrift.recon.slice_file import has_images, read_outcome, read_seen, write_failure, write_slice
from kdrift.runs.files import read_json, write_json


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
    return [index for index in task.slices if not has_images(_path(task, index), task.key)]


def save_slice(task: VolumeTask, facts: SliceFacts, result: SliceResult, seen: Seen) -> None:
    """Write one finished slice, and what was seen of its k-space."""
    write_slice(_path(task, facts.index), facts, result, key=task.key, seen=seen)


def save_failure(task: VolumeTask, index: int, reason: str, seen: Seen | None) -> None:
    """Write down why a slice has no images; it is tried again when the batch is resumed."""
    write_failure(_path(task, index), reason, key=task.key, seen=seen)


def load_slice(task: VolumeTask, index: int) -> Outcome:
    """Read one finished slice, or why there is none."""
    return read_outcome(_path(task, index))


def load_seen(task: VolumeTask, index: int) -> Seen | None:
    """Return what was seen of a slice's k-space; None where it was not read, or whoever read it is lost."""
    return read_seen(_path(task, index))


def _folder(task: VolumeTask) -> Path:
    return task.out.parent / ".partial" / task.out.name


def _path(task: VolumeTask, index: int) -> Path:
    return _folder(task) / f"{index:05d}.npz"
