"""NCSN++ (Song et al. 2021; the network of Score-MRI and AK-Diffusion), with the published parameter order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrift.networks.layers import (
    SQRT_HALF,
    Attention,
    FourierEmbedding,
    PyramidDownsample,
    ResidualBlock,
    check_size,
    conv3x3,
    dense,
    group_norm,
)


@dataclass(frozen=True)
class NCSNppConfig:
    """Architecture of NCSN++; the defaults are Score-MRI's fastMRI knee network (61.4 M parameters)."""

    image_size: int = 320
    """Rows and columns the network was laid out for; decides only which levels `attn_resolutions` names."""
    channels: int = 1
    """Image channels: 1 for magnitude priors, 2 for complex ones."""
    nf: int = 128
    """Feature maps at full resolution."""
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    """Feature maps of each level as a multiple of `nf`; each level halves the size."""
    num_res_blocks: int = 4
    """Residual blocks a level on the way down (one more on the way up)."""
    attn_resolutions: tuple[int, ...] = (16,)
    """Sizes, counted from `image_size`, at which attention follows each block."""
    middle_attention: bool = True
    """Attention between the two middle blocks; its cost grows with the fourth power of the image side."""
    dropout: float = 0.0
    """Dropout probability inside residual blocks."""
    fir: bool = True
    """Resample with the FIR kernel (1, 3, 3, 1); without it by nearest neighbour and 2x2 means."""
    skip_rescale: bool = True
    """Scale every residual sum by 1/sqrt 2."""
    progressive_input: str = "residual"
    """`residual` feeds a downsampled input pyramid to every level, `none` does not."""
    fourier_scale: float = 16.0
    """Standard deviation of the random Fourier frequencies of log sigma."""
    init_scale: float = 0.0
    """Initial gain of the last convolution of each block and of the output."""
    centered: bool = False
    """False maps the input x to 2x - 1 inside the network, as the published configuration does."""
    scale_by_sigma: bool = True
    """Divide the output by sigma, so that the network returns the score."""

    def __post_init__(self) -> None:
        if self.progressive_input not in ("residual", "none"):
            raise ValueError(f"progressive_input is 'residual' or 'none', got {self.progressive_input!r}")
        if self.nf % 4 or self.nf < 4 or not self.ch_mult or self.num_res_blocks < 1:
            raise ValueError("expected nf a multiple of 4, at least one level and at least one block a level")

    @property
    def size_multiple(self) -> int:
        """Rows and columns of an input must be multiples of this."""
        return int(2 ** (len(self.ch_mult) - 1))


class NCSNpp(nn.Module):
    """Score network s(x, sigma) of a VE-SDE; `x` is `(batch, channel, row, col)`, `sigma` is `(batch,)`."""

    def __init__(self, config: NCSNppConfig) -> None:
        super().__init__()
        self.config = config
        nf, levels = config.nf, len(config.ch_mult)
        embedding = 4 * nf

        def block(inputs: int, outputs: int, resample: str = "none") -> ResidualBlock:
            return ResidualBlock(
                inputs, outputs, embedding, resample=resample, fir=config.fir, dropout=config.dropout,
                init_scale=config.init_scale, skip_rescale=config.skip_rescale,
            )  # fmt: skip

        def attention(channels: int) -> Attention:
            return Attention(channels, config.init_scale, config.skip_rescale)

        sizes = [config.image_size // 2**level for level in range(levels)]
        self.attended = [size in config.attn_resolutions for size in sizes]
        modules: list[nn.Module] = [
            FourierEmbedding(nf, config.fourier_scale),
            dense(2 * nf, embedding),
            dense(embedding, embedding),
            conv3x3(config.channels, nf),
        ]
        width, pyramid, skips = nf, config.channels, [nf]
        for level, multiple in enumerate(config.ch_mult):
            for _ in range(config.num_res_blocks):
                modules.append(block(width, nf * multiple))
                width = nf * multiple
                if self.attended[level]:
                    modules.append(attention(width))
                skips.append(width)
            if level < levels - 1:
                modules.append(block(width, width, "down"))
                if config.progressive_input == "residual":
                    modules.append(PyramidDownsample(pyramid, width, config.fir))
                    pyramid = width
                skips.append(width)
        modules.append(block(width, width))
        if config.middle_attention:
            modules.append(attention(width))
        modules.append(block(width, width))
        for level in reversed(range(levels)):
            for _ in range(config.num_res_blocks + 1):
                modules.append(block(width + skips.pop(), nf * config.ch_mult[level]))
                width = nf * config.ch_mult[level]
            if self.attended[level]:
                modules.append(attention(width))
            if level > 0:
                modules.append(block(width, width, "up"))
        modules += [group_norm(width), conv3x3(width, config.channels, config.init_scale)]
        self.all_modules = nn.ModuleList(modules)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the score (with `scale_by_sigma`) or the raw output, of the shape of `x`.

        Raises ValueError when rows or columns are not multiples of 2^(levels - 1).
        """
        check_size(x, self.config.size_multiple)
        layers = iter(self.all_modules)
        embedding = next(layers)(torch.log(sigma.to(torch.float32)))
        embedding = next(layers)(embedding)
        embedding = F.silu(next(layers)(F.silu(embedding)))
        if not self.config.centered:
            x = 2 * x - 1
        hs = self._down(x, embedding, layers)
        h = next(layers)(hs[-1], embedding)
        if self.config.middle_attention:
            h = next(layers)(h)
        h = next(layers)(h, embedding)
        for level in reversed(range(len(self.config.ch_mult))):
            for _ in range(self.config.num_res_blocks + 1):
                h = next(layers)(torch.cat([h, hs.pop()], dim=1), embedding)
            if self.attended[level]:
                h = next(layers)(h)
            if level > 0:
                h = next(layers)(h, embedding)
        h = F.silu(next(layers)(h))
        output: Tensor = next(layers)(h)
        return output / sigma.to(output.dtype)[:, None, None, None] if self.config.scale_by_sigma else output

    def _down(self, x: Tensor, embedding: Tensor, layers: Iterator[nn.Module]) -> list[Tensor]:
        pyramid = x
        hs = [next(layers)(x)]
        for level in range(len(self.config.ch_mult)):
            for _ in range(self.config.num_res_blocks):
                h = next(layers)(hs[-1], embedding)
                if self.attended[level]:
                    h = next(layers)(h)
                hs.append(h)
            if level < len(self.config.ch_mult) - 1:
                h = next(layers)(hs[-1], embedding)
                if self.config.progressive_input == "residual":
                    pyramid = next(layers)(pyramid) + h
                    h = pyramid = pyramid * SQRT_HALF if self.config.skip_rescale else pyramid
                hs.append(h)
        return hs
