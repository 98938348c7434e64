"""Manifests for tests: rendering, KubeRay's schemas made strict, and what every container has to have."""

from __future__ import annotations

import copy
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
K8S = REPOSITORY / "k8s"
OVERLAYS = ("cpu", "gpu")
SERVE_TEXTS = {
    K8S / "base" / "serve.yaml": REPOSITORY / "configs" / "serve" / "cluster.yaml",
    K8S / "overlays" / "gpu" / "serve.yaml": REPOSITORY / "configs" / "serve" / "cluster_gpu.yaml",
}
"""Manifest to the Serve configuration whose text it holds."""
SERVE_CONFIGS = list(SERVE_TEXTS.values())
SECRETS = {"kdrift-ray-token", "kdrift-api-keys", "kdrift-object-store"}
CRDS = {"RayJob": "rayjobs.yaml", "RayService": "rayservices.yaml"}
Manifest = dict[str, Any]


@functools.cache
def render(overlay: str) -> list[Manifest]:
    """Return the manifests of an overlay as kustomize makes them; skip where there is no kustomize."""
    commands = {"kubectl": ["kubectl", "kustomize"], "kustomize": ["kustomize", "build"]}
    for name, command in commands.items():
        if shutil.which(name):
            folder = str(K8S / "overlays" / overlay)
            done = subprocess.run([*command, folder], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            return list(yaml.safe_load_all(done.stdout))
    pytest.skip("neither kubectl nor kustomize is installed: overlays are not rendered, base files are checked alone")


def base_manifests() -> list[Manifest]:
    """Return the manifests of the base as they are written, one file after the other."""
    names = yaml.safe_load((K8S / "base" / "kustomization.yaml").read_text())["resources"]
    return [item for name in names for item in yaml.safe_load_all((K8S / "base" / name).read_text())]


def manifests(source: str) -> list[Manifest]:
    """Return the manifests of the base, or of an overlay."""
    return base_manifests() if source == "base" else render(source)


def named(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    """Return the one manifest of a kind (and name)."""
    (found,) = [m for m in manifests if m["kind"] == kind and name in ("", m["metadata"]["name"])]
    return found


def crd_folder() -> Path:
    """Return the folder of KubeRay's CRDs; skip where it is absent."""
    folder = Path(os.environ.get("KDRIFT_KUBERAY_CRDS", REPOSITORY.parent / "shared" / "kuberay-crds"))
    if not folder.is_dir():
        pytest.skip(f"folder {folder} of KubeRay's CRDs is absent (set KDRIFT_KUBERAY_CRDS)")
    return folder


@functools.cache
def crd_validator(kind: str) -> jsonschema.protocols.Validator:
    """Return a validator of ray.io/v1 resources of a kind that knows no field beyond the CRD's."""
    definition = yaml.load(
        (crd_folder() / CRDS[kind]).read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )
    assert definition["spec"]["names"]["kind"] == kind
    (version,) = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {  # the API server's own, open in a CRD
        "type": "object",
        "additionalProperties": False,
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47},
            "namespace": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }
    return jsonschema.Draft202012Validator(schema)


def strict(schema: Any) -> Any:
    """Turn a CRD's OpenAPI schema into a JSON schema that forbids unknown fields."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    for key in ("items", "not", "additionalProperties"):
        if key in made:
            made[key] = strict(made[key])
    for key in ("allOf", "anyOf", "oneOf"):
        if key in made:
            made[key] = strict(made[key])
    if "properties" in made:
        made["properties"] = {name: strict(child) for name, child in made["properties"].items()}
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("anyOf", None)
        made["type"] = ["integer", "string"]
    if schema.get("nullable"):
        made["type"] = [made["type"], "null"]
        made.pop("nullable")
    is_object = made.get("type") == "object" or "properties" in made
    if is_object and "additionalProperties" not in made and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    return made


def errors(manifest: Manifest, validator: jsonschema.protocols.Validator) -> list[str]:
    """Return what is wrong with a resource, each with its place."""
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]


def cluster_spec(manifest: Manifest) -> Manifest:
    """Return the Ray cluster of a RayJob or RayService."""
    return manifest["spec"]["rayClusterSpec" if manifest["kind"] == "RayJob" else "rayClusterConfig"]


def pod_specs(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Yield name and pod specification of every pod that a resource leads to."""
    name, spec = manifest["metadata"]["name"], manifest.get("spec", {})
    if manifest["kind"] == "Pod":
        yield name, spec
    if manifest["kind"] == "Deployment":
        yield name, spec["template"]["spec"]
    if manifest["kind"] == "RayJob":
        yield f"{name}/submit", spec["submitterPodTemplate"]["spec"]
    if manifest["kind"] in CRDS:
        cluster = cluster_spec(manifest)
        yield f"{name}/head", cluster["headGroupSpec"]["template"]["spec"]
        for group in cluster["workerGroupSpecs"]:
            yield f"{name}/{group['groupName']}", group["template"]["spec"]


def changed(manifest: Manifest, path: str, value: Any) -> Manifest:
    """Return a copy with one field set (dotted path, numbers are list indices); None deletes it."""
    made = copy.deepcopy(manifest)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    target: Any = made
    for parent in parents:
        target = target[parent]
    if value is None:
        del target[last]
    else:
        target[last] = value
    return made


def embed(manifest: Path, config: Path) -> str:
    """Return the text of a manifest with the text of a Serve configuration as its serveConfigV2."""
    lines, made, inside = manifest.read_text().splitlines(), list[str](), False
    for line in lines:
        if inside and (line.startswith("    ") or not line):
            continue
        inside = line.startswith("  serveConfigV2:")
        if inside:
            made.append("  serveConfigV2: |")
            made += [f"    {text}".rstrip() for text in config.read_text().splitlines()]
        else:
            made.append(line)
    return "\n".join(made) + "\n"
