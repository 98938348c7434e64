"""Seeds of everything random: named streams that share no seed, whatever their keys."""

from __future__ import annotations

import hashlib
from typing import Literal, get_args

import numpy as np
import torch

from kdrift.runs.hint import suggest

Stream = Literal[
    "attenuation", "attenuation time", "augmentation", "bootstrap", "chain", "check chain", "coil maps", "dropout",
    "held-out", "image", "known", "map choice", "mask", "mean chain", "measurement", "noise", "phantom",
    "phantom noise", "phantom phase", "preview", "preview noise", "search", "search slices", "simulation", "test",
    "validation measurement", "validation noise", "validation phase", "weights",
]  # fmt: skip
"""What random numbers are for. A new use is a new name: the seeds of the others stay as they are."""

_NAMES = frozenset(get_args(Stream))
_WORDS = 624
"""Words of 32 bits in the state of the Mersenne Twister."""


def derive_seed(stream: Stream, seed: int, *keys: int) -> int:
    """Return a 64-bit seed that depends on the stream, on the seed, and on every key, their order and their number.

    It is BLAKE2b of the name and the numbers, each with its length in front, so that no two of these read alike: (5,),
    (5, 0) and (0, 5) of one stream are three seeds.

    Raises ValueError for a stream without a name in `Stream`, or a negative number.
    """
    if stream not in _NAMES:
        raise ValueError(f"no stream {stream!r}{suggest(stream, _NAMES)}")
    digest = hashlib.blake2b(digest_size=8)
    for part in (stream.encode(), *(_bytes(int(number)) for number in (seed, *keys))):
        digest.update(bytes([len(part)]) + part)
    return int.from_bytes(digest.digest(), "big")


def numpy_rng(stream: Stream, seed: int, *keys: int) -> np.random.Generator:
    """Return NumPy's PCG64 generator of a stream."""
    return np.random.Generator(np.random.PCG64(derive_seed(stream, seed, *keys)))


def torch_generator(stream: Stream, seed: int, *keys: int) -> torch.Generator:
    """Return a CPU generator of torch for a stream.

    `torch.Generator().manual_seed` uses the lower 32 bits of a seed alone: of 80,000 images or chains two would be
    likely to share their noise. Here the whole state of its Mersenne Twister comes from the 64 bits.
    """
    value = derive_seed(stream, seed, *keys)
    generator = torch.Generator().manual_seed(value)
    state = generator.get_state()
    words = state.numpy()[24 : 24 + 8 * _WORDS].view(np.uint64)  # after the seed, a count, a flag and a position
    if words[0] != value & 0xFFFFFFFF:
        raise RuntimeError(f"torch {torch.__version__} keeps the state of its generator in another layout")
    words[:] = np.random.SeedSequence(value).generate_state(_WORDS, np.uint32)
    return generator.set_state(state)


def _bytes(number: int) -> bytes:
    if number < 0:
        raise ValueError(f"seeds and their keys are 0 or larger, got {number}")
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
