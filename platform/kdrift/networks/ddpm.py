"""DDPM U-Net (Ho et al. 2020; the network of HFS-SDE), with the published parameter names and order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrift.networks.group_norm import GroupNorm
from kdrift.networks.layers import NIN, Attention, check_size, conv3x3, dense

GROUPS = 32


@dataclass(frozen=True)
class DDPMConfig:
    """Architecture of the DDPM network; the defaults are those of HFS-SDE's VP-type models."""

    image_size: int = 320
    """Rows and columns the network was laid out for; decides only which levels `attn_resolutions` names."""
    channels: int = 2
    """Image channels: 1 for magnitude priors, 2 for complex ones."""
    nf: int = 128
    """Feature maps at full resolution, a multiple of 32."""
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    """Feature maps of each level as a multiple of `nf`; each level halves the size."""
    num_res_blocks: int = 2
    """Residual blocks a level on the way down (one more on the way up)."""
    attn_resolutions: tuple[int, ...] = (16,)
    """Sizes, counted from `image_size`, at which attention follows each block."""
    dropout: float = 0.1
    """Dropout probability inside residual blocks."""
    centered: bool = False
    """False maps the input x to 2x - 1 inside the network, as the published models do."""

    def __post_init__(self) -> None:
        if self.nf % GROUPS or self.nf < GROUPS or not self.ch_mult or self.num_res_blocks < 1:
            raise ValueError("expected nf a multiple of 32, at least one level and at least one block a level")

    @property
    def size_multiple(self) -> int:
        """Rows and columns of an input must be multiples of this."""
        return int(2 ** (len(self.ch_mult) - 1))


class DDPM(nn.Module):
    """Network f(x, t): `x` is `(batch, channel, row, col)`, `t` `(batch,)` a real number, of any range."""

    def __init__(self, config: DDPMConfig) -> None:
        super().__init__()
        self.config = config
        nf, levels = config.nf, len(config.ch_mult)

        def block(inputs: int, outputs: int) -> nn.Module:
            return _Block(inputs, outputs, 4 * nf, config.dropout)

        def attention(channels: int) -> nn.Module:
            return Attention(channels, 0.0, skip_rescale=False, groups=GROUPS)

        sizes = [config.image_size // 2**level for level in range(levels)]
        self.attended = [size in config.attn_resolutions for size in sizes]
        modules: list[nn.Module] = [dense(nf, 4 * nf), dense(4 * nf, 4 * nf), conv3x3(config.channels, nf)]
        width, skips = nf, [nf]
        for level, multiple in enumerate(config.ch_mult):
            for _ in range(config.num_res_blocks):
                modules.append(block(width, nf * multiple))
                width = nf * multiple
                if self.attended[level]:
                    modules.append(attention(width))
                skips.append(width)
            if level < levels - 1:
                modules.append(_Downsample(width))
                skips.append(width)
        modules += [block(width, width), attention(width), block(width, width)]
        for level in reversed(range(levels)):
            for _ in range(config.num_res_blocks + 1):
                modules.append(block(width + skips.pop(), nf * config.ch_mult[level]))
                width = nf * config.ch_mult[level]
            if self.attended[level]:
                modules.append(attention(width))
            if level > 0:
                modules.append(_Upsample(width))
        modules += [GroupNorm(GROUPS, width, eps=1e-6), conv3x3(width, config.channels, 0.0)]
        self.all_modules = nn.ModuleList(modules)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the raw output, of the shape of `x`.

        Raises ValueError when rows or columns are not multiples of 2^(levels - 1).
        """
        check_size(x, self.config.size_multiple)
        layers = iter(self.all_modules)
        embedding = next(layers)(sinusoidal_embedding(t, self.config.nf))
        embedding = F.silu(next(layers)(F.silu(embedding)))
        hs = [next(layers)(x if self.config.centered else 2 * x - 1)]
        for level in range(len(self.config.ch_mult)):
            for _ in range(self.config.num_res_blocks):
                h = next(layers)(hs[-1], embedding)
                hs.append(next(layers)(h) if self.attended[level] else h)
            if level < len(self.config.ch_mult) - 1:
                hs.append(next(layers)(hs[-1]))
        h = next(layers)(hs[-1], embedding)
        h = next(layers)(h)
        h = next(layers)(h, embedding)
        for level in reversed(range(len(self.config.ch_mult))):
            for _ in range(self.config.num_res_blocks + 1):
                h = next(layers)(torch.cat([h, hs.pop()], dim=1), embedding)
            if self.attended[level]:
                h = next(layers)(h)
            if level > 0:
                h = next(layers)(h)
        h = F.silu(next(layers)(h))
        output: Tensor = next(layers)(h)
        return output


def sinusoidal_embedding(t: Tensor, size: int) -> Tensor:
    """Sines, then cosines of t at `size / 2` geometric frequencies from 1 to 1e-4 (Vaswani et al. 2017), in float32."""
    half = size // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angle = t.to(torch.float32)[:, None] * torch.exp(-math.log(10_000) / (half - 1) * steps)
    return torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.GroupNorm_0 = GroupNorm(GROUPS, inputs, eps=1e-6)
        self.Conv_0 = conv3x3(inputs, outputs)
        self.Dense_0 = dense(embedding, outputs)
        self.GroupNorm_1 = GroupNorm(GROUPS, outputs, eps=1e-6)
        self.Dropout_0 = nn.Dropout(dropout)
        self.Conv_1 = conv3x3(outputs, outputs, 0.0)
        self.NIN_0 = NIN(inputs, outputs) if inputs != outputs else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h: Tensor = self.Conv_0(F.silu(self.GroupNorm_0(x))) + self.Dense_0(embedding)[:, :, None, None]
        h = self.Conv_1(self.Dropout_0(F.silu(self.GroupNorm_1(h))))
        skip: Tensor = x if self.NIN_0 is None else self.NIN_0(x.movedim(1, -1)).movedim(-1, 1)
        return h + skip


class _Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.Conv_0 = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.Conv_0(F.pad(x, (0, 1, 0, 1)))
        return output


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.Conv_0 = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.Conv_0(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return output
