"""kdrift: score (diffusion) priors for MR images and posterior reconstruction of undersampled k-space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdrift.prior.bundle import load_prior

__version__ = "0.1.0"
__all__ = ["__version__", "load_prior"]


def __getattr__(name: str) -> Any:
    if name == "load_prior":  # only now, so that importing the package does not import torch
        from kdrift.prior.bundle import load_prior

        return load_prior
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
