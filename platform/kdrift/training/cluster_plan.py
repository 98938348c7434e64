"""What a training takes on a cluster, before it is paid: memory, images a second, hours, storage, money.

All of it follows from what an image costs (`kdrift.training.cost`) and from rates that were measured and stand in the
description of the cluster; nothing is measured here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from kdrift.data.data_config import DataConfig
from kdrift.data.dataset import TrainingImages
from kdrift.data.half_precision import Precision
from kdrift.training.cost import Cost
from kdrift.training.train_config import TrainConfig

GIB = 2**30
COMPLEX_BYTES = 8
"""Bytes of a pixel of a stored complex image; a real one has half, and half precision half of both."""


@dataclass(frozen=True)
class Rates:
    """What was measured, each with its command in docs/training.md."""

    tflops: float = 30.0
    """TFLOP/s that one GPU sustains in training, forward and backward; `kdrift plan` says which ones are known."""
    loader_images: float = 2849.0
    """Training images of 96 x 96 that one CPU core reads from memory and augments in a second."""
    read_mb: float = 500.0
    """MB/s that all nodes together read from where the store lies."""
    scaling: float = 0.86
    """Images/s of two workers over twice those of one; taken for any number."""

    def __post_init__(self) -> None:
        if min(self.tflops, self.loader_images, self.read_mb) <= 0 or not 0 < self.scaling <= 1:
            raise ValueError(f"rates must be positive, and scaling at most 1, got {self}")


@dataclass(frozen=True)
class ClusterSpec:
    """A cluster as it is offered."""

    nodes: int
    """Nodes with GPUs."""
    gpus: int
    """GPUs a node."""
    cpus: int
    """CPUs a node."""
    gpu_memory_gib: float
    """Memory of a GPU."""
    accelerator: str = ""
    """What the GPUs are called, for the answer alone."""
    price: float | None = None
    """Price of a GPU and hour, its share of the node in it."""
    storage_price: float | None = None
    """Price of a GiB and month."""
    currency: str = "USD"
    """What prices are in."""
    rates: Rates = Rates()
    """What was measured on it, or on something like it."""

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.gpus < 1 or self.cpus < 1 or self.gpu_memory_gib <= 0:
            raise ValueError(f"a cluster has nodes, gpus, cpus and gpu_memory_gib above 0, got {self}")

    @property
    def num_gpus(self) -> int:
        """GPUs in all."""
        return self.nodes * self.gpus


@dataclass(frozen=True)
class DataSize:
    """What a training reads of its stores."""

    slice_bytes: float
    """Bytes of a slice."""
    num_slices: int | None = None
    """Slices of the training split; None: the stores are not there yet."""
    num_volumes: int = 0
    in_memory: bool = True
    """Whether a worker keeps what it has read (`data.cache_mib`)."""
    by_volume: bool = False
    """Whether a volume is read as a whole, at the first of its slices, since its scale needs all of it."""

    @classmethod
    def of(cls, config: DataConfig, readers: int = 1) -> DataSize:
        """Look into the stores; each of the processes of a worker that read keeps what it has read for itself.

        Raises ValueError or OSError where one is not there, or they hold no images of the training split.
        """
        data = TrainingImages(config, "train", copies=readers)
        slice_bytes = sum(each.num_bytes for each in data.volumes) / data.num_slices
        by_volume = config.normalise == "volume"
        return cls(slice_bytes, data.num_slices, len(data.volumes), data.in_memory, by_volume)

    @classmethod
    def assumed(
        cls, config: DataConfig, precision: Precision, volumes: int = 0, slices: int = 0, readers: int = 1
    ) -> DataSize:
        """Assume images of `config.crop` of stores that are not there yet, and how many there will be, where known.

        Raises ValueError where volumes and slices are not both known or both not.
        """
        if bool(volumes) != bool(slices) or not 0 <= volumes <= slices:
            raise ValueError(f"got {volumes} volumes and {slices} slices in all, expected both, or neither")
        value_bytes = COMPLEX_BYTES if config.wants_phase else COMPLEX_BYTES / 2
        slice_bytes = value_bytes * config.crop**2 / (2 if precision == "float16" else 1)
        if not slices:
            return cls(slice_bytes)
        in_memory = readers * slices * value_bytes / 2 * config.crop**2 <= config.cache_mib * 2**20
        return cls(slice_bytes, slices, volumes, in_memory, config.normalise == "volume")

    def read_bytes(self, images: int, readers: int) -> float:
        """Return what all who read, workers or their loaders, read for so many training images, each for itself.

        One that draws n times from N has seen N (1 - exp(-n / N)) of them. Without stores it is a slice an image.
        """
        if self.num_slices is None:
            return images * self.slice_bytes
        drawn = images / readers
        units = self.num_volumes if self.by_volume else self.num_slices
        first = self.num_slices * -math.expm1(-drawn / units)
        again = 0.0 if self.in_memory else drawn
        return readers * self.slice_bytes * (first + again if self.by_volume or self.in_memory else again)


@dataclass(frozen=True)
class TrainingPlan:
    """The answer."""

    workers: int
    """GPUs that have an image each at least: more than the batch has are idle."""
    images_at_a_time: int
    """Images that fit a GPU at once, of its share of the batch; 0: not one does."""
    gib_a_gpu: float
    """Memory that this takes."""
    limits: dict[str, float]
    """Images/s that each part allows: GPUs, CPUs that load, storage."""
    hours: float
    data_gib: float | None
    """What is read of the stores, once; None: they are not there yet."""
    checkpoint_gib: float
    """Size of all kept checkpoints."""
    money: float | None
    notes: tuple[str, ...]
    """What does not fit, and what is not known."""

    @property
    def saturates(self) -> str:
        """The part that allows the fewest images/s."""
        return min(self.limits, key=lambda name: self.limits[name])

    @property
    def images_per_second(self) -> float:
        """What all parts allow."""
        return min(self.limits.values())


def plan_training(config: TrainConfig, cost: Cost, cluster: ClusterSpec, data: DataSize) -> TrainingPlan:
    """Return what a training takes on a cluster, by the measured rates."""
    notes, rates = list[str](), cluster.rates
    workers = min(cluster.num_gpus, config.batch_size)
    if workers < cluster.num_gpus:
        notes.append(f"{cluster.num_gpus - workers} GPUs are idle: a batch has {config.batch_size} images")
    share = math.ceil(config.batch_size / workers)
    image_bytes = cost.activation_bytes * (1 if config.hardware.precision == "float32" else 0.5)
    asked = min(share, config.hardware.images_at_a_time or share)
    fits = max(0, math.floor((cluster.gpu_memory_gib * GIB - cost.model_bytes) / image_bytes))
    at_a_time = min(asked, fits)
    if not fits:
        notes.append(
            f"one image does not fit a GPU of {cluster.gpu_memory_gib:g} GiB:"
            f" it takes {(cost.model_bytes + image_bytes) / GIB:.0f} GiB"
        )
    elif fits < asked:
        notes.append(f"{asked} images at a time do not fit a GPU: --set hardware.images_at_a_time={fits}")
    scaling = rates.scaling if workers > 1 else 1.0
    pixels = config.data.crop**2 / 96**2
    cores, readers = max(1, cluster.nodes * cluster.cpus - workers), workers * config.hardware.readers
    images = config.total_images
    limits = {
        "GPUs": workers * scaling * rates.tflops * 1e12 / cost.flop,
        "CPUs that load": min(cores, readers) * rates.loader_images / pixels,
        "storage": rates.read_mb * 1e6 * images / data.read_bytes(images, readers),
    }
    hours = images / min(limits.values()) / 3600
    checkpoint = cost.parameters * 16 * config.checkpoint.keep / GIB
    money = None if cluster.price is None else cluster.price * cluster.num_gpus * hours
    if money is None:
        notes.append("the cluster has no price: no money is counted")
    elif cluster.storage_price is not None:
        money += cluster.storage_price * checkpoint * hours / 730
    return TrainingPlan(
        workers, at_a_time, (cost.model_bytes + at_a_time * image_bytes) / GIB, limits, hours,
        None if data.num_slices is None else data.num_slices * data.slice_bytes / GIB, checkpoint, money, tuple(notes),
    )  # fmt: skip
