"""The registry of priors in MLflow: versions of raw bundles that any MLflow loads as a Python function."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdrift import __version__
from kdrift.runs.files import file_sha256, made_once, user_cache
from kdrift.runs.tracking import client, short_text

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import Model

WEIGHTS = "model.safetensors"
"""The file of a bundle whose SHA-256 names it."""
CARD = "README.md"
"""The file of a bundle that describes it, and its version in the registry."""
ABOUT = (
    "Prior of kdrift. `models:/{name}@champion` is the version that `kdrift promote` has chosen by evaluations, and"
    " `models:/{name}@candidate` the newest; both can be named wherever kdrift takes a prior."
)
"""Description of a registered model."""
CANDIDATE, CHAMPION = "candidate", "champion"
"""Aliases of a registered prior: its newest version, and the one that `kdrift promote` has chosen."""
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND", "BAD_REQUEST")
"""Codes of MLflow for what is not in the registry; any other is of a registry that cannot be asked."""
_REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")
LOADER = "kdrift.recon.pyfunc"
"""The module that `mlflow.pyfunc.load_model` loads a bundle by."""
PARAMS: dict[str, str | int] = {"method": "", "preset": "", "samples": 8, "steps": 0, "seed": 0}
"""What its `predict` takes beside the data, with defaults; "" and 0 steps: those of the prior's method."""


@dataclass(frozen=True)
class Reference:
    """What `models:/NAME@ALIAS` or `models:/NAME/VERSION` names."""

    name: str
    alias: str = ""
    version: str | None = None


def read_reference(text: str) -> Reference:
    """Parse the name of a registered prior. Raises ValueError where it is none."""
    found = _REFERENCE.fullmatch(text)
    if found is None:
        raise ValueError(f"expected models:/NAME@ALIAS or models:/NAME/VERSION, got {text!r}")
    return Reference(found["name"], found["alias"] or "", found["version"])


def fetch_prior(text: str) -> Path:
    """Return the folder of a registered prior, see `kept_prior`.

    Raises ValueError where no registry is named, or it has no such prior.
    """
    asked, uri = read_reference(text), registry_uri(text)
    version, sha256 = registered_version(uri, asked.name, alias=asked.alias, version=asked.version)
    return kept_prior(uri, asked.name, version, sha256)


def registry_uri(text: str) -> str:
    """Return the registry that MLFLOW_REGISTRY_URI or MLFLOW_TRACKING_URI names. Raises ValueError for neither."""
    uri = os.environ.get("MLFLOW_REGISTRY_URI") or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise ValueError(f"{text} needs the variable MLFLOW_TRACKING_URI, the address of its MLflow registry")
    return uri


def kept_prior(uri: str, name: str, version: str, sha256: str) -> Path:
    """Return the folder of a version of a registered prior, downloaded once into the user's cache, by its SHA-256.

    What is there is used without asking the registry. Raises ValueError where its files hold other weights.
    """

    def download(folder: Path) -> Path:
        bundle, _ = download_prior(uri, name, folder, version)
        if (found := file_sha256(bundle / WEIGHTS)) != sha256:
            raise ValueError(
                f"models:/{name}/{version}: the files of version {version} hold weights {found[:12]}, the registry at"
                f" {uri} says {sha256[:12]}: they were damaged or replaced; register the prior again"
            )
        return bundle

    return made_once(user_cache("priors") / sha256[:16] / name, download)


def describe() -> Model:
    """Return MLflow's description of a bundle: what loads it, and the signature of its `predict`."""
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    def schema(**parts: tuple[str, int]) -> Schema:
        return Schema([TensorSpec(np.dtype(kind), (-1,) * ndim, name) for name, (kind, ndim) in parts.items()])

    params = [ParamSpec(name, "long" if isinstance(value, int) else "string", value) for name, value in PARAMS.items()]
    signature = ModelSignature(
        schema(kspace=("complex64", 4), mask=("bool", 2)),
        schema(mean=("complex64", 3), std=("float32", 3), verdict=("str", 1)),
        ParamSchema(params),
    )
    return Model(signature=signature, metadata={"kdrift": __version__}).add_flavor(
        "python_function", loader_module=LOADER
    )


