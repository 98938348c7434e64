"""Layers of the NCSN++ network (Song et al. 2021, Appendix H) in plain PyTorch.

Attribute names (`GroupNorm_0`, `Conv_0`, `NIN_0`, ...) and their order are those of the published checkpoints, so that
state dicts and flat EMA lists load unchanged. All maps are `(batch, channel, row, col)`.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrift.networks.group_norm import GroupNorm

SQRT_HALF = math.sqrt(0.5)
Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


def check_size(x: Tensor, multiple: int) -> None:
    """Raise ValueError unless rows and columns of `(batch, channel, row, col)` are multiples of `multiple`."""
    if x.shape[-2] % multiple or x.shape[-1] % multiple:
        raise ValueError(f"image size {tuple(x.shape[-2:])} is not a multiple of {multiple}; pad it")


def group_norm(channels: int) -> GroupNorm:
    """Group normalisation with four channels a group and at most 32 groups."""
    return GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


def conv3x3(inputs: int, outputs: int, init_scale: float = 1.0) -> nn.Conv2d:
    """3x3 convolution, same size, with variance-scaling (fan-average, uniform) initialisation."""
    return _initialised(nn.Conv2d(inputs, outputs, 3, padding=1), init_scale)


def conv1x1(inputs: int, outputs: int, init_scale: float = 1.0) -> nn.Conv2d:
    """1x1 convolution with the same initialisation as `conv3x3`."""
    return _initialised(nn.Conv2d(inputs, outputs, 1), init_scale)


def dense(inputs: int, outputs: int) -> nn.Linear:
    """Fully connected layer with variance-scaling initialisation and zero bias."""
    return _initialised(nn.Linear(inputs, outputs), 1.0)


def _initialised(layer: Layer, scale: float) -> Layer:
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(scale or 1e-10))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def fir_downsample(x: Tensor) -> Tensor:
    """Halve the size with the FIR kernel (1, 3, 3, 1) in each direction and zero padding of one pixel."""
    halved: Tensor = _Downsample.apply(x)
    return halved


def fir_upsample(x: Tensor) -> Tensor:
    """Double the size with the FIR kernel (1, 3, 3, 1) in each direction, of gain one."""
    doubled: Tensor = _Upsample.apply(x)
    return doubled


class _Downsample(torch.autograd.Function):
    """The two filters are each other's adjoint but for a factor of four, which is the fastest gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _fir(x, stride=2, padding=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient: Tensor = _Upsample.apply(gradients[0])
        return gradient / 4


class _Upsample(torch.autograd.Function):
    """The phases of the filter, (1, 3)/4 and (3, 1)/4, are those of bilinear interpolation at pixel centres.

    Only the border differs, where a ring of zeros gives the zero padding of the published filter.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        doubled = F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=2.0, mode="bilinear", align_corners=False)
        return doubled[..., 2:-2, 2:-2]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient: Tensor = _Downsample.apply(gradients[0])
        return 4 * gradient


def _fir(x: Tensor, stride: int, padding: int) -> Tensor:
    channels = x.shape[1]
    return F.conv2d(x, _fir_kernel(channels, x.dtype, x.device), stride=stride, padding=padding, groups=channels)


_KERNELS: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}


def _fir_kernel(channels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the filter as the weights of a convolution of each channel; it is made once, not in every call."""
    if torch.compiler.is_compiling():  # which makes it a constant
        return _made_kernel(channels, dtype, device)
    key = channels, dtype, device
    if key not in _KERNELS:
        with torch.inference_mode(False):  # it is to serve training too
            _KERNELS[key] = _made_kernel(channels, dtype, device)
    return _KERNELS[key]


def _made_kernel(channels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    taps = torch.tensor((1.0, 3.0, 3.0, 1.0)) / 8
    return torch.outer(taps, taps).to(device, dtype).expand(channels, 1, 4, 4)


class FourierEmbedding(nn.Module):
    """Random Fourier features of a scalar; the frequencies are fixed (no gradient), hence not in an EMA list."""

    def __init__(self, size: int, scale: float) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(size) * scale, requires_grad=False)

    def forward(self, value: Tensor) -> Tensor:
        """Map `(batch,)` to `(batch, 2 size)`."""
        angle = value[:, None] * self.W[None, :] * (2 * math.pi)
        return torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)


