"""Score networks: plain PyTorch modules called as `network(x, sigma)`."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from kdrift.networks.edm import EDMDenoiser
from kdrift.networks.ncsnpp import NCSNpp, NCSNppConfig
from kdrift.networks.residual import ResidualDenoiser

__all__ = ["EDMDenoiser", "NCSNpp", "NCSNppConfig", "NetworkConfig", "ResidualDenoiser", "build_network"]


@dataclass(frozen=True)
class NetworkConfig:
    """A network and what it returns."""

    ncsnpp: NCSNppConfig = field(default_factory=NCSNppConfig)
    """Architecture."""
    preconditioning: str = "none"
    """`none`: the network returns the score; `edm`: it is wrapped and returns the denoised image; `residual`: likewise,
    the restored image of AK-Diffusion."""
    sigma_data: float = 0.3
    """Standard deviation of the training images, used by `edm` and `residual`."""

    @property
    def channels(self) -> int:
        """Image channels: 1 for real images, 2 for complex ones."""
        return self.ncsnpp.channels

    @property
    def size_multiple(self) -> int:
        """Rows and columns of an input must be multiples of this."""
        return self.ncsnpp.size_multiple

    def __post_init__(self) -> None:
        if self.preconditioning not in ("none", "edm", "residual"):
            raise ValueError(f"preconditioning is 'none', 'edm' or 'residual', got {self.preconditioning!r}")
        if self.preconditioning != "none" and (self.ncsnpp.scale_by_sigma or not self.ncsnpp.centered):
            needs = "ncsnpp.scale_by_sigma: false and ncsnpp.centered: true"
            raise ValueError(f"{self.preconditioning} preconditioning needs {needs}")


def build_network(config: NetworkConfig) -> nn.Module:
    """Build the module of a configuration, with fresh weights."""
    network = NCSNpp(config.ncsnpp)
    if config.preconditioning == "none":
        return network
    wrapper = EDMDenoiser if config.preconditioning == "edm" else ResidualDenoiser
    return wrapper(network, config.sigma_data)
