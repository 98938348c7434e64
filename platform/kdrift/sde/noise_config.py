"""The section `noise` of a training configuration: which noise a prior learns to remove, and how it is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from kdrift.sde.base import SDE, Noise
from kdrift.sde.high_frequency import LowFrequencies
from kdrift.sde.ve import VESDE
from kdrift.sde.vp import VPSDE, SubVPSDE

if TYPE_CHECKING:
    from kdrift.sde.process import NoiseProcess


@dataclass(frozen=True)
class AttenuationConfig:
    """Attenuation and coils of noise.kind attenuated; the noise levels are noise.sigma_min to noise.sigma_max."""

    b_min: float = 0.5
    """b of the mildest attenuation G = exp(-|w|^2 b^2 / 2), w in [-1, 1)."""
    b_max: float = 24.0
    """b of the strongest attenuation; between them b grows geometrically, as the noise levels do."""
    num_times: int = 1000
    """T: t is one of this many evenly spaced times."""
    sigma_last: tuple[float, ...] = ()
    """sigma_N, drawn from these for each image: the noise level that goes with b_max. Several make a prior that serves
    methods of different sigma_N; empty: noise.sigma_max alone."""
    antithetic: bool = True
    """Images 2k and 2k + 1 take times that mirror each other (released code)."""
    coil_noise: bool = True
    """Noise and loss through SS* and S^H; False puts the identity there, the paper's ablation (section V.A)."""
    loss_under_attenuation: bool = True
    """Compare G_t h with G_t z_0, as in Eq. 11. False: h with z_0. The best h is the conditional mean of z_0 for both;
    a small network learns the frequencies that G_t leaves little of from the second alone."""
    num_coils: int = 4
    """Coil images made of each training image; all of them go through the network."""
    gain: tuple[float, float] = (0.4, 1.0)
    """Range of a random factor on the coil images of an item, log-uniform: each of many coils is weaker than of few."""

    def __post_init__(self) -> None:
        if not 0 < self.b_min <= self.b_max or self.num_times < 2 or self.num_coils < 1:
            raise ValueError(f"expected 0 < b_min <= b_max, num_times >= 2 and num_coils >= 1, got {self}")
        if not 0 < self.gain[0] <= self.gain[1] or any(sigma <= 0 for sigma in self.sigma_last):
            raise ValueError(f"expected 0 < gain low <= high and sigma_last > 0, got {self}")


@dataclass(frozen=True)
class NoiseConfig:
    """Noise seen in training; sigma is the standard deviation of each of its real components."""

    kind: Noise = "white"
    """white: of the whole image, for VE, VP and sub-VP. high_frequency: F_h z, for HFS-SDE. attenuated: of coil
    images whose k-space is attenuated too, for AK-Diffusion. Both of these need complex images."""
    low: LowFrequencies = field(default_factory=LowFrequencies)
    """The centre of k-space that stays free of noise (kind high_frequency)."""
    attenuated: AttenuationConfig = field(default_factory=AttenuationConfig)
    """Attenuation and coils (kind attenuated)."""
    log_sigma_mean: float = -1.2
    """P_mean of Karras et al. 2022, Table 1: mean of ln sigma (edm preconditioning)."""
    log_sigma_std: float = 1.2
    """P_std of Karras et al. 2022, Table 1 (edm preconditioning)."""
    sde: Literal["ve", "vp", "sub_vp"] = "ve"
    """What gives the levels sigma(t) at t ~ U(t_min, 1): std / alpha of its kernel (preconditioning none)."""
    sigma_min: float = 0.01
    """Lowest level of the VE-SDE (preconditioning none) and of the sample images."""
    sigma_max: float = 378.0
    """Highest level of the VE-SDE (preconditioning none) and of the sample images."""
    beta_min: float = 0.1
    """beta(0) of VP and sub-VP."""
    beta_max: float = 20.0
    """beta(1) of VP and sub-VP."""
    t_min: float = 1e-5
    """Smallest time drawn, t ~ U(t_min, 1) (preconditioning none); 0.001 for VP and sub-VP."""

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"noise needs 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")
        if not 0 <= self.t_min < 1 or self.log_sigma_std <= 0:
            raise ValueError(f"noise needs 0 <= t_min < 1 and log_sigma_std > 0, got {self}")
        if any(not self.sigma_min < sigma <= self.sigma_max for sigma in self.attenuated.sigma_last):
            raise ValueError(
                f"noise.attenuated.sigma_last must lie above sigma_min {self.sigma_min} and not above sigma_max"
                f" {self.sigma_max}, got {list(self.attenuated.sigma_last)}"
            )
        if self.sde != "ve" and self.t_min == 0:
            raise ValueError(f"noise.sde {self.sde} needs t_min > 0: at 0 it has no noise")
        if not 0 < self.beta_min < self.beta_max:
            raise ValueError(f"noise needs 0 < beta_min < beta_max, got {self.beta_min} and {self.beta_max}")

    @property
    def process(self) -> NoiseProcess:
        """The noise of this kind and these levels."""
        from kdrift.sde import PROCESSES

        return PROCESSES[self.kind].of(self)

    @property
    def levels(self) -> SDE:
        """The SDE whose levels are drawn (preconditioning none)."""
        if self.sde == "ve":
            return VESDE(self.sigma_min, self.sigma_max)
        return (VPSDE if self.sde == "vp" else SubVPSDE)(self.beta_min, self.beta_max)

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Lowest and highest level that the prior is for."""
        if self.sde == "ve":
            return self.sigma_min, self.sigma_max
        low, high = self.levels.sigma(torch.tensor([self.t_min, 1.0], dtype=torch.float64)).tolist()
        return low, high
