"""What a training costs: parameters, FLOPs and memory of an image, counted on tensors without storage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kdrift.networks import build_network
from kdrift.training.train_config import TrainConfig

BYTES_A_PARAMETER = 20
"""Weights, gradients, moving average and Adam's two moments, float32."""


@dataclass(frozen=True)
class Cost:
    """What one training image costs, and what is there whatever the batch."""

    parameters: int
    flop: float
    """Forward and backward; an image of `noise.attenuated` is its coil images."""
    activation_bytes: float
    """What the backward pass keeps, in float32."""

    @property
    def model_bytes(self) -> int:
        """What training keeps of the network."""
        return BYTES_A_PARAMETER * self.parameters


def training_cost(config: TrainConfig) -> Cost:
    """Count the cost of one training image of a score network at the configuration's own size.

    Raises ValueError for networks that reconstruct, whose cost depends on the coils that are drawn.
    """
    if config.network.reconstructs:
        raise ValueError(f"{config.network.architecture} reconstructs: only the cost of score networks is counted")
    side = config.data.crop
    with torch.device("meta"):
        network = build_network(config.network)
        image, level = torch.empty(1, config.network.channels, side, side), torch.empty(1)
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        torch.autograd.backward(network(image, level).sum())
    times = config.noise.attenuated.num_coils if config.noise.kind == "attenuated" else 1
    return Cost(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        flop=times * float(counter.get_total_flops()),
        activation_bytes=times * sum(each.nbytes() for key, each in kept.items() if key not in weights),
    )
