"""Score models on complex images, and the denoised image that follows from a score.

A score model is called as `score(x, sigma)`: `x` complex `(*batch, row, col)`, `sigma` the noise level of each real
component, a float or a tensor that broadcasts over `*batch`. It returns d log p / d Re x + i d log p / d Im x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class ScoreModel(Protocol):
    """The score of noisy images; see the module's text for shapes and units."""

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return the score at `x`, of the shape of `x`."""
        ...


def denoise(score: ScoreModel, x: Tensor, sigma: float | Tensor) -> Tensor:
    """Posterior mean E[x_0 | x_sigma] = x + sigma^2 score(x, sigma) (Tweedie's formula, VE kernel)."""
    return x + per_image(sigma, x) ** 2 * score(x, sigma)


def denoise_with_pullback(
    score: ScoreModel, x: Tensor, sigma: float | Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return the denoised image and the map v -> J^H v, J its Jacobian by x: a pass back through the network."""
    with torch.enable_grad():
        variable = x.detach().requires_grad_()
        denoised = denoise(score, variable, sigma)
    return denoised.detach(), lambda v: torch.autograd.grad(denoised, variable, v)[0]


def per_image(sigma: float | Tensor, x: Tensor) -> Tensor:
    """Return `sigma`, a number or one a batch element, so that it broadcasts to the images `(*batch, row, col)`."""
    level = level_of(sigma, x, x.real.dtype)
    return level.reshape(*level.shape, 1, 1) if level.ndim else level


def level_of(sigma: float | Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `sigma` as a tensor beside `x`, on whose device a number is written, not copied there."""
    return sigma.to(x.device, dtype) if isinstance(sigma, Tensor) else x.new_full((), sigma, dtype=dtype)
