"""Checkpoints: one folder each, written beside its place and renamed into it: a half one never counts.

They live in `<out>/checkpoints`, not in Ray's storage: there the rename is ours, and a run resumes with any
version of Ray. `<out>` must be a folder that all nodes share. Each has a digest, which is checked when it is read.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from kdrift.runs.files import file_sha256, put_folder, whole_folder

_FILE, _SUMS = "state.pt", "SHA256SUMS"
Content = TypeVar("Content")


def save_checkpoint(folder: Path, state: dict[str, Any], *, images: int, keep: int) -> Path:
    """Write `folder/images_<n>/state.pt` and its digest atomically; delete all but the `keep` newest checkpoints."""
    target = folder / f"images_{images:012d}"
    for left in folder.glob(".images_*"):  # a worker was killed while it wrote; the run has one writer
        shutil.rmtree(left)
    # an earlier attempt may have come this far and died before it could go on: the same images
    with whole_folder(target, replace=True) as temporary:
        torch.save(state, temporary / _FILE)
        (temporary / _SUMS).write_text(f"{file_sha256(temporary / _FILE)}  {_FILE}\n")
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first, sound or not."""
    return sorted(path for path in folder.glob("images_*") if any((path / name).is_file() for name in (_FILE, _SUMS)))


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint of a folder, or None."""
    return max(list_checkpoints(folder), default=None)


def newest_sound(folder: Path, say: Callable[[str], None]) -> Path | None:
    """Return the newest checkpoint that is what was written, None where there is no checkpoint at all.

    Damaged ones that are newer are renamed to `damaged_images_<n>`, which no run reads, and `say` is told.

    Raises ValueError where there are checkpoints and all are damaged.
    """
    found = _newest(folder, say, _check)
    return found[0] if found is not None else None


def load_newest(folder: Path, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest checkpoint that is what was written and what it holds; else as `newest_sound`."""
    return _newest(folder, say, load_checkpoint)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; only tensors and plain values are unpickled.

    The file is read once, and what was checked is what is loaded: meanwhile it is held in memory.

    Raises ValueError if the file is damaged.
    """
    content = (path / _FILE).read_bytes() if (path / _FILE).is_file() else b""
    if (path / _SUMS).is_file():
        _compare(path, hashlib.sha256(content).hexdigest())
    return _load(path, io.BytesIO(content))


def _newest(folder: Path, say: Callable[[str], None], read: Callable[[Path], Content]) -> tuple[Path, Content] | None:
    found = list_checkpoints(folder)
    for path in reversed(found):
        try:
            return path, read(path)
        except ValueError as error:
            aside = path.with_name(f"damaged_{path.name}")
            put_folder(path, aside, replace=True)
            say(f"{error}; it is {aside.name} now, and an older one is looked for")
    if found:
        raise ValueError(f"all {len(found)} checkpoints in {folder} are damaged: remove them to train from the start")
    return None


def _check(path: Path) -> None:
    """Raise ValueError unless a checkpoint is what was written; one of an older version, if it can be read."""
    if not (path / _SUMS).is_file():
        _load(path, path / _FILE)
    else:
        _compare(path, file_sha256(path / _FILE) if (path / _FILE).is_file() else "")


def _compare(path: Path, digest: str) -> None:
    if (path / _SUMS).read_text(errors="replace") != f"{digest}  {_FILE}\n":
        raise ValueError(f"checkpoint {path} is damaged: {_FILE} does not match {_SUMS}")


def _load(path: Path, content: Path | io.BytesIO) -> dict[str, Any]:
    try:
        held: dict[str, Any] = torch.load(content, map_location="cpu", weights_only=True)
        return held
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"checkpoint {path} is damaged: {reason}") from None
