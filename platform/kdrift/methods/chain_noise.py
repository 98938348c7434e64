"""Noise of independent Markov chains: one generator a chain, so that no batch split changes an answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdrift.runs.seeds import Stream, torch_generator


class ChainNoise:
    """Draws unit complex noise for a block of chains.

    A chain is one (sample, part) of one slice, a part being a coil image or a map set; its generator is seeded from
    (request seed, slice, part, sample) alone. `samples` and `parts` are the indices of those in this block, or how many
    parts there are; None where a chain has no part axis. Generators run on the CPU, so that every device gives the same
    answer; the noise is put on `device`. `antithetic`: every odd sample has the noise of the one before it with the
    sign turned, so that what is linear in the noise cancels in their mean (Hammersley & Morton 1956).
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
        self._generators = [
            torch_generator(stream, seed, slice_index, part, sample // 2 if antithetic else sample)
            for part, sample in chains
        ]
        self._turned = [row for row, (_, sample) in enumerate(chains) if antithetic and sample % 2]
        self._device, self._dtype = device, dtype

    def __call__(self, *trailing: int) -> Tensor:
        """Return noise `(*chains, *trailing)`; real and imaginary parts are N(0, 1) each."""
        real = torch.empty(len(self._generators), *trailing, 2, dtype=self._dtype.to_real())
        for values, generator in zip(real, self._generators, strict=True):
            values.normal_(generator=generator)
        real[self._turned] *= -1
        return torch.view_as_complex(real).to(self._device).reshape(*self.shape, *trailing)