def register_prior(uri: str, run_id: str, bundle: Path, name: str) -> str:
    """Register a bundle folder as a new version of `name`, alias `candidate`, and return the version.

    A raw folder, not a pickled model: it loads anywhere, and its tag `sha256` says which weights it holds. Beside the
    bundle lies what `mlflow.pyfunc.load_model` needs. The same weights of the same run are registered once. The alias
    `champion` stays where it is, see `kdrift.evaluation.promotion`.
    """
    from mlflow.exceptions import MlflowException

    mlflow, tags = client(uri), {"sha256": file_sha256(bundle / WEIGHTS)}
    for known in mlflow.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
        if known.tags.get("sha256") == tags["sha256"]:
            return str(known.version)
    mlflow.log_artifacts(run_id, str(bundle), "prior")
    with tempfile.TemporaryDirectory() as folder:
        described = Path(folder) / "MLmodel"
        describe().save(described)
        mlflow.log_artifact(run_id, str(described), "prior")
    try:
        mlflow.get_registered_model(name)
    except MlflowException:
        mlflow.create_registered_model(name, description=ABOUT.format(name=name))
    source = f"{mlflow.get_run(run_id).info.artifact_uri}/prior"
    card = bundle / CARD
    about = short_text(card.read_text(), f"All of it: `prior/{CARD}` of the run.") if card.is_file() else None
    version = mlflow.create_model_version(name, source, run_id, tags=tags, description=about).version
    mlflow.set_registered_model_alias(name, CANDIDATE, version)
    return str(version)


def aliases(uri: str, name: str) -> dict[str, str]:
    """Return the version that each alias of a registered prior names."""
    return {alias: str(version) for alias, version in client(uri).get_registered_model(name).aliases.items()}


def set_alias(uri: str, name: str, alias: str, version: str, tags: Mapping[str, str]) -> None:
    """Let an alias of a registered prior name a version from now on, and give that version tags."""
    mlflow = client(uri)
    for key, value in tags.items():
        mlflow.set_model_version_tag(name, version, key, value)
    mlflow.set_registered_model_alias(name, alias, version)


def registered_version(uri: str, name: str, *, alias: str = CHAMPION, version: str | None = None) -> tuple[str, str]:
    """Return the version of a registered prior, by default that of an alias, and the sha256 of its weights.

    Raises ValueError if the registry has no such prior, or it was not registered by `register_prior`.
    """
    found = _find_version(uri, name, alias, version)
    if "sha256" not in found.tags:
        raise ValueError(f"{name} version {found.version} at {uri} has no tag sha256: it is no prior of kdrift")
    return str(found.version), str(found.tags["sha256"])


def download_prior(uri: str, name: str, folder: Path, version: str | None = None) -> tuple[Path, str]:
    """Copy a registered bundle into a folder: a version, or the one that `champion` names now.

    Return its path and its version, to be pinned: the alias may move. Raises ValueError if the registry has no such
    prior.
    """
    from mlflow.artifacts import download_artifacts

    version = str(_find_version(uri, name, CHAMPION, version).version)
    source = client(uri).get_model_version_download_uri(name, version)
    folder.mkdir(parents=True, exist_ok=True)
    return Path(download_artifacts(source, dst_path=str(folder), tracking_uri=uri)), version


def _find_version(uri: str, name: str, alias: str, version: str | None) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    mlflow = client(uri)
    try:
        return mlflow.get_model_version(name, version) if version else mlflow.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code not in _MISSING:
            raise ValueError(f"the MLflow registry at {uri} does not answer: is it running? {error.message}") from None
        hint = f"; kdrift promote {name} chooses one" if not version and alias == CHAMPION else ""
        raise ValueError(f"no prior {name} (version {version or alias}) at {uri}: {error.message}{hint}") from None
