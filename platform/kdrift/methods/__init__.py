"""All methods in one table: a new one is one file, which ends with its `METHODS`, and one line here."""

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import yaml

from kdrift.methods.chain_noise import ChainNoise
from kdrift.methods.measurement import (
    COILS,
    COUPLED_COILS,
    IMAGES,
    LEAST_NOISE,
    Callback,
    Chains,
    Measurement,
    chain_norm,
    magnitude,
    ratio,
)
from kdrift.methods.method import Classical, Learned, Method, Options, Sampler, StartOptions
from kdrift.networks import Images
from kdrift.sde import Task

_FILES = (
    "samplers.annealed",
    "samplers.score_mri",
    "samplers.dps",
    "samplers.pigdm",
    "samplers.dds",
    "samplers.diffpir",
    "samplers.daps",
    "samplers.pnp_dm",
    "samplers.red_diff",
    "samplers.csgm_langevin",
    "samplers.smrd",
    "samplers.ak_diffusion",
    "samplers.heat_diffusion",
    "samplers.hfs_sde",
    "learned.networks",
    "classical.linear",
    "classical.penalised",
    "classical.grappa",
    "classical.spirit",
    "classical.loraks",
)

TUNED = Path(__file__).parent / "tuned"
"""METHOD.yaml: what a search of `configs/tune` found, as `kdrift tune` wrote it; the preset `tuned` of the method."""


def _with_tuned() -> Iterator[tuple[str, Method]]:
    for file in _FILES:
        for name, method in import_module(f"{__name__}.{file}").METHODS.items():
            found = TUNED / f"{name}.yaml"
            if found.is_file():
                tuned = method.options(**yaml.safe_load(found.read_text())["settings"])
                method = replace(method, presets={**method.presets, "tuned": tuned})
            yield name, method


METHODS: dict[str, Method] = dict(_with_tuned())


def methods_for(task: Task, images: Images | None) -> list[str]:
    """Return the methods that a prior of this task and these images serves, in the order of the table."""
    return [name for name, method in METHODS.items() if not method.refusal("it", task, images)]


__all__ = [
    "COILS", "COUPLED_COILS", "IMAGES", "LEAST_NOISE", "METHODS", "Callback", "ChainNoise", "Chains", "Classical",
    "Learned", "Measurement", "Method", "Options", "Sampler", "StartOptions", "chain_norm", "magnitude",
    "methods_for", "ratio",
]  # fmt: skip
