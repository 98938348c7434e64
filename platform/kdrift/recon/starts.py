"""The image that a sampler starts from: what another method makes of the same data (CCDF, Score-MRI Algorithm 6)."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import torch

from kdrift.methods import METHODS
from kdrift.prior.bundle import Prior, load_prior
from kdrift.recon.slices import SliceData


@lru_cache(maxsize=2)
def _loaded(bundle: str, device: torch.device, sha256: str) -> Prior:
    """The network of a learned start, loaded once a process. Raises ValueError where it is not the one of the plan."""
    found = load_prior(bundle, device)
    if found.sha256 != sha256:
        raise ValueError(
            f"start_prior {bundle} has other weights here than where the plan was made: give every process one folder"
        )
    return found


def with_start(data: SliceData, method: str, bundle: str | None = None, sha256: str = "") -> SliceData:
    """Return a slice with the image that `method` makes of it as its start, with the built-in default settings.

    `bundle` and `sha256` name the network of a learned method, which every process that prepares slices must be able
    to read.
    """
    start = METHODS[method]
    start.check_map_sets(data.smaps.shape[:-3].numel(), method)
    measurement, options = dataclasses.replace(data, start=None).measurement(), start.preset(None)[1]
    network = () if bundle is None else (_loaded(bundle, data.kspace.device, sha256).network,)
    image = start.function(*network, measurement, options=options)
    return dataclasses.replace(data, start=data.scale * image)
