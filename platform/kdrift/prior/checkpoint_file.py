"""Files of published checkpoints: read without unpickling code, and taken apart by their layout."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

EXPECTED = (
    "expected a mapping with model and ema (Score-MRI, HFS-SDE, score_sde), a list of model, optimizer, epoch, step and"
    " ema (NCSNv2), or a mapping with net and ema (EDM)"
)
State = dict[str, Tensor]
Layout = Literal["dict", "list", "edm"]


@dataclass(frozen=True)
class Published:
    """A checkpoint, taken apart: names are without the prefixes of wrappers."""

    layout: Layout
    model: State
    ema: State | list[Tensor] | None
    step: int | None


def read_checkpoint(path: str | Path) -> Any:
    """Load what `torch.save` wrote, tensors and plain containers only.

    Raises ValueError when unpickling it would need code, or it is no readable file of tensors.
    """

    def load(mmap: bool) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols that torch does not write itself
            return torch.load(path, weights_only=True, mmap=mmap, map_location="cpu")

    try:
        try:
            return load(mmap=True)
        except RuntimeError:  # files older than torch 1.6 cannot be mapped
            return load(mmap=False)
    except pickle.UnpicklingError:
        raise ValueError(f"{path}: needs pickled code to be run, which is refused") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or ["it ends too early"])[0]
        raise ValueError(f"{path}: not a readable checkpoint: {reason}") from None


def unpack(content: Any) -> Published:
    """Take a published layout apart (score_sde's dict, NCSNv2's list, EDM's net and ema)."""
    if isinstance(content, Mapping) and ("net" in content or "model" in content):
        layout: Layout = "edm" if "net" in content else "dict"
        step, model = content.get("step"), content["net" if layout == "edm" else "model"]
        return Published(layout, _state(model, "model"), _average(content.get("ema")), _whole(step))
    if isinstance(content, list) and content and isinstance(content[0], Mapping):
        _, _, _, step, ema = [*content[:5], *[None] * 5][:5]
        return Published("list", _state(content[0], "entry 0"), _average(ema), _whole(step))
    keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
    raise ValueError(f"not a published layout: {EXPECTED}, got {keys or 'nothing'}")


def _state(value: Any, where: str) -> State:
    if not isinstance(value, Mapping) or not all(isinstance(item, Tensor) for item in value.values()):
        raise ValueError(f"{where} is no mapping of names to tensors; {EXPECTED}")
    state = {str(key): item for key, item in value.items()}
    for prefix in ("module.", "network.", "model."):  # of nn.DataParallel and of EDM wrappers
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): item for key, item in state.items()}
    return state


def _average(ema: Any) -> State | list[Tensor] | None:
    """Return a moving average by name, or as the list in which score_sde keeps it."""
    if not isinstance(ema, Mapping) or "shadow_params" not in ema:
        return _state(ema, "ema") if ema else None
    shadow = ema["shadow_params"]
    if not isinstance(shadow, list) or not all(isinstance(item, Tensor) for item in shadow):
        raise ValueError(f"ema.shadow_params is no list of tensors; {EXPECTED}")
    return shadow


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None
