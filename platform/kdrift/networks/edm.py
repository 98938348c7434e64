"""EDM preconditioning (Karras et al. 2022, Table 1) around a score network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EDMDenoiser(nn.Module):
    """Denoiser D(x; sigma) = c_skip x + c_out F(c_in x, sigma), of unit-variance input and target (Eq. 7).

    `x` is `(batch, channel, row, col)`, `sigma` `(batch,)`; returns the denoised image, of the shape of `x`.
    """

    def __init__(self, network: nn.Module, sigma_data: float) -> None:
        super().__init__()
        self.network = network
        self.sigma_data = sigma_data

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoise; the skip connection is added in float32 whatever the network's precision."""
        x = x.to(torch.float32)
        s = sigma.to(torch.float32)[:, None, None, None]
        total = s**2 + self.sigma_data**2
        output: Tensor = self.network(x * total.rsqrt(), sigma)
        return x * (self.sigma_data**2 / total) + output.to(torch.float32) * (s * self.sigma_data * total.rsqrt())
