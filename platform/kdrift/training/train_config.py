"""Configuration of a training run: one complete YAML, every length of time counted in training images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kdrift.data.data_config import DataConfig
from kdrift.data.measurements import MeasurementConfig
from kdrift.networks import NetworkConfig
from kdrift.prior.prior_info import CardText
from kdrift.sde import PROCESSES, NoiseConfig


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
    """Weight decay: decoupled for adamw, an L2 term for adam."""
    warmup_images: int = 10_000
    """Linear warm-up from zero over this many images."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up: constant, or half a cosine that ends at zero with the run."""
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
    """What a worker is lent and how the arithmetic runs; weights and optimiser state are float32 always."""

    cpus: int | None = None
    """CPUs a worker; null: as many as let all workers run at once."""
    gpus: int | None = None
    """GPUs a worker; null: one where the cluster has any. 0 trains on CPUs. Workers without the GPU that they ask for
    wait or are refused; they never go on with CPUs."""
    accelerator_type: str | None = None
    """Kind of GPU by Ray's name, such as H100; null: any."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """On few nodes or on many, by Ray's placement strategies; the strict ones wait for it."""
    images_at_a_time: int | None = None
    """Most images that a worker puts through the network at once; the gradients of an optimiser step's parts are added
    up. null: all of the worker's share of `batch_size`. For batches that do not fit into a GPU's memory."""
    loaders: int = 0
    """Processes of a worker that draw images, noise and masks ahead, for GPUs that are faster than one core draws; 0: a
    thread of the worker draws. The images are the same however many there are. Each process reads for itself and holds
    what it has read: `data.cache_mib` is of all of them together."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 autocast where the CPU or GPU computes in it natively, else float32."""
    channels_last: bool = True
    """Keep activations and weights in NHWC order."""
    compile: bool = False
    """Compile the network with torch.compile."""
    sharding: Literal["none", "full"] = "none"
    """`full` spreads weights, gradients, moving average and optimiser over the workers (FSDP2), each layer's weights
    gathered while it computes: for networks whose 20 bytes a parameter are too many for one GPU's memory. The steps are
    those of `none`, where each worker has all of them; weights are not in NHWC order then."""

    def __post_init__(self) -> None:
        for name, least in (("cpus", 1), ("gpus", 0), ("images_at_a_time", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"hardware.{name} must be null or {least} and more, got {value}")
        if self.loaders < 0:
            raise ValueError(f"hardware.loaders must be 0 or more, got {self.loaders}")
        if self.accelerator_type is not None and self.gpus == 0:
            raise ValueError(f"hardware.accelerator_type {self.accelerator_type} asks for a GPU, hardware.gpus is 0")
        if self.sharding == "full" and self.compile:
            raise ValueError("hardware.sharding full takes no hardware.compile: set one of them back")

    @property
    def readers(self) -> int:
        """Processes of a worker that read images: its loaders, or itself."""
        return max(1, self.loaders)


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
    """Noise levels of a score network."""
    measurement: MeasurementConfig | None = None
    """Masks, coils, noise and loss of a network that reconstructs, which needs it; null for a score network."""
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
    card: CardText = field(default_factory=CardText)
    """What the model card says in your words; all else in it is generated from the run."""

    def __post_init__(self) -> None:
        if self.batch_size <= 0 or self.total_images <= 0:
            raise ValueError(
                f"batch_size and total_images must be positive, got {self.batch_size} and {self.total_images}"
            )
        if (self.measurement is None) != (self.network.reconstructs is None):
            raise ValueError(
                f"network.architecture {self.network.architecture}"
                f" {'reconstructs: give' if self.network.reconstructs else 'is a score network: leave out'} the section"
                " measurement, its masks, coils and loss"
            )
        critic = self.measurement.critic if self.measurement is not None else None
        if self.hardware.sharding == "full" and critic is not None:
            raise ValueError("hardware.sharding full takes no measurement.critic: set one of them back")
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
        if self.network.reconstructs:
            return
        process = PROCESSES[self.noise.kind]
        if process.complex_only and channels == 1:
            raise ValueError(f"noise.kind {self.noise.kind} needs data.images: complex")
        if self.network.preconditioning not in process.preconditionings:
            raise ValueError(
                f"noise.kind {self.noise.kind} takes network.preconditioning {' or '.join(process.preconditionings)},"
                f" got {self.network.preconditioning!r}"
            )
