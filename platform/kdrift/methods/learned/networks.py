"""Networks that were trained to reconstruct: U-Net (Zbontar et al. 2018, arXiv:1811.08839), E2E-VarNet (Sriram et al.
2020, arXiv:2004.06688).

What differs is the network (`kdrift.networks.unet`, `kdrift.networks.varnet`): all are called alike, once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdrift.methods import Measurement, Method, Options


@dataclass(frozen=True)
class LearnedOptions(Options):
    """Settings of a learned reconstruction: there are none, all is in its network."""

    @property
    def evaluations(self) -> int:
        """Network evaluations of the image: one."""
        return 1


def reconstruct_by_network(network: nn.Module, measurement: Measurement, *, options: LearnedOptions) -> Tensor:
    """What the network makes of k-space, mask and coil maps, in float32; complex `(row, col)`."""
    given = measurement.kspace.to(torch.complex64), measurement.mask, measurement.smaps.to(torch.complex64)
    with torch.no_grad():
        image: Tensor = network(*(part[None] for part in given))
    return image[0].to(measurement.kspace.dtype)


METHODS = {
    "unet": Method(
        reconstruct_by_network, {"default": LearnedOptions()}, "U-Net on the zero-filled magnitude",
        needs="unet", max_map_sets=1, fits_data=False,
    ),
    "varnet": Method(
        reconstruct_by_network, {"default": LearnedOptions()}, "end-to-end variational network",
        needs="varnet", max_map_sets=1, fits_data=False,
    ),
}  # fmt: skip
