"""What turns a network into a denoiser: EDM preconditioning, and the residual form of AK-Diffusion."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EDMDenoiser(nn.Module):
    """Denoiser D(x; sigma) = c_skip x + c_out F(c_in x, sigma), of unit-variance input and target.

    Karras et al. 2022, Eq. 7 and Table 1. `x` is `(batch, channel, row, col)`, `sigma` `(batch,)`; returns the denoised
    image, of the shape of `x`.
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
        return self._joined(x, output.to(torch.float32), s, total)

    def _joined(self, x: Tensor, output: Tensor, s: Tensor, total: Tensor) -> Tensor:
        return x * (self.sigma_data**2 / total) + output * (s * self.sigma_data * total.rsqrt())


class ResidualDenoiser(EDMDenoiser):
    """Restored coil images h(x; sigma) = x + r(x; sigma), with r = sigma F(x / sqrt(sigma^2 + sigma_data^2), sigma).

    Cui et al. 2024, below Eq. 11, which leaves the scale of r open: what noise and attenuation take from an image grows
    about as sigma, so that F has outputs of one size at every level.
    """

    def _joined(self, x: Tensor, output: Tensor, s: Tensor, total: Tensor) -> Tensor:
        return x + s * output
