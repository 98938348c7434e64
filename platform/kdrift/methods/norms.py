"""Norms of chains: each image by itself, so that no batch split changes a step."""

from __future__ import annotations

import torch
from torch import Tensor


def chain_norm(x: Tensor, num_axes: int = 2) -> Tensor:
    """Norm over the last `num_axes` axes, kept with size 1."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=tuple(range(-num_axes, 0)), keepdim=True)
    return norm


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b of two norms, 0 where b is 0: a score that is zero moves nothing, and makes no NaN."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)
