"""Plain PyTorch modules: score networks, called as `network(x, sigma)`, or with what else they are conditioned on, and
networks that reconstruct, called as `network(kspace, mask, smaps)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import nn

from kdrift.networks.critic import Critic, CriticConfig
from kdrift.networks.ddpm import DDPM, DDPMConfig
from kdrift.networks.denoiser import EDMDenoiser, ResidualDenoiser
from kdrift.networks.dudornet import DuDoRNet, DuDoRNetConfig
from kdrift.networks.h_dslr import HDSLR, HDSLRConfig
from kdrift.networks.ista_net import ISTANet, ISTANetConfig
from kdrift.networks.ncsnpp import NCSNpp, NCSNppConfig
from kdrift.networks.ncsnv2 import NCSNv2, NCSNv2Config
from kdrift.networks.reconstructor import ReconstructorConfig
from kdrift.networks.sr_gan import SRGAN, SRGANConfig
from kdrift.networks.unet import MagnitudeUNet, UNetConfig
from kdrift.networks.varnet import VarNet, VarNetConfig

__all__ = [
    "Critic", "CriticConfig", "DDPM", "DDPMConfig", "DuDoRNet", "DuDoRNetConfig", "EDMDenoiser", "HDSLR",
    "HDSLRConfig", "ISTANet", "ISTANetConfig", "MagnitudeUNet", "NCSNpp", "NCSNppConfig", "NCSNv2", "NCSNv2Config",
    "NetworkConfig", "Reconstructor", "ResidualDenoiser", "SRGAN", "SRGANConfig", "UNetConfig", "VarNet",
    "VarNetConfig", "build_network",
]  # fmt: skip

Reconstructor = Literal["unet", "varnet", "ista_net", "dudornet", "h_dslr", "sr_gan"]
"""Networks that reconstruct: trained on pairs of measurement and image, they have no score."""
RECONSTRUCTORS: tuple[Reconstructor, ...] = get_args(Reconstructor)
Architecture = Literal["ncsnpp", "ddpm", "ncsnv2"] | Reconstructor
MODULES: dict[Architecture, Callable[[Any], nn.Module]] = {
    "ncsnpp": NCSNpp, "ddpm": DDPM, "ncsnv2": NCSNv2, "unet": MagnitudeUNet, "varnet": VarNet,
    "ista_net": ISTANet, "dudornet": DuDoRNet, "h_dslr": HDSLR, "sr_gan": SRGAN,
}  # fmt: skip
"""What builds each, from the section of its name; a new one is its file, a name, a section and a line here."""
Images = Literal["complex", "magnitude"]
Returns = Literal["score", "image", "residual"]
Conditioning = Literal["sigma", "std", "level"]


@dataclass(frozen=True)
class NetworkConfig:
    """A network, what it takes and what it returns."""

    ncsnpp: NCSNppConfig = field(default_factory=NCSNppConfig)
    """NCSN++ (architecture ncsnpp)."""
    preconditioning: str = "none"
    """`none`: the network returns the score; `edm`: it is wrapped and returns the denoised image; `residual`: likewise,
    the restored image of AK-Diffusion; `bare_residual`: the network returns what restoring adds to x, as published."""
    sigma_data: float = 0.3
    """Standard deviation of the training images, used by `edm` and `residual`."""
    architecture: Architecture = "ncsnpp"
    """Which network it is; the settings of the others are not used. ncsnpp, ddpm and ncsnv2 are score networks, the
    others reconstruct."""
    ddpm: DDPMConfig = field(default_factory=DDPMConfig)
    """DDPM (architecture ddpm)."""
    ncsnv2: NCSNv2Config = field(default_factory=NCSNv2Config)
    """NCSNv2-deepest (architecture ncsnv2)."""
    conditioning: Conditioning = "sigma"
    """The second input, and the scale of the first. `sigma`: the noise level, images at their own scale (VE, EDM).
    `std`: the noise level of images scaled by sqrt(1 - std^2), as VP-type SDEs have them. `level`: the index of the
    noise level in the network's own table (NCSNv2)."""
    unet: UNetConfig = field(default_factory=UNetConfig)
    """U-Net (architecture unet)."""
    varnet: VarNetConfig = field(default_factory=VarNetConfig)
    """E2E-VarNet (architecture varnet)."""
    ista_net: ISTANetConfig = field(default_factory=ISTANetConfig)
    """ISTA-Net+ (architecture ista_net)."""
    dudornet: DuDoRNetConfig = field(default_factory=DuDoRNetConfig)
    """DuDoRNet (architecture dudornet)."""
    h_dslr: HDSLRConfig = field(default_factory=HDSLRConfig)
    """H-DSLR (architecture h_dslr)."""
    sr_gan: SRGANConfig = field(default_factory=SRGANConfig)
    """Generator of SRGAN (architecture sr_gan)."""

    @property
    def config(self) -> NCSNppConfig | DDPMConfig | NCSNv2Config | ReconstructorConfig:
        """The settings of the chosen architecture."""
        chosen: NCSNppConfig | DDPMConfig | NCSNv2Config | ReconstructorConfig = getattr(self, self.architecture)
        return chosen

    @property
    def reconstructs(self) -> Reconstructor | None:
        """Its architecture where it reconstructs; None: it is a score network."""
        return next((name for name in RECONSTRUCTORS if name == self.architecture), None)

    @property
    def penalty_weight(self) -> float:
        """Weight in the loss of training of the network's own penalty; 0: it has none."""
        return self.config.penalty_weight if isinstance(self.config, ReconstructorConfig) else 0.0

    @property
    def channels(self) -> int:
        """Image channels: 1 for real images, 2 for complex ones."""
        return self.config.channels

    @property
    def images(self) -> Images:
        """Kind of images that it takes: complex ones, or magnitudes, as which it takes each part of a complex image."""
        return "complex" if self.channels == 2 else "magnitude"

    @property
    def wrapped(self) -> bool:
        """Whether the module is a wrapper around the architecture's network."""
        return self.preconditioning in ("edm", "residual")

    @property
    def returns(self) -> Returns:
        """What the module returns."""
        outputs: dict[str, Returns] = {"none": "score", "bare_residual": "residual"}
        return outputs.get(self.preconditioning, "image")

    @property
    def size_multiple(self) -> int:
        """Rows and columns of an input must be multiples of this."""
        return self.config.size_multiple

    def __post_init__(self) -> None:
        if self.preconditioning not in ("none", "edm", "residual", "bare_residual"):
            known = "'none', 'edm', 'residual' or 'bare_residual'"
            raise ValueError(f"preconditioning is {known}, got {self.preconditioning!r}")
        if (self.conditioning == "level") != (self.architecture == "ncsnv2"):
            raise ValueError(
                "conditioning 'level' is that of architecture ncsnv2 and of no other, got"
                f" {self.conditioning!r} and {self.architecture}"
            )
        if self.reconstructs and (self.preconditioning != "none" or self.conditioning != "sigma"):
            raise ValueError(
                f"{self.architecture} reconstructs and has no noise level: leave preconditioning and conditioning out,"
                f" got {self.preconditioning!r} and {self.conditioning!r}"
            )
        if not self.wrapped:
            return
        needs = f"{self.preconditioning} preconditioning needs"
        if self.conditioning != "sigma" or not self.config.centered:
            raise ValueError(f"{needs} conditioning: sigma and {self.architecture}.centered: true")
        if self.architecture == "ncsnpp" and self.ncsnpp.scale_by_sigma:
            raise ValueError(f"{needs} ncsnpp.scale_by_sigma: false")


def build_network(config: NetworkConfig) -> nn.Module:
    """Build the module of a configuration, with fresh weights."""
    network = MODULES[config.architecture](config.config)
    if not config.wrapped:
        return network
    wrapper = EDMDenoiser if config.preconditioning == "edm" else ResidualDenoiser
    return wrapper(network, config.sigma_data)
