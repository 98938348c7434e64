"""The adapter that turns a network of real images into a score model of complex images.

The view of complex images as real channels, what else than sigma a network is asked with, the padding it needs and its
precision live here and nowhere else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrift.networks import Conditioning, Returns
from kdrift.networks.layers import NIN
from kdrift.prior.shared_calls import ask_together
from kdrift.runs.hardware import has_fast_bfloat16, lacks_memory
from kdrift.sde.score import level_of, per_image


@dataclass(eq=False)
class NetworkScore:
    """Score of complex images from a network of real images, of one channel or two.

    A one-channel prior scores real and imaginary parts as separate images of one batch (Score-MRI, Algorithm 3); such
    a prior is best trained with sign or phase augmentation, for magnitudes are never negative while the parts are. A
    two-channel prior takes them together. Gradients with respect to `x` pass, the network's parameters have none.
    """

    network: nn.Module
    """Called `(x: float (batch, channels, row, col), sigma: (batch,))`."""
    _: KW_ONLY
    returns: Returns
    """What the network returns: the score, the denoised image, or the residual that added to x gives it."""
    channels: int = 1
    """Channels of the network's images, 1 or 2."""
    conditioning: Conditioning = "sigma"
    """What the network takes (`kdrift.networks.NetworkConfig.conditioning`). `std`: alpha x and alpha sigma with alpha
    = 1/sqrt(1 + sigma^2); the score it returns, times alpha, is that of x. `level`: the index in `network.sigmas`
    that is nearest to sigma in its logarithm, whose denoised image is taken."""
    project: Callable[[Tensor], Tensor] | None = None
    """The part of an image that `std` scales, for HFS-SDE its high frequencies; None: all of it."""
    scale: float = 1.0
    """Scale of the network's images, in units of those given here; the network sees `scale x` at `scale sigma`."""
    size_multiple: int = 1
    """Rows and columns are reflected at the border up to a multiple of this, and cropped again."""
    max_images: int | None = None
    """Network images evaluated at a time, which bounds memory: 8 on a CPU, 64 on an accelerator, where it is halved as
    often as memory is short; this process remembers that of the network."""
    fast: bool | None = None
    """bfloat16 and channels_last, on a copy of the network that is kept (None: where the hardware has them)."""
    num_images: int = field(default=0, init=False)
    """Network images evaluated so far (for each complex image two of a one-channel network)."""

    def __post_init__(self) -> None:
        if self.channels not in (1, 2):
            raise ValueError(f"a network of complex images has 1 or 2 channels, got {self.channels}")
        self.device = next(self.network.parameters()).device
        self.fast = has_fast_bfloat16(self.device) if self.fast is None else self.fast
        network = self.network.eval().requires_grad_(False)
        if self.fast and network not in _FAST:
            _FAST[network] = _fast_copy(network)
        self.network = _FAST[network] if self.fast else network
        self.max_images = self.max_images or _FITS.get(self.network, batch_images(self.device.type != "cpu"))

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the score at `x` `(*batch, row, col)`; a real `x` is one image of a one-channel network."""
        if self.scale != 1:
            return self.scale * self._score(self.scale * x, self.scale * sigma)
        return self._score(x, sigma)

    def _score(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        if self.conditioning == "std":
            level = level_of(sigma, x, torch.float64)
            alpha = torch.rsqrt(1 + level**2)
            factor = per_image(alpha, x)
            scaled = factor * x if self.project is None else x + (factor - 1) * self.project(x)
            return factor * self._evaluate(scaled, alpha * level)
        if self.conditioning == "level":
            table = self.network.get_buffer("sigmas")
            asked = level_of(sigma, table, torch.float64).log()
            level = (asked[..., None] - table.double().log()).abs().argmin(dim=-1)
            ratio = torch.take(table, level).to(x.device) / sigma
            return per_image(ratio, x) ** 2 * self._evaluate(x, level)
        output = self._evaluate(x, sigma)
        if self.returns == "score":
            return output
        residual = output - x if self.returns == "image" else output
        return residual / per_image(sigma, x) ** 2

    def _evaluate(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        if not x.is_complex() and self.channels == 2:
            raise ValueError("this prior is of complex images: a real image needs a magnitude prior")
        rows, cols = x.shape[-2:]
        images = x.reshape(-1, 1, rows, cols)
        if x.is_complex():
            images = torch.view_as_real(images[:, 0]).permute(0, 3, 1, 2).reshape(-1, self.channels, rows, cols)
        second = torch.int64 if self.conditioning == "level" else torch.float32
        levels = level_of(sigma, images, second).expand(x.shape[:-2]).reshape(-1)
        levels = levels.repeat_interleave(len(images) // len(levels))
        assert self.max_images is not None
        output = ask_together(id(self.network), self._in_parts, images, levels, self.max_images)
        self.num_images += len(images)
        if not x.is_complex():
            return output.reshape(x.shape)
        pairs = output.reshape(-1, 2, rows, cols).permute(0, 2, 3, 1).contiguous()
        return torch.view_as_complex(pairs).reshape(x.shape)

    def _in_parts(self, images: Tensor, levels: Tensor) -> Tensor:
        assert self.max_images is not None
        while True:
            parts = zip(torch.split(images, self.max_images), torch.split(levels, self.max_images), strict=True)
            try:
                return torch.cat([self._network(part, level) for part, level in parts])
            except RuntimeError as error:
                if not lacks_memory(error) or self.max_images == 1:
                    raise
                _FITS[self.network] = self.max_images = max(1, min(self.max_images, len(images)) // 2)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _network(self, images: Tensor, levels: Tensor) -> Tensor:
        rows, cols = images.shape[-2:]
        padded = pad_to_multiple(images, self.size_multiple).to(self.device, torch.float32)
        if self.fast:
            padded = padded.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bool(self.fast)):
            output: Tensor = self.network(padded, levels.to(self.device))
        return output[..., :rows, :cols].to(images.device, images.dtype)


def batch_images(accelerator: bool) -> int:
    """Return how many images a network takes at a time where memory is not short."""
    return 64 if accelerator else 8


_FAST: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()
_FITS: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def _fast_copy(network: nn.Module) -> nn.Module:
    """Return a copy with weights in bfloat16 and channels_last, which autocast would cast in each call."""
    made: nn.Module = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in made.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.GroupNorm | NIN):
            module.to(torch.bfloat16)
    return made


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Reflect `(batch, channel, row, col)` at the lower and right border up to multiples of `multiple`."""
    rows, cols = images.shape[-2:]
    down, right = -rows % multiple, -cols % multiple
    if not down and not right:
        return images
    mode = "reflect" if down < rows and right < cols else "constant"
    return F.pad(images, (0, right, 0, down), mode=mode)
