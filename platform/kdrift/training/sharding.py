"""Weights, gradients, moving average and optimiser spread over the workers (FSDP2), for networks that are too large.

What is read from a checkpoint is whole, and so is what is written: a run goes on with any number of workers, and with
or without.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

if TYPE_CHECKING:
    from kdrift.training.loop import TrainState


def shard(state: TrainState, device: torch.device) -> None:
    """Leave each worker its part of a state that all of them have whole, and are to be at the same image of.

    Layers in lists are gathered one at a time when the network is called, the rest with the first call.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    state.skeleton = copy.deepcopy(state.ema).to("meta")
    before = dict(state.network.named_parameters())
    for network in (state.network, state.ema):
        for layer in _layers(network):
            fully_shard(layer, mesh=mesh)
        fully_shard(network, mesh=mesh)
    after: dict[Tensor, nn.Parameter] = {before[name]: each for name, each in state.network.named_parameters()}
    for group in state.optimizer.param_groups:
        group["params"] = [after[old] for old in group["params"]]
    moments = state.optimizer.state
    for old in list(moments):
        moments[after[old]] = {name: _like(value, after[old]) for name, value in moments.pop(old).items()}


def whole(value: Tensor) -> Tensor:
    """Return all of a tensor, wherever its parts are; if it is in parts, all workers must call this."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def give_parts(value: Any) -> None:
    """Give a worker that calls `whole` for each tensor of nested dicts, lists and tuples what it needs from here."""
    for tensor in _tensors(value):
        whole(tensor)


def whole_network(network: nn.Module, skeleton: nn.Module) -> nn.Module:
    """Return a network with all of its weights; all workers must call this."""
    full = copy.deepcopy(skeleton)
    full.load_state_dict({name: whole(value) for name, value in network.state_dict().items()}, assign=True)
    return full.requires_grad_(False).eval()


def here(parameters: Iterator[nn.Parameter]) -> list[Tensor]:
    """Return of each parameter what this worker has."""
    return [each.to_local() if isinstance(each, DTensor) else each for each in parameters]


def set_meeting(module: nn.Module, meets: bool) -> None:
    """Say of a sharded module whether the next backward pass adds up the workers' gradients, or keeps them."""
    assert isinstance(module, FSDPModule)
    module.set_requires_gradient_sync(meets)


def _layers(network: nn.Module) -> list[nn.Module]:
    """Return the modules of lists that have weights, the innermost first."""
    found = [
        layer
        for module in network.modules()
        if isinstance(module, nn.ModuleList)
        for layer in module
        if not isinstance(layer, nn.ModuleList) and next(layer.parameters(), None) is not None
    ]
    return found[::-1]


def _like(value: Any, parameter: nn.Parameter) -> Any:
    """Return this worker's part of what an optimiser keeps of a parameter; a count stays as it is."""
    if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)
