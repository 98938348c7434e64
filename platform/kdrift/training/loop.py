"""The training loop in plain PyTorch. It knows neither Ray nor MLflow: what it reports goes through `Hooks`.

Everything random is a function of (seed, global image index), so the number of images seen is the whole
position of a run: any split over workers and any resumption sees the same images, noise levels and noise.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from kdrift.networks import Critic, build_network
from kdrift.prior.bundle import load_prior
from kdrift.runs.seeds import derive_seed
from kdrift.training.denoised import autocast
from kdrift.training.feed import ImageSource, drawn_ahead
from kdrift.training.objectives import objective_of
from kdrift.training.sharding import here, set_meeting, whole, whole_network
from kdrift.training.together import mean_over_ranks
from kdrift.training.train_config import OptimisationConfig, TrainConfig


class NonFiniteLossError(ValueError):
    """The loss or its gradient is NaN or infinite; the weights are those before this step."""


@dataclass
class TrainState:
    """Everything that a checkpoint holds."""

    network: nn.Module
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    images: int = 0
    critic: nn.Module | None = None
    """What is trained against the network, by the second group of the optimiser's parameters."""
    skeleton: nn.Module | None = None
    """The network without weights, where those are in parts (`kdrift.training.sharding`)."""

    def averaged(self) -> nn.Module:
        """Return the network with the moving average of the weights; where they are in parts all workers must ask."""
        return self.ema if self.skeleton is None else whole_network(self.ema, self.skeleton)

    def state_dict(self) -> dict[str, Any]:
        """Return tensors, in parts where the state is, and plain values only."""
        return {
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "images": self.images,
            **({"critic": self.critic.state_dict()} if self.critic is not None else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state that `state_dict` returned, both of them whole."""
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.images = state["images"]
        if self.critic is not None:
            self.critic.load_state_dict(state["critic"])


def _ignore(*_: Any) -> None:
    return None


@dataclass(frozen=True)
class Hooks:
    """Where the loop reports to; each is called at the same images on every rank."""

    progress: Callable[[int, float, float], None] = _ignore
    """Called with (images, loss, images/s) after every step."""
    metrics: Callable[[int, dict[str, float]], None] = _ignore
    """Called with (images, values by name)."""
    preview: Callable[[TrainState], object] = _ignore
    """Called after each validation."""
    checkpoint: Callable[[TrainState], None] = _ignore
    """Called when a checkpoint is due; the state goes on changing when it returns."""


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


def new_state(config: TrainConfig, device: torch.device) -> TrainState:
    """Build network, moving average, optimiser and critic of a fresh run; the weights depend on the seed alone."""
    torch.manual_seed(derive_seed("weights", config.seed))
    plain = config.hardware.sharding == "full" or not config.hardware.channels_last  # FSDP2 takes no other
    layout = torch.contiguous_format if plain else torch.channels_last
    network = build_network(config.network)
    if config.init_from is not None:
        _start_from(network, config.init_from)
    network = network.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    critic = None
    if config.measurement is not None and config.measurement.critic is not None:
        critic = Critic(config.measurement.critic)
        critic = critic.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    options = config.optimisation
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    groups = [
        {"params": [parameter for parameter in module.parameters() if parameter.requires_grad]}
        for module in (network, critic)
        if module is not None
    ]
    rate, decay = options.learning_rate, options.weight_decay
    optimizer = kind(groups, lr=rate, betas=options.betas, weight_decay=decay, fused=True)
    return TrainState(network, copy.deepcopy(network).requires_grad_(False).eval(), optimizer, critic=critic)


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
    average(here(state.ema.parameters()), here(state.network.parameters()), torch.tensor(0))
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

    `validation` are `(image, channel, row, col)` images that training never sees, the same on every rank, or None.
    `wrap` makes the module that is called from the network whose parameters are trained (DDP, compilation).

    Every rank takes its part of each batch, `hardware.images_at_a_time` at once, so that neither the number of workers
    nor that setting changes the step. Validation is shared too, and its figures do not depend on how many they are.

    Raises ValueError if a batch has fewer images than there are workers, and NonFiniteLossError before the optimiser
    steps: nothing has been reported or written for the step.
    """
    if config.batch_size < world_size:
        raise ValueError(f"batch_size {config.batch_size} is less than the {world_size} workers")
    part = range(*(config.batch_size * each // world_size for each in (rank, rank + 1)))
    at_a_time = config.hardware.images_at_a_time or config.batch_size
    modules = [wrap(module) for module in (state.network, state.critic) if module is not None]
    network = modules[0]
    objective = objective_of(config, modules[1] if state.critic is not None else None)
    network.train()

    def accumulate(drawn: tuple[Tensor, ...]) -> float:
        """Add up the gradients of the parts; return the loss, whose mean over ranks is that of the batch."""
        parts = list(zip(*(torch.split(each, at_a_time) for each in drawn), strict=True))
        value = 0.0
        for number, piece in enumerate(parts):
            share = len(piece[0]) * world_size / config.batch_size  # DDP takes the mean over ranks
            with ExitStack() as stack:
                last = number + 1 == len(parts)  # ranks meet there alone
                for module in modules:
                    if isinstance(module, DistributedDataParallel) and not last:
                        stack.enter_context(module.no_sync())
                    elif state.skeleton is not None:
                        set_meeting(module, last)
                with autocast(config, device):
                    loss = share * objective.loss(network, *piece)
                torch.autograd.backward(loss)
            value += float(loss.detach())
        return value

    meter = _Meter()
    with drawn_ahead(config, data, part, state.images, device) as batches:
        for drawn in batches:
            before, after = state.images, state.images + config.batch_size
            rate = learning_rate(config.optimisation, after, config.total_images)
            for group in state.optimizer.param_groups:
                group["lr"] = rate
            # dropout's randomness, the same after a resumption
            torch.manual_seed(derive_seed("dropout", config.seed, before, rank))
            state.optimizer.zero_grad(set_to_none=True)
            value = accumulate(drawn)
            norms = [
                float(whole(nn.utils.clip_grad_norm_(group["params"], config.optimisation.clip_norm)))
                for group in state.optimizer.param_groups
            ]
            norm = norms[0]
            # a bad gradient on one rank is on all of them after the all-reduce, so all stop here together
            if not all(map(math.isfinite, (value, *norms))):
                raise NonFiniteLossError(
                    f"loss {value} (gradient norm {', '.join(map(str, norms))}) at image {before}: stopped before the"
                    " step; lower optimisation.learning_rate or look at the data, then resume from the last checkpoint"
                )
            state.optimizer.step()
            state.images = after
            update_ema(state, config.optimisation, config.batch_size)
            meter.add(value, config.batch_size)
            hooks.progress(after, value, meter.images_per_second())
            last = after >= config.total_images
            if last or _due(config.monitoring.log_every_images, before, after):
                values = {
                    "train/loss": mean_over_ranks(meter.loss / meter.steps, device),
                    "train/learning_rate": rate,
                    "train/gradient_norm": norm,
                    "train/images_per_second": meter.images_per_second(),
                }
                hooks.metrics(after, values)
                meter = _Meter()
            if last or _due(config.monitoring.validate_every_images, before, after):
                started = time.monotonic()
                if validation is not None:
                    hooks.metrics(after, objective.validate(state.averaged(), validation, device))
                hooks.preview(state)
                meter.since += time.monotonic() - started
            if last or _due(config.checkpoint.every_images, before, after):
                hooks.checkpoint(state)


def _due(every: int, before: int, after: int) -> bool:
    return after // every > before // every
