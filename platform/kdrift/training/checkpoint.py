"""Checkpoints: one folder each, written beside its place and renamed into it: a half one never counts.

They live in `<out>/checkpoints`, not in Ray's storage: there the rename is ours, and a run resumes with any
version of Ray. `<out>` must be a folder that all nodes share.
"""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

from kdrift.runs.files import whole_folder

_FILE = "state.pt"


def save_checkpoint(folder: Path, state: dict[str, Any], *, images: int, keep: int) -> Path:
    """Write `folder/images_<n>/state.pt` atomically and delete all but the `keep` newest checkpoints."""
    target = folder / f"images_{images:012d}"
    for left in folder.glob(".images_*"):  # a worker was killed while it wrote; the run has one writer
        shutil.rmtree(left)
    # an earlier attempt may have come this far and died before it could go on: the same images
    with whole_folder(target, replace=True) as temporary:
        torch.save(state, temporary / _FILE)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a folder, oldest first."""
    return sorted(path for path in folder.glob("images_*") if (path / _FILE).is_file())


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint of a folder, or None."""
    return max(list_checkpoints(folder), default=None)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; only tensors and plain values are unpickled.

    Raises ValueError if the file is damaged.
    """
    try:
        held: dict[str, Any] = torch.load(path / _FILE, map_location="cpu", weights_only=True)
        return held
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"checkpoint {path} cannot be read ({reason}); delete it to resume from an older one"
        ) from None
