"""A resolved plan with its prior, for tests that run chunks by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from kdrift.data.phantom import phantom_volume
from kdrift.methods import METHODS, Method
from kdrift.mri.masks import make_mask
from kdrift.networks import NCSNppConfig, NetworkConfig, build_network
from kdrift.prior.bundle import Prior
from kdrift.prior.prior_info import PriorInfo
from kdrift.recon.chunks import Chunk, ChunkResult
from kdrift.recon.plan import Plan, load_prior_of
from kdrift.recon.resolved import ResolvedPlan
from kdrift.recon.sampling import Steps, run_chunk
from kdrift.recon.slices import RawSlice, SliceData, prepare_slice
from kdrift.sde import WhiteNoise

LONG = ("daps", "pnp_dm", "smrd")
"""Methods of many evaluations a step."""


def method_names(wanted: Callable[[Method], bool]) -> list[Any]:
    """Names of the methods that are wanted, as parameters of a test; those of `LONG` belong to the long tests."""
    return [
        pytest.param(name, marks=pytest.mark.slow if name in LONG else ())
        for name, method in METHODS.items()
        if wanted(method)
    ]


def tiny_prior(image_size: int = 32) -> Prior:
    """A prior of random weights."""
    torch.manual_seed(0)
    network = NCSNppConfig(
        image_size=image_size, nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), middle_attention=False,
        centered=True, scale_by_sigma=False, init_scale=0.1,
    )  # fmt: skip
    config = NetworkConfig(network, preconditioning="edm")
    return Prior("tiny", build_network(config).eval(), config, PriorInfo(WhiteNoise(0.01, 5.0)), "0" * 64)


def phantom_slice() -> SliceData:
    """One prepared slice of four coils, every second column measured."""
    volume = phantom_volume(1, 32, 32, 4, seed=1)
    mask = make_mask("equispaced", (32, 32), acceleration=2, acs_lines=12).mask
    return prepare_slice(RawSlice(3, torch.where(mask, torch.as_tensor(volume.kspace[0]), 0), mask))


@dataclass(frozen=True)
class Runner:
    plan: ResolvedPlan
    prior: Prior | None

    @property
    def config(self) -> dict[str, Any]:
        return self.plan.config

    @property
    def num_samples(self) -> int:
        return self.plan.num_samples

    @property
    def splits_coils(self) -> bool:
        return self.plan.method.chains.splits

    def run_chunk(self, data: SliceData, chunk: Chunk, steps: Steps | None = None) -> ChunkResult:
        return run_chunk(self.plan, self.prior, data, chunk, steps)


def resolve(plan: Plan, prior: Prior | str | None = None) -> Runner:
    loaded = prior if isinstance(prior, Prior) else load_prior_of(plan.method, prior)
    return Runner(plan.resolve(loaded), loaded)
