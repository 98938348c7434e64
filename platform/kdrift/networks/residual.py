"""The residual form of AK-Diffusion's network (Cui et al. 2024, below Eq. 11)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ResidualDenoiser(nn.Module):
    """Restored coil images h(x; sigma) = x + r(x; sigma), with r = sigma F(x / sqrt(sigma^2 + sigma_data^2), sigma).

    The paper leaves the scale of r open: what noise and attenuation take from an image grows about as sigma, so that F
    has outputs of one size at every level. `x` is `(batch, channel, row, col)`, `sigma` `(batch,)`.
    """

    def __init__(self, network: nn.Module, sigma_data: float) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Restore; the sum is formed in float32 whatever the network's precision."""
        x = x.to(torch.float32)
        s = sigma.to(torch.float32)[:, None, None, None]
        output: Tensor = self.network(x * (s**2 + self.sigma_data**2).rsqrt(), sigma)
        return x + s * output.to(torch.float32)
