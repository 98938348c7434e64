"""kdrift: score (diffusion) priors for MR images and posterior reconstruction of undersampled k-space.

`kdrift.reconstruct(kspace, ...)` is the way in; what else stands here is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdrift.client import Client
    from kdrift.data.store import Store, open_store
    from kdrift.methods import METHODS
    from kdrift.methods.presets import Preset, find_preset, list_presets
    from kdrift.mri.masks import KINDS as MASKS
    from kdrift.mri.masks import make_mask
    from kdrift.prior.bundle import Prior, load_prior, shipped_priors
    from kdrift.prior.prior_info import PriorInfo
    from kdrift.recon.front_door import reconstruct
    from kdrift.recon.plan import Plan
    from kdrift.recon.resolved import ResolvedPlan
    from kdrift.recon.result import ReconstructionResult

__version__ = "0.1.0"
_WHERE = {
    "Client": "client",
    "METHODS": "methods",
    "Plan": "recon.plan",
    "Preset": "methods.presets",
    "Prior": "prior.bundle",
    "PriorInfo": "prior.prior_info",
    "ReconstructionResult": "recon.result",
    "ResolvedPlan": "recon.plan",
    "Store": "data.store",
    "find_preset": "methods.presets",
    "list_presets": "methods.presets",
    "load_prior": "prior.bundle",
    "make_mask": "mri.masks",
    "open_store": "data.store",
    "reconstruct": "recon.front_door",
    "shipped_priors": "prior.bundle",
}
__all__ = [
    "Client", "MASKS", "METHODS", "Plan", "Preset", "Prior", "PriorInfo", "ReconstructionResult", "ResolvedPlan",
    "Store", "__version__", "find_preset", "list_presets", "load_prior", "make_mask", "open_store", "reconstruct",
    "shipped_priors",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load a name when it is first used, so that importing the package imports nothing heavy."""
    if name == "MASKS":
        return import_module("kdrift.mri.masks").KINDS
    if name in _WHERE:
        return getattr(import_module(f"kdrift.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
