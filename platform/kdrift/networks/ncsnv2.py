"""NCSNv2-deepest (Song & Ermon 2020; the network of CSGM-Langevin, SMRD and RED-diff), with the published names.

A RefineNet (Lin et al. 2017): six stages of residual blocks, the last two dilated instead of downsampled, and as many
blocks that join them from the coarsest to the finest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrift.networks.layers import check_size


@dataclass(frozen=True)
class NCSNv2Config:
    """Architecture of NCSNv2-deepest; the defaults are those of the published MRI models."""

    channels: int = 2
    """Image channels: 1 for magnitude priors, 2 for complex ones."""
    ngf: int = 128
    """Feature maps at full resolution."""
    num_levels: int = 2311
    """Noise levels of the table that the second input counts in, from the largest (0) to the smallest."""
    sigma_max: float = 232.0
    """First level of the table, which is geometric; a table of a checkpoint replaces it."""
    sigma_min: float = 0.0066
    """Last level of the table."""
    centered: bool = False
    """False maps the input x to 2x - 1 inside the network, as the published models do."""

    def __post_init__(self) -> None:
        if self.ngf < 1 or self.num_levels < 2 or not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"expected ngf >= 1, num_levels >= 2 and 0 < sigma_min < sigma_max, got {self}")

    @property
    def size_multiple(self) -> int:
        """Rows and columns of an input must be multiples of this."""
        return 8


class NCSNv2(nn.Module):
    """Score network s(x, level): `x` is `(batch, channel, row, col)`, `level` `(batch,)` an index into `sigmas`."""

    sigmas: Tensor

    def __init__(self, config: NCSNv2Config) -> None:
        super().__init__()
        self.config = config
        n = config.ngf
        ends = math.log(config.sigma_max), math.log(config.sigma_min)
        self.register_buffer("sigmas", torch.exp(torch.linspace(*ends, config.num_levels)))
        self.begin_conv = nn.Conv2d(config.channels, n, 3, padding=1)
        self.normalizer = _InstanceNormPlus(n)
        self.end_conv = nn.Conv2d(n, config.channels, 3, padding=1)
        self.res1 = _stage(n, n, "none")
        self.res2 = _stage(n, 2 * n, "down")
        self.res3 = _stage(2 * n, 2 * n, "down")
        self.res31 = _stage(2 * n, 2 * n, "down")
        self.res4 = _stage(2 * n, 4 * n, "dilate", 2)
        self.res5 = _stage(4 * n, 4 * n, "dilate", 4)
        self.refine1 = _Refine((4 * n,), 4 * n)
        self.refine2 = _Refine((4 * n, 4 * n), 2 * n)
        self.refine3 = _Refine((2 * n, 2 * n), 2 * n)
        self.refine31 = _Refine((2 * n, 2 * n), 2 * n)
        self.refine4 = _Refine((2 * n, 2 * n), n)
        self.refine5 = _Refine((n, n), n, output_units=3)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Return the score, the output divided by the level's sigma, of the shape of `x`.

        Raises ValueError when rows or columns are not multiples of 8.
        """
        check_size(x, self.config.size_multiple)
        h = self.begin_conv(x if self.config.centered else 2 * x - 1)
        layers = []
        for stage in (self.res1, self.res2, self.res3, self.res31, self.res4, self.res5):
            h = stage(h)
            layers.append(h)
        h = self.refine1(layers.pop())
        for refine in (self.refine2, self.refine31, self.refine3, self.refine4, self.refine5):
            h = refine(layers.pop(), h)
        output: Tensor = self.end_conv(F.elu(self.normalizer(h)))
        return output / self.sigmas[level][:, None, None, None]


class _InstanceNormPlus(nn.Module):
    """Instance normalisation that keeps the means, normalised over the channels (Song & Ermon 2019, Appendix A)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(1 + 0.02 * torch.randn(channels))
        self.gamma = nn.Parameter(1 + 0.02 * torch.randn(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean(dim=(2, 3))
        centred = means - means.mean(dim=1, keepdim=True)
        shift = centred / torch.sqrt(means.var(dim=1, keepdim=True) + 1e-5) * self.alpha
        h = F.instance_norm(x) + shift[:, :, None, None]
        return self.gamma[:, None, None] * h + self.beta[:, None, None]


class _MeanPooled(nn.Module):
    """A convolution, then the mean of 2x2 pixels."""

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, padding=size // 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(x), 2)


def _stage(inputs: int, outputs: int, change: str, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        _Block(inputs, outputs, change, dilation),
        _Block(outputs, outputs, "none", dilation),
    )


class _Block(nn.Module):
    """Pre-activation residual block; `change` is `down` (halve the size), `dilate` (keep it) or `none`."""

    def __init__(self, inputs: int, outputs: int, change: str, dilation: int) -> None:
        super().__init__()

        def conv(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)

        pooled = change == "down"
        self.conv1 = conv(inputs, inputs)
        self.normalize2 = _InstanceNormPlus(inputs)
        self.conv2 = _MeanPooled(inputs, outputs, 3) if pooled else conv(inputs, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if change != "none":
            self.shortcut = _MeanPooled(inputs, outputs, 1) if pooled else conv(inputs, outputs)
        self.normalize1 = _InstanceNormPlus(inputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.elu(self.normalize1(x)))
        output: Tensor = self.shortcut(x) + self.conv2(F.elu(self.normalize2(h)))
        return output


class _ConvUnits(nn.Module):
    """Residual units of two convolutions without bias each."""

    def __init__(self, channels: int, units: int) -> None:
        super().__init__()
        self.units = units
        for unit in range(1, units + 1):
            for step in (1, 2):
                self.add_module(f"{unit}_{step}_conv", nn.Conv2d(channels, channels, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        for unit in range(1, self.units + 1):
            h = self.get_submodule(f"{unit}_1_conv")(F.elu(x))
            x = x + self.get_submodule(f"{unit}_2_conv")(F.elu(h))
        return x


class _Convs(nn.Module):
    """Holds `convs`: one convolution for each entry of `inputs`."""

    def __init__(self, inputs: tuple[int, ...], outputs: int, bias: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(n, outputs, 3, padding=1, bias=bias) for n in inputs)


class _Refine(nn.Module):
    """RefineNet block: adapt each input, sum them at the size of the first, pool in a chain, and convolve."""

    def __init__(self, inputs: tuple[int, ...], outputs: int, output_units: int = 1) -> None:
        super().__init__()
        self.adapt_convs = nn.ModuleList(_ConvUnits(n, 2) for n in inputs)
        self.output_convs = _ConvUnits(outputs, output_units)
        self.msf = _Convs(inputs, outputs, bias=True) if len(inputs) > 1 else None
        self.crp = _Convs((outputs, outputs), outputs, bias=False)

    def forward(self, *xs: Tensor) -> Tensor:
        hs = [adapt(x) for adapt, x in zip(self.adapt_convs, xs, strict=True)]
        h = hs[0]
        if self.msf is not None:
            size = h.shape[2:]
            hs = [conv(each) for conv, each in zip(self.msf.convs, hs, strict=True)]
            h = hs[0] + F.interpolate(hs[1], size=size, mode="bilinear", align_corners=True)
        h = path = F.elu(h)
        for conv in self.crp.convs:
            path = conv(F.max_pool2d(path, 5, stride=1, padding=2))
            h = h + path
        output: Tensor = self.output_convs(h)
        return output
