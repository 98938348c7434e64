"""Networks see the real and the imaginary part of an image as two channels; here one view becomes the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor], Tensor]
"""Called `(images (batch, channel, row, col), second input (batch,))`; returns images of the same shape."""
Projection = Callable[[Tensor], Tensor]
"""A linear map of complex images `(*batch, row, col)`."""


def as_complex(channels: Tensor) -> Tensor:
    """Return `(batch, 2, row, col)` as complex images `(batch, row, col)`."""
    return torch.view_as_complex(channels.to(torch.float32).movedim(1, -1).contiguous())


def as_channels(images: Tensor) -> Tensor:
    """Return complex images `(batch, row, col)` as `(batch, 2, row, col)`."""
    return torch.view_as_real(images).movedim(-1, 1)


def project_channels(projection: Projection | None, images: Tensor) -> Tensor:
    """Apply a projection of complex images to `(batch, channel, row, col)`; without one they stay as they are."""
    return images if projection is None else as_channels(projection(as_complex(images)))
