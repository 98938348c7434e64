"""Pieces of work that share the network's batches: each runs as if it were alone, and what they ask of one network at
the same time is asked in one call.

A sampler is a plain function of one slice, with operators, noise level and random numbers of its own. None of that is
mixed: it runs in a thread of its own, one thread at a time, until it asks the network; when all wait for an answer, one
batch holds the images of all. A network treats the images of a batch apart, so each piece gets what it would get alone
but for the order of float32 sums (1.5e-5 of the largest value was seen after 20 steps).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Network = Callable[[Tensor, Tensor], Tensor]
"""Called `(images: float (batch, channel, row, col), levels: (batch,))`."""


@dataclass
class Fill:
    """How full the batches of a network were."""

    images: int = 0
    """Images that went through it."""
    room: int = 0
    """Images that its batches had room for."""

    def add(self, images: int, most: int) -> None:
        """Count one call of so many images, in batches of at most `most`."""
        self.images += images
        self.room += -(-images // most) * most


def run_together(works: Sequence[Callable[[], T]], fill: Fill | None = None) -> list[T | BaseException]:
    """Do pieces of work whose calls of networks share batches; return what each gives, or what it raises.

    All is computed by one thread at a time, with the number of threads that torch has here. `fill` counts the batches.
    Calls that are differentiated share no batch.
    """
    pieces = [_Piece(work, torch.get_num_threads()) for work in works]
    fill, running = fill or Fill(), pieces
    while running:
        for piece in running:
            piece.go_on()
        running = [piece for piece in running if piece.is_alive_yet]
        groups: dict[Hashable, list[_Call]] = {}
        for piece in running:
            if piece.call is not None:
                groups.setdefault(piece.call.kind, []).append(piece.call)
        for calls in groups.values():
            _answer(calls, fill)
    for piece in pieces:
        piece.join()
    return [piece.outcome for piece in pieces]


def ask_together(kind: Hashable, network: Network, images: Tensor, levels: Tensor, most: int) -> Tensor:
    """Return what a network says of images `(batch, channel, row, col)` at their levels `(batch,)`.

    In `run_together`, together with the calls of the same `kind` that other pieces make; else by itself. `most` is the
    size of the network's batches.
    """
    piece: _Piece[object] | None = getattr(_HERE, "piece", None)
    if piece is None or (images.requires_grad and torch.is_grad_enabled()):
        return network(images, levels)
    return piece.ask(_Call((kind, images.shape[1:], images.dtype, images.device), network, images, levels, most))


_HERE = threading.local()


@dataclass
class _Call:
    kind: Hashable
    network: Network
    images: Tensor
    levels: Tensor
    most: int
    answer: Tensor | None = None
    error: Exception | None = None


def _answer(calls: list[_Call], fill: Fill) -> None:
    images = [call.images for call in calls]
    fill.add(sum(map(len, images)), calls[0].most)
    try:
        if len(calls) == 1:
            calls[0].answer = calls[0].network(calls[0].images, calls[0].levels)
            return
        found = calls[0].network(torch.cat(images), torch.cat([call.levels for call in calls]))
        for call, part in zip(calls, torch.split(found, [len(each) for each in images]), strict=True):
            call.answer = part
    except Exception as error:
        for call in calls:
            call.error = error


class _Piece(threading.Thread, Generic[T]):
    """One piece of work, which runs only while `go_on` waits for it."""

    def __init__(self, work: Callable[[], T], threads: int) -> None:
        super().__init__(daemon=True)
        self._work, self._threads = work, threads
        self._turn, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self.call: _Call | None = None
        self.is_alive_yet = True
        self.outcome: T | BaseException
        self.start()

    def run(self) -> None:
        self._turn.acquire()
        _HERE.piece = self
        torch.set_num_threads(self._threads)
        try:
            self.outcome = self._work()
        except BaseException as error:  # whoever asked for the work is told
            self.outcome = error
        self.is_alive_yet = False
        self._paused.release()

    def go_on(self) -> None:
        """Let it run until it asks a network, or ends."""
        self._turn.release()
        self._paused.acquire()

    def ask(self, call: _Call) -> Tensor:
        """Wait, in its own thread, until a call is answered."""
        self.call = call
        self._paused.release()
        self._turn.acquire()
        self.call = None
        if call.error is not None:
            raise call.error
        assert call.answer is not None
        return call.answer
