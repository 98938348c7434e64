"""A prior pinned once, so that every process of a service or job uses the same weights whatever an alias does later."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from kdrift.prior.bundle import SHIPPED, WEIGHTS, Prior, find_prior, load_prior, read_sums
from kdrift.runs.registry import kept_prior, read_reference, registered_version, registry_uri


@dataclass(frozen=True)
class PinnedPrior:
    """Which weights, and where any process finds them."""

    name: str
    """Name of the shipped or registered prior, or of the bundle's folder."""
    reference: str
    """What was asked for: a shipped name, a folder, `models:/NAME@ALIAS` or `models:/NAME/VERSION`."""
    sha256: str
    """SHA-256 of the weights."""
    version: str | None = None
    """Version in the registry; None for a prior that is not from one."""
    tracking_uri: str | None = None
    """Address of the registry; None for a prior that is not from one."""

    def describe(self) -> dict[str, Any]:
        """Return what an answer says of its prior; the folders of this machine are left out."""
        values = asdict(self)
        del values["tracking_uri"]
        return values | {"reference": self.reference if self.version else self.name}


def pin_prior(reference: str, tracking_uri: str | None = None) -> PinnedPrior:
    """Resolve a shipped name, the path of a bundle, `models:/NAME@ALIAS` or `models:/NAME/VERSION` to fixed weights.

    The registry is that of `tracking_uri`, by default of MLFLOW_TRACKING_URI. Raises ValueError if there is no such
    prior, or no registry is named.
    """
    if reference.startswith("models:"):
        asked, uri = read_reference(reference), tracking_uri or registry_uri(reference)
        version, sha256 = registered_version(uri, asked.name, alias=asked.alias, version=asked.version)
        return PinnedPrior(asked.name, reference, sha256, version, uri)
    folder = find_prior(reference)
    known = reference if folder.parent == SHIPPED else str(folder)
    return PinnedPrior(folder.name, known, read_sums(folder)[WEIGHTS])


def load_pinned(pinned: PinnedPrior, device: str | torch.device = "cpu") -> Prior:
    """Load what was pinned; one from a registry that this machine has in its cache without asking the registry.

    Raises ValueError if the weights found are not the ones that were pinned.
    """
    if pinned.version is None:
        prior = load_prior(pinned.reference, device)
    else:
        assert pinned.tracking_uri is not None
        prior = load_prior(kept_prior(pinned.tracking_uri, pinned.name, pinned.version, pinned.sha256), device)
    if prior.sha256 != pinned.sha256:
        raise ValueError(
            f"prior {pinned.reference} has sha256 {prior.sha256[:12]}, pinned was {pinned.sha256[:12]}: it was"
            " replaced; deploy again"
        )
    return replace(prior, name=pinned.name)
