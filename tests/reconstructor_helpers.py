"""Small networks that reconstruct, with random weights."""

from __future__ import annotations

import torch
from torch import nn

from kdrift.networks import (
    DuDoRNetConfig,
    HDSLRConfig,
    ISTANetConfig,
    NetworkConfig,
    SRGANConfig,
    UNetConfig,
    VarNetConfig,
    build_network,
)

SMALL = {
    "unet": NetworkConfig(architecture="unet", unet=UNetConfig(4, 2)),
    "varnet": NetworkConfig(architecture="varnet", varnet=VarNetConfig(3, 4, 2, 4, 2)),
    "ista_net": NetworkConfig(architecture="ista_net", ista_net=ISTANetConfig(3, 8)),
    "dudornet": NetworkConfig(architecture="dudornet", dudornet=DuDoRNetConfig(2, 6, 2, (1, 2))),
    "h_dslr": NetworkConfig(architecture="h_dslr", h_dslr=HDSLRConfig(3, 4, 8, 3)),
    "sr_gan": NetworkConfig(architecture="sr_gan", sr_gan=SRGANConfig(8, 2)),
}


def network_of(name: str) -> nn.Module:
    """A network with random weights, those too that are zero at first, the last convolutions of what is added."""
    torch.manual_seed(1)
    network = build_network(SMALL[name])
    for parameter in network.parameters():
        if parameter.ndim > 1 and not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.6 / parameter[0].numel() ** 0.5)
    return network.eval()
