"""The manifests of k8s/ agree with the pins, the configurations, the code and docs/kubernetes.md."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from k8s_helpers import (
    CRDS,
    K8S,
    OVERLAYS,
    REPOSITORY,
    SECRETS,
    SERVE_CONFIGS,
    SERVE_TEXTS,
    Manifest,
    base_manifests,
    cluster_spec,
    manifests,
    named,
    pod_specs,
    render,
)
from kdrift.cli import VERBS
from kdrift.cli import parse as parse_command
from kdrift.runs.config import flatten, load_config, parse, to_dict
from kdrift.training.train_config import TrainConfig
from kdrift.training.workers import parse_workers

WORKDIR = "/opt/kdrift"


@pytest.fixture(scope="module", params=["base", *OVERLAYS])
def resources(request: pytest.FixtureRequest) -> list[Manifest]:
    return manifests(request.param)


def pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().split()
    return dict(line.split("==") for line in lines)


def test_versions_agree(resources: list[Manifest]) -> None:
    ray = pins()["ray"]
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert f'io.ray.version="{ray}"' in (K8S / "Dockerfile").read_text()
    for kind in CRDS:
        assert cluster_spec(named(resources, kind))["rayVersion"] == ray
    overlay = {"cpu": "cpu", "gpu": "cuda"}
    for name, torch in overlay.items():
        (image,) = yaml.safe_load((K8S / "overlays" / name / "kustomization.yaml").read_text())["images"]
        assert image == {"name": "kdrift", "newTag": f"{version}-ray{ray}-{torch}"}
        assert f"kdrift:{image['newTag']}" in (K8S / "Dockerfile").read_text()


def test_every_container_gets_the_overlays_image() -> None:
    for overlay in OVERLAYS:
        (image,) = yaml.safe_load((K8S / "overlays" / overlay / "kustomization.yaml").read_text())["images"]
        pods = [pod for manifest in render(overlay) for _, pod in pod_specs(manifest)]
        assert {c["image"] for pod in pods for c in pod["containers"]} == {f"kdrift:{image['newTag']}"}


@pytest.mark.parametrize("manifest", list(SERVE_TEXTS), ids=lambda path: str(path.relative_to(K8S)))
def test_manifests_hold_the_text_of_the_serve_configurations(manifest: Path) -> None:
    text = yaml.safe_load(manifest.read_text())["spec"]["serveConfigV2"]
    assert text == SERVE_TEXTS[manifest].read_text(), "run python tests/k8s/test_k8s.py"


def test_each_overlay_serves_its_configuration() -> None:
    for overlay, name in (("cpu", "cluster.yaml"), ("gpu", "cluster_gpu.yaml")):
        text = named(render(overlay), "RayService")["spec"]["serveConfigV2"]
        assert text == (REPOSITORY / "configs" / "serve" / name).read_text()


def unknown_keys(values: Any, model: Any, where: str = "") -> list[str]:
    """Return the keys that Serve's schema would ignore without a word."""
    found = []
    for key, value in values.items():
        if key not in model.model_fields:
            found.append(where + key)
        elif key == "http_options":
            found += unknown_keys(value, importlib.import_module("ray.serve.schema").HTTPOptionsSchema, f"{key}.")
        elif key == "applications":
            application = importlib.import_module("ray.serve.schema").ServeApplicationSchema
            found += [name for item in value for name in unknown_keys(item, application, f"{key}.")]
    return found


