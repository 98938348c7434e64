"""What can go wrong with a unit of work, and who is to blame: its data, a moment, or the device that it ran on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from kdrift.recon.seen import Seen

Kind = Literal["data", "passing", "device"]
_DEVICE = ("cuda error", "cublas", "cudnn error", "cudnn_status", "cufft", "cusolver", "nccl", "hip error")
"""In messages of what CUDA's libraries raise as plain RuntimeErrors."""


@dataclass(frozen=True)
class Fault:
    """Why a unit has no result."""

    kind: Kind
    """`data`: it would fail again, wherever; `passing`: it may not, a moment later; `device`: an accelerator raises
    errors, after which nothing that this process does with it can be trusted."""
    reason: str
    seen: Seen | None = None
    """What was seen of the slice when it was read; None: it could not be read."""

    @classmethod
    def of(cls, error: Exception, seen: Seen | None = None) -> Fault:
        """Tell them apart. Memory that is short is the data's: batches were halved before that."""
        text = " ".join(str(error).split())
        said = text if isinstance(error, (ValueError, OSError)) and text else f"{type(error).__name__}: {text}"
        if isinstance(error, torch.OutOfMemoryError):
            return cls("data", f"the device's memory does not hold one image of it: {text}", seen)
        lower = text.lower()
        if isinstance(error, torch.AcceleratorError) or (
            isinstance(error, RuntimeError) and any(sign in lower for sign in _DEVICE)
        ):
            return cls("device", said, seen)
        if isinstance(error, (ConnectionError, TimeoutError)):
            return cls("passing", said, seen)
        return cls("data", said, seen)
