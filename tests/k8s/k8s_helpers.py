"""Manifests for tests: rendering, KubeRay's schemas made strict, and what every container has to have."""

from __future__ import annotations

import copy
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
K8S = REPOSITORY / "k8s"
OVERLAYS = ("cpu", "gpu")
OPTIONAL = ("postgres", "kueue", "ingress", "monitoring")
"""Components that an overlay may have besides."""
SOURCES = [(overlay, extra) for overlay in OVERLAYS for extra in ((), OPTIONAL)]
"""Overlays, each as it is and with all components."""
SERVE_TEXTS = {
    K8S / "base" / "serve.yaml": REPOSITORY / "configs" / "serve" / "cluster.yaml",
    K8S / "overlays" / "gpu" / "serve.yaml": REPOSITORY / "configs" / "serve" / "cluster_gpu.yaml",
}
"""Manifest to the Serve configuration whose text it holds."""
SERVE_CONFIGS = list(SERVE_TEXTS.values())
SECRETS = {"kdrift-ray-token", "kdrift-api-keys", "kdrift-object-store", "kdrift-mlflow", "kdrift-redis"}
OPTIONAL_SECRETS = {"kdrift-postgres", "kdrift-tls"}
CRDS = {"RayCluster": "rayclusters.yaml", "RayJob": "rayjobs.yaml", "RayService": "rayservices.yaml"}
FOREIGN = {"LocalQueue", "PodMonitor"}
"""Kinds of other operators, whose schemas are not at hand."""
Manifest = dict[str, Any]


@functools.cache
def render(overlay: str, extra: tuple[str, ...] = ()) -> list[Manifest]:
    """Return the manifests of an overlay, with components added, as kustomize makes them; skip without kustomize."""
    with tempfile.TemporaryDirectory() as folder:
        return build(copy_of_k8s(Path(folder), extra), overlay)


def copy_of_k8s(folder: Path, extra: tuple[str, ...] = ()) -> Path:
    """Copy k8s/ to a folder and add components to its overlays, before the settings, as the page says."""
    copied = Path(shutil.copytree(K8S, folder / "k8s"))
    last = "  - ../../components/settings\n"
    for overlay in OVERLAYS:
        file = copied / "overlays" / overlay / "kustomization.yaml"
        text = file.read_text()
        assert text.count(last) == 1
        file.write_text(text.replace(last, "".join(f"  - ../../components/{name}\n" for name in extra) + last))
    return copied


def build(k8s: Path, overlay: str) -> list[Manifest]:
    """Return the manifests of an overlay of a copy of k8s/."""
    commands = {"kubectl": ["kubectl", "kustomize"], "kustomize": ["kustomize", "build"]}
    for name, command in commands.items():
        if shutil.which(name):
            folder = str(k8s / "overlays" / overlay)
            done = subprocess.run([*command, folder], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            return list(yaml.safe_load_all(done.stdout))
    pytest.skip("neither kubectl nor kustomize is installed: overlays are not rendered")


def source_name(source: tuple[str, tuple[str, ...]]) -> str:
    """Return what a test of a source is called."""
    return source[0] + ("-all" if source[1] else "")


def base_manifests() -> list[Manifest]:
    """Return the manifests of the base as they are written; jobs and service lack their Ray cluster."""
    names = yaml.safe_load((K8S / "base" / "kustomization.yaml").read_text())["resources"]
    return [item for name in names for item in yaml.safe_load_all((K8S / "base" / name).read_text())]


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
    """Return the Ray cluster of a RayCluster, RayJob or RayService."""
    places = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}
    spec: Manifest = manifest["spec"]
    return spec if manifest["kind"] == "RayCluster" else spec[places[manifest["kind"]]]


def pods(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Yield name and template of every pod that a resource leads to, with labels and containers as KubeRay makes them.

    KubeRay's are in `labelPod` and `BuildAutoscalerContainer` of its `pod.go`. A StatefulSet's claims are volumes here.
    """
    name, spec = manifest["metadata"]["name"], manifest.get("spec", {})
    if manifest["kind"] == "Pod":
        yield name, manifest
    if manifest["kind"] in ("Deployment", "StatefulSet"):
        template = copy.deepcopy(spec["template"])
        for claim in spec.get("volumeClaimTemplates", []):
            template["spec"]["volumes"].append({"name": claim["metadata"]["name"]})
        yield name, template
    if manifest["kind"] == "RayJob":
        yield f"{name}/submit", spec["submitterPodTemplate"]
    if manifest["kind"] in CRDS:
        cluster = cluster_spec(manifest)
        head = _ray_pod(cluster["headGroupSpec"]["template"], "head", "headgroup")
        if cluster.get("enableInTreeAutoscaling"):
            options = cluster["autoscalerOptions"]
            kept = {key: options[key] for key in ("resources", "securityContext", "volumeMounts")}
            image = options.get("image", head["spec"]["containers"][0]["image"])
            head["spec"]["containers"].append({"name": "autoscaler", "image": image, **kept})
        yield f"{name}/head", head
        for group in cluster["workerGroupSpecs"]:
            yield f"{name}/{group['groupName']}", _ray_pod(group["template"], "worker", group["groupName"])


def _ray_pod(template: Manifest, node: str, group: str) -> Manifest:
    made = copy.deepcopy(template)
    labels = {"ray.io/is-ray-node": "yes", "ray.io/node-type": node, "ray.io/group": group}
    made["metadata"] = {"labels": {**template.get("metadata", {}).get("labels", {}), **labels}}
    return made


def all_pods(resources: list[Manifest]) -> dict[str, Manifest]:
    """Return name to template of all pods."""
    return {name: pod for manifest in resources for name, pod in pods(manifest)}


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
