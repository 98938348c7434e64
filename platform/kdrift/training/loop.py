"""The training loop in plain PyTorch. It knows neither Ray nor MLflow: what it reports goes through `Hooks`.

Everything random is a function of (seed, global image index), so the number of images seen is the whole
position of a run: any split over workers and any resumption sees the same images, noise levels and noise.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from kdrift.networks import Returns, build_network
from kdrift.prior.bundle import load_prior
from kdrift.runs.hardware import has_fast_bfloat16
from kdrift.runs.seeds import derive_seed
from kdrift.sde import NoiseConfig
from kdrift.sde.process import Network, project_channels
from kdrift.sde.white_noise import draw_white, own_scale
from kdrift.training.train_config import OptimisationConfig, TrainConfig

_VALIDATION_BATCH = 8


class ImageSource(Protocol):
    """Training images as a pure function of the global image index."""

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Return `(batch, channel, row, col)` float32."""


class NonFiniteLossError(ValueError):
    """The loss or its gradient is NaN or infinite; the weights are those before this step."""


@dataclass
class TrainState:
    """Everything that a checkpoint holds."""

    network: nn.Module
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    images: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values only."""
        return {
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "images": self.images,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state that `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.images = state["images"]


def _ignore(*_: Any) -> None:
    return None


@dataclass(frozen=True)
class Hooks:
    """Where the loop reports to; each is called at the same images on every rank."""

    progress: Callable[[int, float, float], None] = _ignore
    """Called with (images, loss, images/s) after every step."""
    metrics: Callable[[int, dict[str, float]], None] = _ignore
    """Called with (images, values by name)."""
    preview: Callable[[TrainState], None] = _ignore
    """Called after each validation."""
    checkpoint: Callable[[TrainState], None] = _ignore
    """Called when a checkpoint is due."""


@dataclass
class _Meter:
    """Mean loss and speed since the last log."""

    loss: float = 0.0
    steps: int = 0
    images: int = 0
    since: float = field(default_factory=time.monotonic)

    def add(self, loss: float, images: int) -> None:
        self.loss += loss
        self.steps += 1
        self.images += images

    def images_per_second(self) -> float:
        return self.images / max(time.monotonic() - self.since, 1e-9)


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Return the autocast context of the configured precision."""
    precision = config.hardware.precision
    enabled = precision == "bfloat16" or (precision == "auto" and has_fast_bfloat16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def new_state(config: TrainConfig, device: torch.device) -> TrainState:
    """Build network, moving average and optimiser of a fresh run; the weights depend on the seed alone."""
    torch.manual_seed(derive_seed("weights", config.seed))
    layout = torch.channels_last if config.hardware.channels_last else torch.contiguous_format
    network = build_network(config.network)
    if config.init_from is not None:
        _start_from(network, config.init_from)
    network = network.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    options = config.optimisation
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    rate, decay = options.learning_rate, options.weight_decay
    optimizer = kind(trained, lr=rate, betas=options.betas, weight_decay=decay, fused=True)
    return TrainState(network, copy.deepcopy(network).requires_grad_(False).eval(), optimizer)


def _start_from(network: nn.Module, prior: str) -> None:
    """Copy the weights of a prior wherever name and shape agree."""
    own, given = network.state_dict(), load_prior(prior).network.state_dict()
    fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise ValueError(f"init_from {prior}: no weight of that prior fits the network; choose a like configuration")
    network.load_state_dict(fitting, strict=False)


def learning_rate(config: OptimisationConfig, images: int, total_images: int) -> float:
    """Rate of the step that ends at `images`: linear warm-up, then constant or half a cosine to zero."""
    if images < config.warmup_images:
        return config.learning_rate * images / config.warmup_images
    if config.schedule == "constant":
        return config.learning_rate
    done = (images - config.warmup_images) / max(total_images - config.warmup_images, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


@torch.no_grad()
def update_ema(state: TrainState, config: OptimisationConfig, batch_size: int) -> None:
    """Move the average by one batch; its half-life is counted in images and grows with the run at first."""
    halflife = min(config.ema_halflife_images, config.ema_rampup * state.images)
    average = get_ema_multi_avg_fn(0.5 ** (batch_size / max(halflife, 1e-9)))
    average(list(state.ema.parameters()), list(state.network.parameters()), torch.tensor(0))
    for target, source in zip(state.ema.buffers(), state.network.buffers(), strict=True):
        target.copy_(source)


def fit(
    config: TrainConfig,
    state: TrainState,
    data: ImageSource,
    hooks: Hooks,
    *,
    validation: Tensor | None = None,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
) -> None:
    """Train `state` from its position to `config.total_images`.

    `validation` are `(image, channel, row, col)` images that training never sees, or None.
    `wrap` makes the module that is called from the network whose parameters are trained (DDP, compilation).

    Raises ValueError if the batch does not divide among the workers, and NonFiniteLossError before the optimiser steps:
    nothing has been reported or written for the step.
    """
    if config.batch_size % world_size:
        raise ValueError(f"batch_size {config.batch_size} does not divide among {world_size} workers")
    share = config.batch_size // world_size
    process = config.noise.process
    network = wrap(state.network)
    network.train()
    trained = [parameter for parameter in state.network.parameters() if parameter.requires_grad]

    def load(start: int) -> tuple[Tensor, ...]:
        indices = range(start + rank * share, start + (rank + 1) * share)
        image, preconditioning = data.batch(indices), config.network.preconditioning
        drawn = process.draw(config.noise, preconditioning, config.seed, indices, image.shape[1:])
        return tuple(part.to(device) for part in (image, *drawn))

    meter = _Meter()
    with ThreadPoolExecutor(1, "loader") as loader:
        pending = loader.submit(load, state.images)
        while state.images < config.total_images:
            drawn = pending.result()
            before, after = state.images, state.images + config.batch_size
            if after < config.total_images:
                pending = loader.submit(load, after)
            rate = learning_rate(config.optimisation, after, config.total_images)
            for group in state.optimizer.param_groups:
                group["lr"] = rate
            # dropout's randomness, the same after a resumption
            torch.manual_seed(derive_seed("dropout", config.seed, before, rank))
            state.optimizer.zero_grad(set_to_none=True)
            with autocast(config, device):
                loss = process.loss(config.noise, network, config.network, *drawn)
            torch.autograd.backward(loss)
            norm = nn.utils.clip_grad_norm_(trained, config.optimisation.clip_norm)
            value = float(loss.detach())
            # a bad gradient on one rank is on all of them after the all-reduce, so all stop here together
            if not (math.isfinite(value) and math.isfinite(float(norm))):
                raise NonFiniteLossError(
                    f"loss {value} (gradient norm {float(norm)}) at image {before}: stopped before the step; lower"
                    " optimisation.learning_rate or look at the data, then resume from the last checkpoint"
                )
            state.optimizer.step()
            state.images = after
            update_ema(state, config.optimisation, config.batch_size)
            meter.add(value, config.batch_size)
            hooks.progress(after, value, meter.images_per_second())
            last = after >= config.total_images
            if last or _due(config.monitoring.log_every_images, before, after):
                values = {
                    "train/loss": _mean_over_ranks(meter.loss / meter.steps, device),
                    "train/learning_rate": rate,
                    "train/gradient_norm": float(norm),
                    "train/images_per_second": meter.images_per_second(),
                }
                hooks.metrics(after, values)
                meter = _Meter()
            if last or _due(config.monitoring.validate_every_images, before, after):
                started = time.monotonic()
                if rank == 0:  # the others wait for it at the next step
                    if validation is not None:
                        hooks.metrics(after, validate(config, state.ema, validation, device))
                    hooks.preview(state)
                meter.since += time.monotonic() - started
            if last or _due(config.checkpoint.every_images, before, after):
                hooks.checkpoint(state)


@torch.no_grad()
def validate(config: TrainConfig, network: nn.Module, images: Tensor, device: torch.device) -> dict[str, float]:
    """Fraction of the noise's power left after denoising `(image, channel, row, col)`, for each level."""
    process, returns = config.noise.process, config.network.returns
    scaled = own_scale(network, config.network, process.projection())
    sums = dict.fromkeys(config.monitoring.validation_sigmas, 0.0)
    for start in range(0, len(images), _VALIDATION_BATCH):
        image = images[start : start + _VALIDATION_BATCH]
        indices = range(start, start + len(image))  # the same noise every time, so that values compare
        _, noise = draw_white(config.noise, "edm", config.seed, indices, image.shape[1:], "validation noise")
        for sigma in sums:
            with autocast(config, device):
                left = noise_left(scaled, returns, image.to(device), sigma, noise.to(device), config.noise)
            sums[sigma] += left * len(image)
    return {f"validation/noise_left_sigma_{sigma:g}": total / len(images) for sigma, total in sums.items()}


def denoise(network: Network, returns: Returns, x: Tensor, sigma: Tensor) -> Tensor:
    """Return E[x_0 | x] of a network in training: an image as it is, from a score by Tweedie's x + sigma^2 s."""
    output = network(x, sigma).to(torch.float32)
    return output if returns == "image" else x + sigma[:, None, None, None] ** 2 * output


def noise_left(
    network: Network, returns: Returns, image: Tensor, sigma: float, noise: Tensor, config: NoiseConfig
) -> float:
    """Mean of |P W (D(G y + sigma P z) - y)|^2 / sigma^2: the fraction of the noise's power that denoising leaves.

    It equals the score-matching loss (Score-MRI, Eq. 17) at this level for both kinds of network. P and G are the
    projection and the attenuation of the process, and W what its loss is taken under (G in AK-Diffusion's Eq. 11): the
    value is then a fraction of the noise under W, to which with W = 1 what is not restored of the attenuation adds.
    """
    process = config.process
    levels = torch.full((len(image),), sigma, device=image.device)
    noisy = process.blur(image, sigma) + sigma * project_channels(process.projection(), noise)
    error, power = process.misfit(config, denoise(network, returns, noisy, levels) - image, noise, sigma)
    return float((error**2).mean()) / power


def _due(every: int, before: int, after: int) -> bool:
    return after // every > before // every


def _mean_over_ranks(value: float, device: torch.device) -> float:
    if not (dist.is_available() and dist.is_initialized()):
        return value
    total = torch.tensor(value, device=device)
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()
