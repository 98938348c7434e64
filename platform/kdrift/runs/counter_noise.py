"""Normal noise as a function of a key and a counter: the same bits on every device and however the work is split.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3) turns a counter into four
words of 32 bits; Box and Muller (1958) turn two words into one complex normal number. There is no state to copy, keep
or synchronise. Logarithm, sine and cosine are series of products, sums, quotients and roots, which IEEE 754 rounds the
same way on every device, where those of mathematical libraries differ in the last bit.
"""

from __future__ import annotations

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
_CPU_BLOCKS = 2**16
"""Counters at a time on a CPU, so that what is between the rounds stays in its caches."""


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the four words of Philox4x32-10 for a counter of four words and a key of two.

    Words are int64 tensors that hold 0 to 2^32 - 1: those of the counter of one shape, to which those of the key
    broadcast.
    """
    a, b, c, d = (word.clone() for word in counter)
    left, right = key
    first, second = torch.empty_like(a), torch.empty_like(c)
    for _ in range(_ROUNDS):
        torch.mul(a, _MULTIPLIERS[0], out=first)  # 64 bits; the sign of int64 is the highest of them
        torch.mul(c, _MULTIPLIERS[1], out=second)
        torch.bitwise_right_shift(second, 32, out=a).bitwise_and_(_WORD).bitwise_xor_(b).bitwise_xor_(left)
        torch.bitwise_right_shift(first, 32, out=c).bitwise_and_(_WORD).bitwise_xor_(d).bitwise_xor_(right)
        b, second = second.bitwise_and_(_WORD), b
        d, first = first.bitwise_and_(_WORD), d
        left, right = left + _KEY_STEPS[0] & _WORD, right + _KEY_STEPS[1] & _WORD
    return a, b, c, d


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
    noise = torch.empty(num_keys, 2 * blocks, 2, device=keys.device)
    for first in range(0, blocks, step):
        position = torch.arange(first, min(first + step, blocks), device=keys.device).expand(num_keys, -1)
        zero = torch.zeros_like(position)
        counter = position & _WORD, position >> 32, zero + (draw & _WORD), zero + (draw >> 32)
        words = philox(counter, (keys[0], keys[1]))
        pairs = torch.stack([*_box_muller(*words[:2]), *_box_muller(*words[2:])], -1)
        noise[:, 2 * first : 2 * (first + position.shape[1])] = pairs.reshape(num_keys, -1, 2)
    return torch.view_as_complex(noise)[:, :count]


def _box_muller(radius: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Return r cos a and r sin a, float32, with r = sqrt(-2 ln u), u uniform in (0, 1] and a uniform."""
    r = _log(radius.to(torch.float32).add_(0.5).mul_(2.0**-32)).mul_(-2).sqrt_()
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
