"""Noise of independent Markov chains: one key a chain, so that neither a batch split nor a device changes an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kdrift.runs.counter_noise import complex_normal, key_words
from kdrift.runs.seeds import Stream, derive_seed


class ChainNoise:
    """Draws unit complex noise for a block of chains.

    A chain is one (sample, part) of one slice, a part being a coil image or a map set; its noise depends on (request
    seed, slice, part, sample) and on how many draws there were before. `samples` and `parts` are the indices of those
    in this block, or how many parts there are; None where a chain has no part axis. It is made on `device`, with the
    same bits on all of them (`kdrift.runs.counter_noise`). `antithetic`: every odd sample has the noise of the one
    before it with the sign turned, so that what is linear in the noise cancels in their mean (Hammersley & Morton
    1956).
    """

    def __init__(
        self,
        seed: int,
        slice_index: int,
        samples: Sequence[int],
        parts: int | Sequence[int] | None = None,
        *,
        antithetic: bool = False,
        stream: Stream = "chain",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.complex64,
    ) -> None:
        if seed < 0:
            raise ValueError(f"seed must be 0 or larger, got {seed}")
        chosen = range(parts) if isinstance(parts, int) else parts
        self.shape = (len(samples),) if chosen is None else (len(samples), len(chosen))
        chains = [(part, sample) for sample in samples for part in ([0] if chosen is None else chosen)]
        seeds = [
            derive_seed(stream, seed, slice_index, part, sample // 2 if antithetic else sample)
            for part, sample in chains
        ]
        self._keys = key_words(seeds, device)
        signs = [-1.0 if antithetic and sample % 2 else 1.0 for _, sample in chains]
        self._signs = torch.tensor(signs, device=device)[:, None] if antithetic else None
        self._dtype, self._draws = dtype, 0

    def __call__(self, *trailing: int) -> Tensor:
        """Return noise `(*chains, *trailing)`; real and imaginary parts are N(0, 1) each, of float32's resolution."""
        noise = complex_normal(self._keys, self._draws, math.prod(trailing))
        self._draws += 1
        if self._signs is not None:
            noise = noise * self._signs
        return noise.to(self._dtype).reshape(*self.shape, *trailing)
