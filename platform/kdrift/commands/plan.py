"""`kdrift plan`: what a training takes on a cluster, before it is paid."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from kdrift.commands.common import ConfigName, Overrides
from kdrift.commands.options import Misuse

if TYPE_CHECKING:
    from kdrift.training.cluster_plan import ClusterSpec, TrainingPlan
    from kdrift.training.cost import Cost
    from kdrift.training.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Say what a training takes on a cluster: memory, images a second, hours and money, by measured rates.

    Nothing is trained or reserved. Exit status 1: it does not fit.
    """

    config: Annotated[str, Parameter(name="CONFIG")] = field(kw_only=False)
    """Configuration of kdrift train: a file, or the name of one that comes with kdrift."""
    cluster: ConfigName
    """Description of the cluster: a file, or the name of one that comes with kdrift (kdrift list configs plan)."""
    set: Overrides = ()
    """Override one value of the training's configuration, such as batch_size."""
    cluster_set: Annotated[tuple[str, ...], Parameter(metavar="KEY=VALUE")] = ()
    """Override one value of the cluster's description, such as price or rates.tflops."""
    precision: Literal["float16", "float32"] | None = None
    """What the images are to be stored in (kdrift convert --precision); by default the stores are looked into, and
    where they are not there yet it is float32."""
    volumes: int = 0
    """With --precision: volumes of the training split."""
    slices: int = 0
    """With --precision: slices of the training split, of all volumes together."""
    json: bool = False
    """Print JSON."""


def run(options: Options) -> int:
    """Count, plan and print."""
    from kdrift.runs.config import load_config
    from kdrift.runs.config_names import find_config
    from kdrift.runs.hint import first_line
    from kdrift.training.cluster_plan import ClusterSpec, DataSize, plan_training
    from kdrift.training.cost import training_cost
    from kdrift.training.train_config import TrainConfig

    config = load_config(TrainConfig, find_config("train", options.config), options.set)
    cluster = load_config(ClusterSpec, find_config("plan", options.cluster), options.cluster_set)
    cost, readers = training_cost(config), config.hardware.readers
    notes: tuple[str, ...] = ()
    if options.precision is None and (options.volumes or options.slices):
        raise Misuse("--volumes and --slices go with --precision: without it the stores are counted")
    assumed = None
    if options.precision is not None:
        assumed = DataSize.assumed(config.data, options.precision, options.volumes, options.slices, readers)
    try:
        data = DataSize.of(config.data, readers) if assumed is None else assumed
    except (ValueError, OSError) as error:
        data = DataSize.assumed(config.data, "float32")
        notes = (f"images are counted as float32 of {config.data.crop} x {config.data.crop} ({first_line(error)})",)
    plan = plan_training(config, cost, cluster, data)
    plan = replace(plan, notes=(*plan.notes, *notes))
    if options.json:
        answer = {"cost": asdict(cost), **asdict(plan), "saturates": plan.saturates}
        print(json.dumps(answer | {"images_per_second": plan.images_per_second}, indent=2))
    else:
        _tell(config, cost, cluster, plan)
    return 0 if plan.images_at_a_time else 1


def _tell(config: TrainConfig, cost: Cost, cluster: ClusterSpec, plan: TrainingPlan) -> None:
    from kdrift.runs.progress import format_seconds
    from kdrift.training.cluster_plan import GIB

    where = f"{plan.workers} of {cluster.num_gpus} GPUs {cluster.accelerator}".rstrip()
    print(f"{config.name}: {config.total_images:,} images of {config.data.crop} x {config.data.crop} on {where}")
    print(f"network:    {cost.parameters / 1e6:.1f} M parameters, {cost.flop / 1e12:.3g} TFLOP an image")
    print(
        f"memory:     {plan.gib_a_gpu:.1f} of {cluster.gpu_memory_gib:g} GiB a GPU,"
        f" {plan.images_at_a_time} images at a time; {cost.model_bytes / GIB:.1f} GiB of it are the model"
    )
    limits = ", ".join(f"{name} {limit:,.0f}" for name, limit in plan.limits.items())
    print(f"images/s:   {plan.images_per_second:,.0f}; {limits}: limited by {plan.saturates}")
    print(f"time:       {format_seconds(3600 * plan.hours)}")
    stored = "" if plan.data_gib is None else f"{plan.data_gib:.1f} GiB of images, "
    print(f"storage:    {stored}{plan.checkpoint_gib:.2f} GiB of checkpoints")
    if plan.money is not None:
        print(f"money:      {plan.money:,.2f} {cluster.currency}")
    for note in plan.notes:
        print(f"note:       {note}")
