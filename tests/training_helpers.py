"""A network and images small enough to train in a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kdrift.runs.config import parse
from kdrift.training.train_config import TrainConfig


def write_images(path: Path, num_volumes: int = 3) -> Path:
    """Write smooth random volumes `v0`, `v1`, ... of (6, 24, 24) as one npz."""
    rng = np.random.default_rng(0)
    frequencies = np.fft.fftfreq(24)
    decay = np.exp(-200 * (frequencies[:, None] ** 2 + frequencies[None] ** 2))
    volumes = {}
    for number in range(num_volumes):
        spectrum = np.fft.fft2(rng.standard_normal((6, 24, 24))) * decay
        volumes[f"v{number}"] = np.abs(np.fft.ifft2(spectrum)).astype(np.float32)
    np.savez(path, **volumes)
    return path


def tiny_config(images: Path, **changes: Any) -> TrainConfig:
    """Return a configuration that trains on 16x16 crops in milliseconds a step."""
    values: dict[str, Any] = {
        "name": "tiny",
        "seed": 3,
        "total_images": 64,
        "batch_size": 8,
        "data": {"stores": [str(images)], "validation": ["v2"], "crop": 16, "augment_phase": "sign"},
        "network": {
            "preconditioning": "edm",
            "ncsnpp": {
                "image_size": 16, "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [],
                "middle_attention": False, "centered": True, "scale_by_sigma": False,
            },
        },
        "noise": {"sigma_max": 20.0},
        "optimisation": {"learning_rate": 1e-3, "warmup_images": 16, "ema_halflife_images": 16},
        "monitoring": {
            "log_every_images": 16, "validate_every_images": 64, "validation_images": 4,
            "validation_sigmas": [0.1, 1.0], "num_samples": 2, "sample_steps": 4,
        },
        "checkpoint": {"every_images": 16, "keep": 2},
    }  # fmt: skip
    return parse(TrainConfig, {**values, **changes})
