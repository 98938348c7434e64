"""Group normalisation whose gradient is fast for bfloat16 images in channels_last order on CPUs.

PyTorch 2.13's own backward pass for that layout runs five times slower than the memory traffic it needs
(`benchmarks/bench_training.py` measures the whole step). The gradient below is the textbook one (Wu & He 2018), written
as two per-channel sums and one fused multiply-add over the image; sums are accumulated in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm` with the same parameters and values, whose images stay in their precision under autocast."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `(batch, channel, row, col)`."""
        if input.dtype == torch.bfloat16 and input.device.type == "cpu" and torch.is_grad_enabled():
            normed: Tensor = _CPUGroupNorm.apply(input, self.weight, self.bias, self.num_groups, self.eps)
            return normed
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
        with torch.autocast("cuda", enabled=False):  # which would go to float32 and back
            return F.group_norm(input, self.num_groups, weight, bias, self.eps)


class _CPUGroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        batch, channels, rows, cols = x.shape
        y, mean, rstd = torch.native_group_norm(
            x, weight.to(x.dtype), bias.to(x.dtype), batch, channels, rows * cols, groups, eps
        )
        ctx.save_for_backward(x, weight, mean, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        dy = gradients[0]
        batch, channels, rows, cols = x.shape
        groups = mean.shape[1]
        pixels, width = rows * cols, channels // groups

        def sum_pixels(image: Tensor) -> Tensor:  # a matrix product sums bfloat16 in float32
            flat = image.permute(0, 2, 3, 1).reshape(batch, pixels, channels)
            ones = flat.new_ones(batch, 1, pixels)
            return torch.bmm(ones, flat).float().view(batch, groups, width)

        sum_dy, sum_dyx = sum_pixels(dy), sum_pixels(dy * x)
        mean, rstd = mean.float().unsqueeze(2), rstd.float().unsqueeze(2)
        scale = weight.float().view(1, groups, width)
        mean_dy = (scale * sum_dy).sum(2, keepdim=True) / (width * pixels)
        mean_dyx = (scale * sum_dyx).sum(2, keepdim=True) / (width * pixels)
        slope = -(mean_dyx - mean * mean_dy) * rstd**3
        offset = -mean_dy * rstd - slope * mean

        def per_channel(value: Tensor) -> Tensor:
            return value.expand(batch, groups, width).reshape(batch, channels, 1, 1).to(dy.dtype)

        dx = torch.addcmul(per_channel(offset), dy, per_channel(scale * rstd)).addcmul_(x, per_channel(slope))
        dweight = ((sum_dyx - sum_dy * mean) * rstd).sum(0).reshape(channels)
        return dx, dweight.to(weight.dtype), sum_dy.sum(0).reshape(channels).to(weight.dtype), None, None
