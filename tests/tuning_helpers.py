"""A prior, a phantom and a search small enough for a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kdrift.cli import main
from kdrift.networks import NCSNppConfig, NetworkConfig, build_network
from kdrift.prior.bundle import save_prior
from kdrift.prior.prior_info import PriorInfo
from kdrift.runs.config import parse
from kdrift.sde import WhiteNoise
from kdrift.tuning.tune_config import TuneConfig

NETWORK = NetworkConfig(
    NCSNppConfig(image_size=32, nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(), middle_attention=False,
                 centered=True, scale_by_sigma=False, init_scale=0.1),
    preconditioning="edm",
)  # fmt: skip


def write_inputs(folder: Path) -> tuple[Path, Path]:
    """Write an untrained prior and a phantom of 4 slices; return their paths."""
    torch.manual_seed(0)
    prior = save_prior(folder / "tiny", build_network(NETWORK), NETWORK, PriorInfo(WhiteNoise(0.01, 5.0)))
    scan = folder / "phantom.h5"
    assert main(["phantom", "--out", str(scan), "--slices", "4", "--size", "32", "--coils", "4", "--seed", "1"]) == 0
    return prior, scan


def tiny_search(prior: Path, scan: Path, /, **changes: Any) -> TuneConfig:
    """Return a search of two settings whose start ignores the data nearly."""
    values: dict[str, Any] = {
        "name": "tiny",
        "method": "annealed",
        "settings": {"num_steps": 3, "spread": 0.0},
        "space": {
            "noise_scale": {"low": 0.5, "high": 3000.0, "log": True},
            "prior_sigma": {"low": 0.1, "high": 1.0},
        },
        "data": {
            "sources": [str(scan)],
            "mask": {"kind": "random", "acceleration": 2.0, "acs_lines": 10},
            "slices_per_volume": 4,
        },
        "prior": str(prior),
        "num_samples": 1,
        "num_trials": 6,
    }
    return parse(TuneConfig, {**values, **changes})