@pytest.mark.parametrize("path", SERVE_CONFIGS, ids=lambda path: path.name)
def test_serve_configurations_are_what_serve_takes(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    ServeDeploySchema.model_validate(values)
    assert unknown_keys(values, ServeDeploySchema) == []
    assert unknown_keys({"http_options": {"prot": 1}}, ServeDeploySchema) == ["http_options.prot"]


@pytest.mark.parametrize("path", SERVE_CONFIGS, ids=lambda path: path.name)
def test_import_paths_import_and_arguments_are_complete(path: Path) -> None:
    (application,) = yaml.safe_load(path.read_text())["applications"]
    module, _, name = application["import_path"].partition(":")
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        pytest.skip(f"{module} is not installed")
    assert callable(getattr(importlib.import_module(module), name))
    config = importlib.import_module("kdrift_serve.serve_config").ServeConfig
    given, whole = application["args"], to_dict(parse(config, application["args"], path.name))
    assert flatten(given).keys() == flatten(whole).keys(), "a configuration is complete"


@pytest.mark.parametrize("path", SERVE_CONFIGS, ids=lambda path: path.name)
def test_the_samplers_and_the_ingress_fit_the_workers(path: Path) -> None:
    (overlay,) = [name for name in OVERLAYS if (name == "gpu") == path.stem.endswith("gpu")]
    samplers = yaml.safe_load(path.read_text())["applications"][0]["args"]["samplers"]
    (group,) = cluster_spec(named(render(overlay), "RayService"))["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert samplers["replicas"] == group["minReplicas"] == group["maxReplicas"] == group["replicas"]
    assert samplers["num_cpus"] + 1 <= int(limits["cpu"])
    assert samplers["num_gpus"] == int(limits.get("nvidia.com/gpu", 0))


def test_the_jobs_entrypoint_is_a_command_of_this_repository(resources: list[Manifest]) -> None:
    job = named(resources, "RayJob")
    python, script, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert python == "python"
    assert not any(character in job["spec"]["entrypoint"] for character in "[]*?$;&|<>"), "a shell reads it"
    assert (REPOSITORY / script).is_file()
    verb = Path(script).stem
    assert verb in VERBS
    parsed = parse_command([verb, *arguments])
    assert parsed is not None
    args = parsed.options
    config = load_config(TrainConfig, REPOSITORY / args.config, args.set)
    # relative paths are the image's working directory, and what is written goes to the volume
    assert f"WORKDIR {WORKDIR}\n" in (K8S / "Dockerfile").read_text()
    assert str(args.out).startswith("runs/")
    assert all(store.startswith("runs/") for store in config.data.stores)
    (group,) = cluster_spec(job)["workerGroupSpecs"]
    workers = parse_workers(args.workers)
    assert workers == group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    assert workers <= config.batch_size
    # the same prior is served that is trained
    for path in SERVE_CONFIGS:
        served = yaml.safe_load(path.read_text())["applications"][0]["args"]
        assert f"models:/{config.name}@champion" in served["priors"].values()
        assert served["tracking_uri"] == args.tracking_uri
        assert served["storage"].startswith(f"{WORKDIR}/runs/")


def test_mlflows_address_is_that_of_its_service(resources: list[Manifest]) -> None:
    service, deployment = named(resources, "Service"), named(resources, "Deployment")
    (port,), (container,) = service["spec"]["ports"], deployment["spec"]["template"]["spec"]["containers"]
    assert f"http://{service['metadata']['name']}:{port['port']}" in named(resources, "RayJob")["spec"]["entrypoint"]
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert f"--port={container['ports'][0]['containerPort']}" in container["args"]
    (hosts,) = [text for text in container["args"] if text.startswith("--allowed-hosts=")]
    assert f"mlflow:{port['port']}" in hosts.partition("=")[2].split(",")
    assert {"name": "MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "value": "false"} in container["env"]


def test_environment_names_are_known() -> None:
    code = "\n".join(
        path.read_text() for folder in ("platform", "serve") for path in REPOSITORY.glob(f"{folder}/**/*.py")
    )
    mlflow = vars(importlib.import_module("mlflow.environment_variables"))
    names = {
        e["name"]
        for m in base_manifests()
        for _, pod in pod_specs(m)
        for c in pod["containers"]
        for e in c.get("env", [])
    }
    assert names
    for name in names:
        if name.startswith("MLFLOW_"):
            assert name in mlflow or name in code, name
        elif name.startswith("RAY_") or importlib.util.find_spec("kdrift_serve") is not None:
            assert name in code, name
    given = {yaml.safe_load(path.read_text())["applications"][0]["args"]["auth"]["keys_env"] for path in SERVE_CONFIGS}
    assert given <= names


def test_the_page_applies_what_exists() -> None:
    page = (REPOSITORY / "docs" / "kubernetes.md").read_text()
    components = {m["metadata"]["labels"]["app.kubernetes.io/component"] for m in base_manifests()}
    applied = re.findall(r"^kubectl apply -k (\S+) -l app.kubernetes.io/component=(\w+)$", page, re.MULTILINE)
    assert {component for _, component in applied} == components
    for folder, _ in applied:
        assert (REPOSITORY / folder / "kustomization.yaml").is_file()
    for path in re.findall(r"`(k8s/[\w/.-]+)`", page):
        assert (REPOSITORY / path).exists(), path
    for secret in SECRETS:
        assert f"create secret generic {secret} " in page
    for config in SERVE_CONFIGS:
        for name in yaml.safe_load(config.read_text())["applications"][0]["args"]["priors"].values():
            assert name.removeprefix("models:/").partition("@")[0] in page
