"""What runs in each Ray Train worker: the loop of `loop.py`, its hooks tied to files, MLflow and Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import ray.train
import ray.train.collective
import ray.train.torch
import torch
import torch.distributed as dist
from torch import nn

from kdrift.data.dataset import TrainingImages
from kdrift.runs.config import parse
from kdrift.runs.hardware import set_up
from kdrift.training.checkpoint_writer import CheckpointWriter
from kdrift.training.denoised import uses_bfloat16
from kdrift.training.desk import Desk, checkpoint_of, desk_of
from kdrift.training.loop import Hooks, NonFiniteLossError, TrainState, fit, new_state
from kdrift.training.objectives import Sheets, held_out_images, objective_of
from kdrift.training.sharding import give_parts, shard
from kdrift.training.together import from_first, in_group
from kdrift.training.train_config import TrainConfig
from kdrift.training.watch import ProgressWriter


def train_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Train one rank of a job `{config, out, node, tracking_uri, run_id, threads}` from its newest checkpoint on.

    Returns `{images, stopped}`; a non-finite loss is an answer, not a failure that Ray would retry.
    """
    config = parse(TrainConfig, job["config"])
    context = ray.train.get_context()
    rank, device = context.get_world_rank(), ray.train.torch.get_device()
    set_up(device, job["threads"])
    state = new_state(config, device)
    desk = desk_of(job) if rank == 0 else None  # rank 0 alone writes
    # it decides: another node may see the folder later
    loaded = desk.load() if desk is not None else None
    found = ray.train.collective.broadcast_from_rank_zero(loaded[0] if loaded is not None else "")
    if found:
        state.load_state_dict(loaded[1] if loaded is not None else checkpoint_of(job, found))
    del loaded
    if config.hardware.sharding == "full" and in_group():
        shard(state, device)
    # not read by all: each of them would read whole volumes
    validation = from_first(held_out_images(config) if rank == 0 else None, device)

    def wrap(network: nn.Module) -> nn.Module:
        if config.hardware.compile:
            network.compile()
        if state.skeleton is not None:
            return network
        return ray.train.torch.prepare_model(
            network, move_to_device=False, parallel_strategy_kwargs={"broadcast_buffers": False}
        )

    def draw(state: TrainState) -> Sheets:
        return objective_of(config).sheets(state.averaged(), validation, device)

    group = _group(config, device, job["threads"])
    data = TrainingImages(config.data, "train", config.seed, config.hardware.readers)
    stopped = None
    with ExitStack() as closing:
        hooks = Hooks(preview=draw, checkpoint=lambda state: give_parts(state.state_dict()))
        if desk is not None:
            closing.callback(desk.close)
            hooks = closing.enter_context(_reporting(desk, job, state.images, group, draw))
        try:
            fit(
                config, state, data, hooks, validation=validation, device=device, rank=rank,
                world_size=context.get_world_size(), wrap=wrap,
            )  # fmt: skip
        except NonFiniteLossError as error:
            stopped = str(error)
        except torch.OutOfMemoryError:
            now = config.hardware.images_at_a_time or config.batch_size // context.get_world_size()
            advice = "set hardware.images_at_a_time to less and resume; the batch and so the result stay the same"
            stopped = f"{device} has too little memory for {now} image(s) at once: {advice}"
    return {"images": state.images, "stopped": stopped}


@contextmanager
def _reporting(
    desk: Desk, job: dict[str, Any], start: int, group: list[dict[str, Any]], draw: Callable[[TrainState], Sheets]
) -> Iterator[Hooks]:
    """Yield the hooks of the worker with the desk; what they began to write is there after the block, or is raised."""
    keep = parse(TrainConfig, job["config"]).checkpoint.keep
    latest: dict[str, float] = {}
    desk.begin(start, group)
    tell = ProgressWriter(desk.progress, start, group)
    with CheckpointWriter(lambda content, images: desk.checkpoint(content, images, keep)) as writer:

        def progress(images: int, loss: float, images_per_second: float) -> None:
            writer.check()  # a checkpoint that failed is no reason to train on to the next one
            tell(images, loss, images_per_second)

        def metrics(images: int, values: dict[str, float]) -> None:
            latest.update(values)
            desk.metrics(images, values)

        def preview(state: TrainState) -> None:
            for name, (images, columns) in draw(state).items():
                desk.preview(name, state.images, images, columns)

        def checkpoint(state: TrainState) -> None:
            writer.submit({**state.state_dict(), "config": job["config"], "metrics": latest}, state.images)

        yield Hooks(progress=progress, metrics=metrics, preview=preview, checkpoint=checkpoint)


def _group(config: TrainConfig, device: torch.device, cpus: int) -> list[dict[str, Any]]:
    """Return what every worker runs on, by rank: its node, device, precision and CPUs."""
    context, gpu = ray.train.get_context(), device.type == "cuda"
    own = {
        "rank": context.get_world_rank(), "node": ray.util.get_node_ip_address(), "cpus": cpus,
        "device": torch.cuda.get_device_name(device) if gpu else "CPU",
        "precision": "bfloat16" if uses_bfloat16(config, device) else "float32",
    }  # fmt: skip
    if not in_group():
        return [own]
    everyone: list[Any] = [None] * context.get_world_size()
    dist.all_gather_object(everyone, own)
    return everyone
