"""Checkpoints that the training does not wait for: it stops while its state is copied, and a thread writes the copy."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from kdrift.training.sharding import whole


class CheckpointWriter:
    """Gives copies of a state to `write(content, images)`, one at a time, in a thread of its own.

    Whatever `write` raises is raised by the next call of any method here, and at the latest at the end of the `with`
    block, which waits for the last checkpoint.
    """

    def __init__(self, write: Callable[[dict[str, Any], int], None]) -> None:
        self._write = write
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def submit(self, content: dict[str, Any], images: int) -> None:
        """Have a state written as it is now; it may change as soon as this returns.

        Waits for the checkpoint before it, so that no more than one copy is held.
        """
        self.wait()
        self._pending = self._thread.submit(self._write, host_copy(content), images)

    def check(self) -> None:
        """Raise what the last checkpoint met, if it has met it by now."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the last checkpoint is written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._thread:
            self.wait()


def host_copy(value: Any) -> Any:
    """Return a copy of nested dicts, lists and tuples with their tensors, whole, copied to host memory.

    Those of a GPU go into pinned memory, all at once, and are there when this returns.
    """
    copied = _copy(value)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return copied


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = whole(value)
        target = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda, requires_grad=False)
        return target.copy_(value.detach(), non_blocking=True)
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    return type(value)(map(_copy, value)) if type(value) in (list, tuple) else value
