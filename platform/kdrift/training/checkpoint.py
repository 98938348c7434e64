"""Checkpoints: one folder each, written beside its place and renamed into it: a half one never counts.

They live in `<out>/checkpoints`, not in Ray's storage: there the rename is ours, and a run resumes with any
version of Ray. `<out>` must be a folder that all nodes share.
"""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

_FILE = "state.pt"


def save_checkpoint(folder: Path, state: dict[str, Any], *, images: int, keep: int) -> Path:
    """Write `folder/images_<n>/state.pt` atomically and delete all but the `keep` newest checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"images_{images:012d}"
    partial = folder / f".partial_{images:012d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    with (partial / _FILE).open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    if target.exists():  # an earlier attempt came this far and died before it could go on: the same images
        shutil.rmtree(target)
    partial.rename(target)
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a folder, oldest first."""
    return sorted(path for path in folder.glob("images_*") if (path / _FILE).is_file())


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint of a folder, or None."""
    found = list_checkpoints(folder)
    return found[-1] if found else None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; only tensors and plain values are unpickled.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    try:
        return torch.load(path / _FILE, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"checkpoint {path} cannot be read ({reason}); delete it to resume from an older one"
        ) from None
