"""What a training run is made from, as its prior will say it: data with checksums, parents, command."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import kdrift
from kdrift.data.data_config import DataConfig
from kdrift.data.dataset import VolumeEntry, find_volumes
from kdrift.data.store import Store, open_store
from kdrift.data.store_check import array_digest
from kdrift.prior.bundle import SHIPPED, WEIGHTS, find_prior, read_sums
from kdrift.prior.prior_info import DataSource, NoiseLeft, Parent, PriorInfo, VolumeRecord
from kdrift.runs.command_line import command_line
from kdrift.runs.config import to_dict
from kdrift.runs.files import file_sha256
from kdrift.training.train_config import TrainConfig

_NOISE_LEFT = "validation/noise_left_sigma_"


def run_info(config: TrainConfig) -> PriorInfo:
    """Return what is known of a prior before its training starts; the data and the parent are read now.

    Raises ValueError if there is no such data, or no such prior to start from.
    """
    return PriorInfo(
        None if config.network.reconstructs else config.noise.process,
        config.data.image_scale,
        data=describe_data(config.data),
        parents=(_parent(config.init_from),) if config.init_from else (),
        card=config.card,
        command=command_line(),
        kdrift_version=kdrift.__version__,
        training=_portable(config),
    )


def describe_data(config: DataConfig) -> tuple[DataSource, ...]:
    """Return the stores and array files with the volumes used of each; stores are not read, only their manifests."""
    splits = {"train": find_volumes(config, "train")}
    splits["validation"] = find_volumes(config, "validation") if config.validation else []
    found = []
    for location in config.stores:
        store = None if location.endswith((".npy", ".npz")) else open_store(location)
        used = {
            split: tuple(_record(entry, store) for entry in entries if entry.location == location)
            for split, entries in splits.items()
        }
        digest = file_sha256(Path(location)) if store is None else ""
        found.append(DataSource(Path(location).name, used["train"], used["validation"], digest))
    return tuple(found)


def digest_of(source: DataSource, volumes: Sequence[VolumeRecord]) -> str:
    """Return a digest of these volumes of a store or file, made of their checksums and how much is used of each."""
    parts = [source.sha256, *(f"{each.name} {each.num_slices} {each.checksum}" for each in volumes)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def datasets_of(data: Sequence[DataSource]) -> tuple[tuple[str, str, str], ...]:
    """Return name, digest and use, `training` or `validation`, of the data of a run."""
    return tuple(
        (source.name, digest_of(source, volumes), context)
        for source in data
        for context, volumes in (("training", source.train), ("validation", source.validation))
        if volumes
    )


def read_noise_left(metrics: Mapping[str, float]) -> tuple[NoiseLeft, ...]:
    """Return the rows of the last validation among a run's metrics."""
    return tuple(
        NoiseLeft(float(name.removeprefix(_NOISE_LEFT)), value)
        for name, value in metrics.items()
        if name.startswith(_NOISE_LEFT)
    )


def read_figures(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return what else the last validation measured: the figures of a network that reconstructs."""
    figures = {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith("validation/")}
    return {name: value for name, value in figures.items() if not f"validation/{name}".startswith(_NOISE_LEFT)}


def _record(entry: VolumeEntry, store: Store | None) -> VolumeRecord:
    checksum = ""
    if store is not None:
        attributes = store.attributes(entry.name)
        arrays = attributes["arrays"]
        array = arrays[next(name for name in ("complex_image", "image", "target") if name in arrays)]
        checksum = array_digest(array)
    return VolumeRecord(entry.name, entry.stop - entry.start, checksum)


def _parent(prior: str) -> Parent:
    folder = find_prior(prior)
    name = folder.name if folder.parent == SHIPPED else "/".join(folder.parts[-2:])  # runs/mine/prior: mine/prior
    return Parent(name, read_sums(folder)[WEIGHTS])


def _portable(config: TrainConfig) -> dict[str, Any]:
    """Leave the folders of this machine out, and the card's text, which has a place of its own."""
    values = to_dict(config)
    values["data"]["stores"] = [Path(store).name for store in config.data.stores]
    values["init_from"] = config.init_from and _parent(config.init_from).name
    if config.measurement is not None and config.measurement.maps is not None:
        values["measurement"]["maps"] = Path(config.measurement.maps).name
    del values["card"]
    return values
