"""What the steps of a training take, drawn ahead of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdrift.training.objectives import TrainingObjective, objective_of
from kdrift.training.train_config import TrainConfig


class ImageSource(Protocol):
    """Training images as a pure function of the global image index."""

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Return `(batch, channel, row, col)` float32."""


class _Draws(Dataset[tuple[Tensor, ...]]):
    """What the objective draws of a rank's part of each batch, by the number of the batch's first image."""

    def __init__(self, objective: TrainingObjective, data: ImageSource, part: range) -> None:
        self._objective, self._data, self._part = objective, data, part

    def __getitem__(self, start: int) -> tuple[Tensor, ...]:
        indices = range(start + self._part.start, start + self._part.stop)
        return self._objective.draw(self._data.batch(indices), indices)


@contextmanager
def drawn_ahead(
    config: TrainConfig, data: ImageSource, part: range, start: int, device: torch.device
) -> Iterator[Iterator[tuple[Tensor, ...]]]:
    """Yield what `objective_of(config).draw` returns of `part` of every batch from image `start` on, on the device.

    `hardware.loaders` processes draw, or a thread. What they draw depends on the numbers of the images alone, so it is
    the same however many there are. A thread copies one batch to the device while the step of the one before runs.
    """
    loaders = config.hardware.loaders
    batches = DataLoader(
        _Draws(objective_of(config), data, part),
        batch_size=None,  # they are batches
        sampler=range(start, config.total_images, config.batch_size),
        num_workers=loaders,
        pin_memory=device.type == "cuda",
        multiprocessing_context="spawn" if loaders else None,  # forks of a process that has threads may hang
    )

    held = [iter(batches)]

    def load() -> tuple[Tensor, ...] | None:
        parts = next(held[0], None)
        return parts and tuple(part.to(device, non_blocking=True) for part in parts)

    def batches_ahead(thread: ThreadPoolExecutor) -> Iterator[tuple[Tensor, ...]]:
        pending = thread.submit(load)
        while (found := pending.result()) is not None:
            pending = thread.submit(load)
            yield found

    try:
        with ThreadPoolExecutor(1, "loader") as thread:
            yield batches_ahead(thread)
    finally:
        held.clear()  # processes end with the iterator, which frames of an error may outlive
