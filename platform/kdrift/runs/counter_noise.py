"""Normal noise as a function of a key and a counter: the same bits on every device and however the work is split.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3) turns a counter into four
words of 32 bits; Box and Muller (1958) turn two words into one complex normal number. There is no state to copy, keep
or synchronise. Logarithm, sine and cosine are series of products, sums, quotients and roots, which IEEE 754 rounds the
same way on every device, where those of mathematical libraries differ in the last bit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_WORD = 0xFFFFFFFF
_ROOT_HALF = 0x3F3504F3
"""Bits of sqrt(1/2) as a float32 number."""
_CPU_BLOCKS = 2**15
"""Counters at a time on a CPU, so that what is between the rounds stays in its caches."""


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four words of Philox4x32-10 for a counter of four words and a key of two.

    Words are int64 tensors that hold 0 to 2^32 - 1: those of the counter of one shape, to which those of the key
    broadcast.
    """
    first, second, third, fourth = counter
    keys = torch.stack([word.expand_as(first) for word in key])
    even, odd = _rounds(torch.stack([first, third]), torch.stack([second, fourth]), keys)
    return even[0], odd[0], even[1], odd[1]


def _rounds(even: Tensor, odd: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Return the words 0 and 2, and 1 and 3, of what Philox makes of counters in that order, which it overwrites.

    Both halves of a round are done at once: an accelerator's time is that of starting so many small operations. They
    cross in every round; they are left where they are, and factors and keys cross instead.
    """
    factors, steps = (each.view(*each.shape, *(1,) * (key.ndim - 1)) for each in _constants(even.device))
    keys = torch.stack([key.flip(0), key]).repeat(_ROUNDS // 2, *(1,) * key.ndim).add_(steps).bitwise_and_(_WORD)
    for number in range(_ROUNDS):
        product = even * factors[number % 2]  # 64 bits; the sign of int64 is the highest of them
        torch.bitwise_right_shift(product, 32, out=even).bitwise_and_(_WORD).bitwise_xor_(keys[number])
        even[0].bitwise_xor_(odd[1])
        even[1].bitwise_xor_(odd[0])
        odd = product.bitwise_and_(_WORD)
    return even, odd


@functools.cache
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the factors of a round and of the next one, and what is added to the key in each round, on the device."""
    factors = torch.tensor([_MULTIPLIERS, _MULTIPLIERS[::-1]])
    steps = torch.arange(_ROUNDS)[:, None] * torch.tensor(_KEY_STEPS)
    steps[::2] = steps[::2].flip(1)
    return factors.to(device), steps.to(device)


def key_words(seeds: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Return seeds of 64 bits as the two words of their keys, int64 `(2, seed, 1)`."""
    words = [[seed & _WORD for seed in seeds], [seed >> 32 for seed in seeds]]
    return torch.tensor(words, dtype=torch.int64)[..., None].to(device)


def complex_normal(keys: Tensor, draw: int, count: int) -> Tensor:
    """Return the `draw`-th noise of each key, complex64 `(key, count)`; real and imaginary parts are N(0, 1) each.

    `keys` is what `key_words` returns, on the device that the noise is made on. Element i depends on its key, on `draw`
    and on i alone: a shorter draw is the beginning of a longer one.
    """
    blocks, num_keys = (count + 1) // 2, keys.shape[1]
    step = max(1, _CPU_BLOCKS // num_keys) if keys.device.type == "cpu" else blocks
    noise = torch.empty(num_keys, blocks, 2, 2, device=keys.device)
    for first in range(0, blocks, step):
        position = torch.arange(first, min(first + step, blocks), device=keys.device).expand(num_keys, -1)
        even = torch.stack([position & _WORD, torch.full_like(position, draw & _WORD)])
        odd = torch.stack([position >> 32, torch.full_like(position, draw >> 32)])
        pairs = _box_muller(*_rounds(even, odd, keys))
        torch.stack(pairs, -1, out=noise[:, first : first + position.shape[1]].permute(2, 0, 1, 3))
    return torch.view_as_complex(noise).reshape(num_keys, -1)[:, :count]


def _box_muller(radius: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Return r cos a and r sin a, float32, with r = sqrt(-2 ln u), u uniform in (0, 1] and a uniform."""
    u = radius.to(torch.float32).add_(0.5).mul_(2.0**-32)
    # by float64: some libraries round a root of float32 otherwise than IEEE 754, by half a unit more
    r = _log(u).mul_(-2).to(torch.float64).sqrt_().to(torch.float32)
    quarter = (angle >> 30).to(torch.int32)
    # around one of the four half axes, from -pi/4 to pi/4
    a = (angle & 2**30 - 1).to(torch.float32).sub_(2.0**29).mul_(math.pi / 2 * 2.0**-30)
    square = a * a
    sine = _series(square, (1, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880)).mul_(a).mul_(r)
    cosine = _series(square, (1, -1 / 2, 1 / 24, -1 / 720, 1 / 40320, -1 / 3628800)).mul_(r)
    odd = (quarter & 1).bool()
    x, y = torch.where(odd, sine, cosine), torch.where(odd, cosine, sine)
    # by quarters cos, -sin, -cos, sin and sin, cos, -sin, -cos: bit 1 of the quarter becomes the sign
    x.view(torch.int32).bitwise_xor_((quarter + 1).bitwise_and_(2).bitwise_left_shift_(30))
    y.view(torch.int32).bitwise_xor_(quarter.bitwise_and_(2).bitwise_left_shift_(30))
    return x, y


def _log(x: Tensor) -> Tensor:
    """Natural logarithm of normal float32 numbers: e ln 2 + 2 artanh((m - 1) / (m + 1)) of x = m 2^e."""
    bits = x.view(torch.int32)
    exponent = (bits - _ROOT_HALF).bitwise_right_shift_(23)
    m = (bits - (exponent << 23)).view(torch.float32)  # sqrt(1/2) <= m < sqrt(2)
    s = (m - 1).div_(m + 1)
    series = _series(s * s, (2, 2 / 3, 2 / 5, 2 / 7, 2 / 9))
    return exponent.to(torch.float32).mul_(math.log(2)).add_(series.mul_(s))


def _series(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """c_0 + c_1 x + c_2 x^2 + ..., by Horner's rule."""
    value = x * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        value.add_(coefficient).mul_(x)
    return value.add_(coefficients[0])
