"""What runs in each Ray Train worker: the loop of `loop.py`, its hooks tied to files, MLflow and Ray."""

from __future__ import annotations

from typing import Any

import ray.train
import ray.train.collective
import ray.train.torch
import torch
import torch.distributed as dist
from torch import nn

from kdrift.data.dataset import TrainingImages
from kdrift.runs.config import parse
from kdrift.training.denoised import uses_bfloat16
from kdrift.training.desk import checkpoint_of, desk_of
from kdrift.training.loop import Hooks, NonFiniteLossError, TrainState, fit, new_state
from kdrift.training.objectives import objective_of
from kdrift.training.train_config import TrainConfig
from kdrift.training.watch import ProgressWriter


def train_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Train one rank of a job `{config, out, node, tracking_uri, run_id, threads}` from its newest checkpoint on.

    Returns `{images, stopped}`; a non-finite loss is an answer, not a failure that Ray would retry.
    """
    config = parse(TrainConfig, job["config"])
    context = ray.train.get_context()
    rank, device = context.get_world_rank(), ray.train.torch.get_device()
    torch.set_num_threads(job["threads"])
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    state = new_state(config, device)
    desk = desk_of(job) if rank == 0 else None  # rank 0 alone writes; all ranks meet Ray at each checkpoint
    # it decides: another node may see the folder later
    loaded = desk.load() if desk is not None else None
    found = ray.train.collective.broadcast_from_rank_zero(loaded[0] if loaded is not None else "")
    if found:
        state.load_state_dict(loaded[1] if loaded is not None else checkpoint_of(job, found))
    del loaded
    validation = None
    if rank == 0 and config.data.validation and config.monitoring.validation_images:
        images = TrainingImages(config.data, "validation", config.seed)
        # what reconstructs is measured with the widest field of view of its training, a prior as sharp as images are
        zoom = 1.0 if config.measurement is None else config.data.zoom[0]
        validation = images.validation_batch(min(config.monitoring.validation_images, len(images)), zoom=zoom)

    def wrap(network: nn.Module) -> nn.Module:
        if config.hardware.compile:
            network.compile()
        return ray.train.torch.prepare_model(
            network, move_to_device=False, parallel_strategy_kwargs={"broadcast_buffers": False}
        )

    latest: dict[str, float] = {}

    def checkpoint(state: TrainState) -> None:
        if desk is not None:
            content = {**state.state_dict(), "config": job["config"], "metrics": latest}
            desk.checkpoint(content, state.images, config.checkpoint.keep)
        ray.train.report({"images": state.images, **latest})

    hooks, group = Hooks(checkpoint=checkpoint), _group(config, device, job["threads"])
    data = TrainingImages(config.data, "train", config.seed)
    if desk is not None:

        def metrics(images: int, values: dict[str, float]) -> None:
            latest.update(values)
            desk.metrics(images, values)

        def preview(state: TrainState) -> None:
            for name, (images, columns) in objective_of(config).sheets(state.ema, validation, device).items():
                desk.preview(name, state.images, images, columns)

        desk.begin(state.images, group)
        progress = ProgressWriter(desk.progress, state.images, group)
        hooks = Hooks(progress=progress, metrics=metrics, preview=preview, checkpoint=checkpoint)
    stopped = None
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
    finally:
        if desk is not None:
            desk.close()
    return {"images": state.images, "stopped": stopped}


def _group(config: TrainConfig, device: torch.device, cpus: int) -> list[dict[str, Any]]:
    """Return what every worker runs on, by rank: its node, device, precision and CPUs."""
    context, gpu = ray.train.get_context(), device.type == "cuda"
    own = {
        "rank": context.get_world_rank(), "node": ray.util.get_node_ip_address(), "cpus": cpus,
        "device": torch.cuda.get_device_name(device) if gpu else "CPU",
        "precision": "bfloat16" if uses_bfloat16(config, device) else "float32",
    }  # fmt: skip
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    everyone: list[Any] = [None] * context.get_world_size()
    dist.all_gather_object(everyone, own)
    return everyone
