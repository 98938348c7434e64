"""Configuration of a training run: one complete YAML, every length of time counted in training images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from kdrift.data.data_config import DataConfig
from kdrift.networks import NetworkConfig
from kdrift.sde import SDE, VESDE, VPSDE, LowFrequencies, Noise, SubVPSDE
from kdrift.training.attenuated import AttenuationConfig


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
            raise ValueError(f"noise needs 0 < sigma_min < sigma_max, got {self}")
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
    def process(self) -> SDE:
        """The SDE whose levels are drawn (preconditioning none)."""
        if self.sde == "ve":
            return VESDE(self.sigma_min, self.sigma_max)
        return (VPSDE if self.sde == "vp" else SubVPSDE)(self.beta_min, self.beta_max)

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Lowest and highest level that the prior is for."""
        if self.sde == "ve":
            return self.sigma_min, self.sigma_max
        low, high = self.process.sigma(torch.tensor([self.t_min, 1.0], dtype=torch.float64)).tolist()
        return low, high


@dataclass(frozen=True)
class OptimisationConfig:
    """Optimiser, schedule and moving average."""

    optimizer: Literal["adam", "adamw"] = "adamw"
    """Update rule."""
    learning_rate: float = 2e-4
    """Rate after the warm-up."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates."""
    weight_decay: float = 0.0
    """Decoupled for adamw, an L2 term for adam."""
    warmup_images: int = 10_000
    """Linear warm-up from zero over this many images."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: constant, or half a cosine that ends at zero with the run."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; larger ones are scaled down to it."""
    ema_halflife_images: float = 50_000
    """Half-life of the moving average of the weights, which becomes the prior."""
    ema_rampup: float = 0.05
    """The half-life is at most this fraction of the images seen, so that the start is forgotten."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.clip_norm <= 0 or self.warmup_images < 0:
            raise ValueError(f"learning_rate and clip_norm must be > 0, warmup_images >= 0, got {self}")
        if self.ema_halflife_images <= 0 or self.ema_rampup <= 0:
            raise ValueError(f"ema_halflife_images and ema_rampup must be > 0, got {self}")


@dataclass(frozen=True)
class HardwareConfig:
    """How the arithmetic runs; weights and optimiser state are float32 always."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 autocast where the CPU or GPU computes in it natively, else float32."""
    channels_last: bool = True
    """Keep activations and weights in NHWC order."""
    compile: bool = False
    """Compile the network with torch.compile."""


@dataclass(frozen=True)
class MonitoringConfig:
    """What is measured while training, on the moving average of the weights."""

    log_every_images: int = 1_000
    """Training loss, learning rate and speed are logged this often."""
    validate_every_images: int = 20_000
    """Validation loss and sample images are made this often, and at the end."""
    validation_images: int = 32
    """Number of validation images; 0 turns validation off."""
    validation_sigmas: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    """Noise levels at which the validation loss is measured."""
    num_samples: int = 4
    """Number of unconditional samples drawn for the sample sheet; 0 turns the sheets off."""
    sample_steps: int = 24
    """Network evaluations a sample."""

    def __post_init__(self) -> None:
        if self.log_every_images <= 0 or self.validate_every_images <= 0:
            raise ValueError(f"monitoring needs log_every_images and validate_every_images > 0, got {self}")
        if any(sigma <= 0 for sigma in self.validation_sigmas):
            raise ValueError(f"monitoring.validation_sigmas must be positive, got {self.validation_sigmas}")


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints: model, moving average, optimiser and position in the data."""

    every_images: int = 10_000
    """A checkpoint is written this often, and at the end."""
    keep: int = 2
    """Number of newest checkpoints kept."""
    max_failures: int = 3
    """How often a lost worker is replaced and training goes on from the newest checkpoint; -1: always."""

    def __post_init__(self) -> None:
        if self.every_images <= 0 or self.keep < 1:
            raise ValueError(f"checkpoint needs every_images > 0 and keep >= 1, got {self}")


MAY_CHANGE = ("total_images", "name", "card", "hardware", "monitoring", "checkpoint")
"""What may change when a run is resumed."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    data: DataConfig
    """Training images."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Network; its preconditioning decides the loss (`edm`: Karras 2022 Eq. 8, `none`: score matching,
    `residual`: AK-Diffusion Eq. 11)."""
    name: str = "prior"
    """Name of the run and of the registered prior."""
    seed: int = 0
    """Seed of weights, noise and noise levels."""
    total_images: int = 200_000
    """The run ends after this many images."""
    batch_size: int = 16
    """Images an optimiser step, over all workers together."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Noise levels."""
    optimisation: OptimisationConfig = field(default_factory=OptimisationConfig)
    """Optimiser, schedule, moving average."""
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    """Precision, memory format, compilation."""
    monitoring: MonitoringConfig = field(default_factory=MonitoringConfig)
    """Logging, validation, sample images."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints and restarts."""
    init_from: str | None = None
    """Prior (shipped name or folder) whose weights a fresh run starts from, wherever the shapes agree."""
    card: str = ""
    """Markdown put into the model card: what the prior is for, its data, their licence and citation."""

    def __post_init__(self) -> None:
        if self.batch_size <= 0 or self.total_images <= 0:
            raise ValueError(
                f"batch_size and total_images must be positive, got {self.batch_size} and {self.total_images}"
            )
        channels = 2 if self.data.images == "complex" else 1
        if self.network.channels != channels:
            raise ValueError(
                f"data.images {self.data.images} have {channels} channels, the network has {self.network.channels}"
            )
        if self.network.conditioning == "level":
            raise ValueError("training needs network.conditioning sigma or std, got 'level'")
        if self.network.preconditioning != "none" and self.noise.sde != "ve":
            raise ValueError(
                f"noise.sde {self.noise.sde} needs network.preconditioning none, got {self.network.preconditioning}"
            )
        if self.noise.kind != "white" and channels == 1:
            raise ValueError(f"noise.kind {self.noise.kind} needs data.images: complex")
        able = ("residual", "edm") if self.noise.kind == "attenuated" else ("none", "edm")
        if self.network.preconditioning not in able:
            raise ValueError(
                f"noise.kind {self.noise.kind} takes network.preconditioning {' or '.join(able)}, got"
                f" {self.network.preconditioning!r}"
            )
