"""Small networks that reconstruct, with random weights."""

from __future__ import annotations

import torch
from torch import nn

from kdrift.networks import NetworkConfig, UNetConfig, VarNetConfig, build_network
from kdrift.networks.reconstructor import UNet

SMALL = {
    "unet": NetworkConfig(architecture="unet", unet=UNetConfig(4, 2)),
    "varnet": NetworkConfig(architecture="varnet", varnet=VarNetConfig(3, 4, 2, 4, 2)),
}


def network_of(name: str) -> nn.Module:
    """A network with random weights, the last layers of its U-Nets too, which are zero at first."""
    torch.manual_seed(1)
    network = build_network(SMALL[name])
    for module in network.modules():
        if isinstance(module, UNet):
            nn.init.normal_(module.last.weight, std=0.3)
    return network.eval()
