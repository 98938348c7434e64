"""Noise of Markov chains: one generator a chain, and pairs whose noise is opposite."""

from __future__ import annotations

import torch

from kdrift.methods import ChainNoise


def test_antithetic_chains_have_opposite_noise_however_they_are_split() -> None:
    together = ChainNoise(3, 1, range(4), 2, antithetic=True)
    apart = [ChainNoise(3, 1, [sample], 2, antithetic=True) for sample in range(4)]
    plain = ChainNoise(3, 1, range(2), 2)
    for _ in range(2):
        noise, own = together(5, 6), plain(5, 6)
        assert noise.shape == (4, 2, 5, 6)
        assert torch.equal(noise[::2], -noise[1::2])
        assert torch.equal(noise[::2], own)  # each pair is one independent chain and its twin
        assert torch.equal(noise, torch.cat([each(5, 6) for each in apart]))
