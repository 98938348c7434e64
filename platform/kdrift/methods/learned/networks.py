"""Networks that were trained to reconstruct: U-Net (Zbontar et al. 2018, arXiv:1811.08839), E2E-VarNet (Sriram et al.
2020, arXiv:2004.06688), ISTA-Net+ (Zhang & Ghanem 2018, arXiv:1706.07929), DuDoRNet (Zhou & Zhou 2020,
arXiv:2001.03799), H-DSLR (Pramanik et al. 2020, arXiv:1912.03433), SRGAN (Ledig et al. 2017,
arXiv:1609.04802).

What differs is the network (the file of its name in `kdrift.networks`): all are called alike, once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdrift.methods import Measurement, Method, Options
from kdrift.networks import Reconstructor


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


_SUMMARIES: dict[Reconstructor, str] = {
    "unet": "U-Net on the zero-filled magnitude",
    "varnet": "end-to-end variational network",
    "ista_net": "ISTA-Net+: unrolled ISTA with learned transforms",
    "dudornet": "DuDoRNet: image and k-space restored in turns",
    "h_dslr": "H-DSLR: deep structured low rank, in k-space and image",
    "sr_gan": "SRGAN on the zero-filled image",
}
METHODS = {
    name: Method(
        reconstruct_by_network, {"default": LearnedOptions()}, summary, needs=name, max_map_sets=1, fits_data=False
    )
    for name, summary in _SUMMARIES.items()
}
