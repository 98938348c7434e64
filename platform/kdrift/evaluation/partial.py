"""What a batch leaves while it runs: finished slices, each a file, and a mark on each finished volume.

A file is written beside its place and renamed, so that it is whole or absent, and holds the key of its task: what was
made under other settings, or from other data, is not taken for done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from kdrift.evaluation.work import VolumeTask
from kdrift.recon.chunks import SliceResult
from kdrift.recon.result import SliceFacts
from kdrift.runs.config import flatten
from kdrift.runs.files import only_user, read_json, whole_file, write_json, write_yaml

MARK = "batch.json"
"""In a volume's folder: it is finished."""
CONFIG = "config.yaml"
"""In a run's folder: the configuration it began with."""


@contextlib.contextmanager
def run_folder(
    out: Path, settings: dict[str, Any], free: tuple[str, ...], tables: tuple[str, ...] = ()
) -> Iterator[None]:
    """Keep the folder of a run to this driver, and see that it continues what began there.

    `free` are keys and sections that may change, `tables` sections whose entries may be added and left out. Raises
    ValueError where another setting differs, or while another driver works in the folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    with only_user(out, f"another batch is writing to {out}"):
        saved = out / CONFIG
        if saved.is_file():
            before = yaml.safe_load(saved.read_text())
            changed = [f"{t}.{name}" for t in tables for name in before[t].keys() ^ settings[t].keys()]
            _check_same(before, settings, (*free, *changed), out)
        write_yaml(saved, settings)
        yield


def _check_same(saved: dict[str, Any], settings: dict[str, Any], free: Sequence[str], out: Path) -> None:
    old, new = flatten(saved), flatten(settings)
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key) and not any(key == name or key.startswith(f"{name}.") for name in free):
            raise ValueError(
                f"cannot resume in {out}: {key} was {old.get(key)!r} and is now {new.get(key)!r}; restore it or choose"
                " another out"
            )


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


def save_slice(task: VolumeTask, facts: SliceFacts, result: SliceResult) -> None:
    """Write one finished slice."""
    arrays = {"mean": result.mean, "std": result.std, "zero_filled": facts.zero_filled}
    if result.samples is not None:
        arrays["samples"] = result.samples
    scalars = {"facts": _scalars(facts), "result": _scalars(result), "key": task.key}
    path = _path(task, facts.index)
    values = {name: array.numpy() for name, array in arrays.items()}
    with whole_file(path) as temporary:
        np.savez(temporary, allow_pickle=False, scalars=np.array(json.dumps(scalars)), **values)


def load_slice(task: VolumeTask, index: int) -> tuple[SliceFacts, SliceResult]:
    """Read one finished slice."""
    with np.load(_path(task, index), allow_pickle=False) as file:
        scalars = json.loads(str(file["scalars"]))
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "scalars"}
    facts = SliceFacts(zero_filled=arrays["zero_filled"], **scalars["facts"])
    result = scalars["result"]
    result["diverged"] = {int(sample): why for sample, why in result["diverged"].items()}  # JSON has no numbers as keys
    return facts, SliceResult(arrays["mean"], arrays["std"], arrays.get("samples"), **result)


def _is_done(task: VolumeTask, index: int) -> bool:
    path = _path(task, index)
    if not path.is_file():
        return False
    try:
        with np.load(path, allow_pickle=False) as file:
            return bool(json.loads(str(file["scalars"]))["key"] == task.key)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile):  # damaged on the disk: done again
        return False


def _scalars(record: Any) -> dict[str, Any]:
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return {name: value for name, value in values.items() if value is not None and not isinstance(value, torch.Tensor)}


def _folder(task: VolumeTask) -> Path:
    return task.out.parent / ".partial" / task.out.name


def _path(task: VolumeTask, index: int) -> Path:
    return _folder(task) / f"{index:05d}.npz"
