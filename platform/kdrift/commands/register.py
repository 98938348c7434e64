"""`kdrift register`: put a prior into an MLflow registry, from where services take it by its alias."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from cyclopts import Parameter


@dataclass(frozen=True, kw_only=True)
class Options:
    """Register a shipped prior or a bundle folder as a new version in an MLflow registry, with the alias candidate."""

    prior: Annotated[str, Parameter(name="PRIOR")] = field(kw_only=False)
    """Shipped prior or bundle folder."""
    tracking_uri: Annotated[str, Parameter(metavar="URI")]
    """MLflow, e.g. sqlite:///mlflow.db."""
    name: str | None = None
    """Name in the registry; by default the prior's."""


def run(options: Options) -> int:
    """Check the bundle, register it and print how to use it."""
    from pathlib import Path

    from kdrift.prior.bundle import check_name, find_prior, load_prior
    from kdrift.runs.registry import register_prior
    from kdrift.runs.tracking import finish_run, start_run

    prior = load_prior(options.prior)
    name, uri = options.name or prior.name, options.tracking_uri
    check_name(name, prior.sha256)
    database = Path(uri.removeprefix("sqlite:///") if uri.startswith("sqlite:///") else "mlflow.db").resolve()
    artifacts = database.parent / "artifacts"  # of a local database; a server keeps them itself
    database.parent.mkdir(parents=True, exist_ok=True)
    run_id = start_run(uri, f"register {name}", {"prior": prior.name, "sha256": prior.sha256}, artifacts)
    version = register_prior(uri, run_id, find_prior(options.prior), name)
    finish_run(uri, run_id, "FINISHED")
    print(f"registered: {name} version {version} (alias candidate), sha256 {prior.sha256[:12]}")
    print(f"use it:     models:/{name}@candidate with tracking URI {uri}")
    print(f"promote it: kdrift promote {name} --tracking-uri {uri}")
    return 0
