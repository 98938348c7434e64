"""Posterior samplers, one table: a new sampler is one file, which ends with its `METHODS`, and its name here."""

from importlib import import_module

from kdrift.methods.chain_noise import ChainNoise
from kdrift.methods.measurement import Callback, Measurement
from kdrift.methods.method import Method

_FILES = (
    "annealed",
    "score_mri",
    "dps",
    "dds",
    "diffpir",
    "daps",
    "red_diff",
    "csgm_langevin",
    "smrd",
    "ak_diffusion",
    "heat_diffusion",
    "hfs_sde",
)

METHODS: dict[str, Method] = {
    name: method for file in _FILES for name, method in import_module(f"{__name__}.samplers.{file}").METHODS.items()
}

__all__ = ["METHODS", "Callback", "ChainNoise", "Measurement", "Method"]