class NIN(nn.Module):
    """A 1x1 convolution stored as a matrix `(input, output)`, as the published attention blocks store it."""

    def __init__(self, inputs: int, outputs: int, init_scale: float = 0.1) -> None:
        super().__init__()
        weight = torch.empty(inputs, outputs)
        nn.init.xavier_uniform_(weight, gain=math.sqrt(init_scale or 1e-10))
        self.W = nn.Parameter(weight)
        self.b = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to `(batch, position, channel)`."""
        return x @ self.W + self.b


class Attention(nn.Module):
    """Single-head self-attention over all positions with a residual connection.

    `groups` of the normalisation; None: four channels a group and at most 32 groups.
    """

    def __init__(self, channels: int, init_scale: float, skip_rescale: bool, groups: int | None = None) -> None:
        super().__init__()
        self.GroupNorm_0 = GroupNorm(groups, channels, eps=1e-6) if groups else group_norm(channels)
        self.NIN_0 = NIN(channels, channels)
        self.NIN_1 = NIN(channels, channels)
        self.NIN_2 = NIN(channels, channels)
        self.NIN_3 = NIN(channels, channels, init_scale)
        self.scale = SQRT_HALF if skip_rescale else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape `(batch, channel, row, col)`."""
        tokens = self.GroupNorm_0(x).flatten(2).transpose(1, 2)
        query, key, value = self.NIN_0(tokens), self.NIN_1(tokens), self.NIN_2(tokens)
        attended: Tensor = self.NIN_3(F.scaled_dot_product_attention(query, key, value))
        return (x + attended.transpose(1, 2).reshape(x.shape)) * self.scale


class ResidualBlock(nn.Module):
    """BigGAN residual block, conditioned on the noise embedding.

    `resample` 'up' or 'down' changes the size by two: with `fir` by the (1, 3, 3, 1) filter, else nearest / 2x2 mean.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        *,
        resample: str = "none",
        fir: bool = True,
        dropout: float = 0.0,
        init_scale: float = 0.0,
        skip_rescale: bool = True,
    ) -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(inputs)
        self.Conv_0 = conv3x3(inputs, outputs)
        self.Dense_0 = dense(embedding, outputs)
        self.GroupNorm_1 = group_norm(outputs)
        self.Dropout_0 = nn.Dropout(dropout)
        self.Conv_1 = conv3x3(outputs, outputs, init_scale)
        self.Conv_2 = conv1x1(inputs, outputs) if inputs != outputs or resample != "none" else None
        self.resample = resample
        self.fir = fir
        self.scale = SQRT_HALF if skip_rescale else 1.0

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map `(batch, inputs, row, col)` to `(batch, outputs, row', col')`; `embedding` is already activated."""
        kept = torch.is_grad_enabled()  # a gradient needs what else is overwritten, 5 % of the time
        h: Tensor = self._resize(F.silu(self.GroupNorm_0(x), inplace=not kept))
        h = self.Conv_0(h).add_(self.Dense_0(embedding)[:, :, None, None])
        h = self.Conv_1(self.Dropout_0(F.silu(self.GroupNorm_1(h), inplace=not kept)))
        x = self._resize(x)
        if self.Conv_2 is not None:
            x = self.Conv_2(x)
        return h.add_(x).mul_(self.scale)

    def _resize(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            return fir_upsample(x) if self.fir else F.interpolate(x, scale_factor=2.0, mode="nearest")
        if self.resample == "down":
            return fir_downsample(x) if self.fir else F.avg_pool2d(x, 2)
        return x


class PyramidDownsample(nn.Module):
    """Halve the input pyramid and change its channels: FIR (1, 3, 3, 1) then a 3x3 convolution of stride two."""

    def __init__(self, inputs: int, outputs: int, fir: bool = True) -> None:
        super().__init__()
        self.fir = fir
        convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=0 if fir else 1)
        _initialised(convolution, 1.0)
        if fir:
            self.Conv2d_0 = convolution
        else:
            self.Conv_0 = convolution

    def forward(self, x: Tensor) -> Tensor:
        """Map `(batch, inputs, row, col)` to `(batch, outputs, row/2, col/2)`."""
        halved: Tensor = self.Conv2d_0(_fir(x, stride=1, padding=2)) if self.fir else self.Conv_0(x)
        return halved
