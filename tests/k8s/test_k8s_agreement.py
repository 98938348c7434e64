"""The manifests of k8s/ agree with the pins, the configurations, the code and docs/kubernetes.md."""

from __future__ import annotations

import importlib
import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema
from sqlalchemy.engine import make_url

from k8s_helpers import (
    CRDS,
    K8S,
    OPTIONAL,
    OPTIONAL_SECRETS,
    OVERLAYS,
    REPOSITORY,
    SECRETS,
    SERVE_CONFIGS,
    SERVE_TEXTS,
    SOURCES,
    Manifest,
    all_pods,
    cluster_spec,
    named,
    render,
    source_name,
)
from kdrift.runs.config import flatten, parse, to_dict


@pytest.fixture(scope="module", params=SOURCES, ids=source_name)
def resources(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(*request.param)


def pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().split()
    return dict(line.split("==") for line in lines)


def test_versions_agree(resources: list[Manifest]) -> None:
    ray = pins()["ray"]
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert f'io.ray.version="{ray}"' in (K8S / "Dockerfile").read_text()
    for manifest in resources:
        if manifest["kind"] in CRDS:
            assert cluster_spec(manifest)["rayVersion"] == ray
    overlay = {"cpu": "cpu", "gpu": "cuda"}
    for name, torch in overlay.items():
        (image,) = yaml.safe_load((K8S / "overlays" / name / "kustomization.yaml").read_text())["images"]
        assert image == {"name": "kdrift", "newTag": f"{version}-ray{ray}-{torch}"}
        assert f"kdrift:{image['newTag']}" in (K8S / "Dockerfile").read_text()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_are_named_in_one_place(overlay: str) -> None:
    (image,) = yaml.safe_load((K8S / "overlays" / overlay / "kustomization.yaml").read_text())["images"]
    others = yaml.safe_load((K8S / "components" / "settings" / "kustomization.yaml").read_text())["images"]
    tags = {"kdrift": image["newTag"], **{other["name"]: other["newTag"] for other in others}}
    containers = [c for pod in all_pods(render(overlay, OPTIONAL)).values() for c in pod["spec"]["containers"]]
    for container in containers:
        name, _, tag = container["image"].partition(":")
        assert tag == tags[name]
        assert name == (container["name"] if container["name"] in tags else "kdrift")
    for path in K8S.glob("**/*.yaml"):
        if path.name != "kustomization.yaml":
            assert not re.search(r"image: *\S+:", path.read_text()), path


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
    assert samplers["replicas"] == group["minReplicas"] == group["replicas"]
    assert samplers["max_replicas"] == group["maxReplicas"]
    assert samplers["num_cpus"] + 1 <= int(limits["cpu"])
    assert samplers["num_gpus"] == int(limits.get("nvidia.com/gpu", 0))


def test_mlflows_address_is_that_of_its_service(resources: list[Manifest]) -> None:
    service, deployment = named(resources, "Service", "mlflow"), named(resources, "Deployment")
    (port,), (container,) = service["spec"]["ports"], deployment["spec"]["template"]["spec"]["containers"]
    for path in SERVE_CONFIGS:
        args = yaml.safe_load(path.read_text())["applications"][0]["args"]
        assert args["tracking_uri"] == f"http://{service['metadata']['name']}:{port['port']}"
        for name, pod in all_pods(resources).items():
            given = {e["name"]: e.get("value") for e in pod["spec"]["containers"][0].get("env", [])}
            if pod["metadata"].get("labels", {}).get("ray.io/is-ray-node"):
                assert given["MLFLOW_TRACKING_URI"] == args["tracking_uri"], name
    assert f"--port={container['ports'][0]['containerPort']}" in container["args"]
    (hosts,) = [text for text in container["args"] if text.startswith("--allowed-hosts=")]
    assert f"mlflow:{port['port']}" in hosts.partition("=")[2].split(",")
    assert {"name": "MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "value": "false"} in container["env"]


def test_services_reach_their_pods(resources: list[Manifest]) -> None:
    pods = all_pods(resources)
    services = [m for m in resources if m["kind"] == "Service"]
    assert {m["metadata"]["name"] for m in services} in ({"mlflow", "redis"}, {"mlflow", "redis", "postgres"})
    for service in services:
        selector = service["spec"]["selector"].items()
        (pod,) = [pod for pod in pods.values() if selector <= pod["metadata"]["labels"].items()]
        named_ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
        for port in service["spec"]["ports"]:
            assert named_ports[port["targetPort"]] == port["port"]


def test_environment_names_are_known() -> None:
    code = "\n".join(
        path.read_text() for folder in ("platform", "serve") for path in REPOSITORY.glob(f"{folder}/**/*.py")
    )
    mlflow = set(vars(importlib.import_module("mlflow.environment_variables")))
    cli = importlib.util.find_spec("mlflow.cli")
    assert cli is not None
    assert cli.origin is not None
    mlflow |= set(re.findall(r'envvar="(\w+)"', Path(cli.origin).read_text()))  # options of `mlflow server`
    server = ("postgres", "redis")  # whose own these are
    names = {
        e["name"]
        for name, pod in all_pods(render("cpu", OPTIONAL)).items()
        for c in pod["spec"]["containers"]
        for e in c.get("env", [])
        if name not in server
    }
    assert names
    for name in names:
        if name.startswith("MLFLOW_"):
            assert name in mlflow or name in code, name
        elif name != "PGPASSWORD" and (name.startswith("RAY_") or importlib.util.find_spec("kdrift_serve") is not None):
            assert name in code, name
    given = {yaml.safe_load(path.read_text())["applications"][0]["args"]["auth"]["keys_env"] for path in SERVE_CONFIGS}
    assert given <= names


PAGE = (REPOSITORY / "docs" / "kubernetes.md").read_text()


def test_the_page_applies_what_exists() -> None:
    components = {
        m["metadata"]["labels"]["app.kubernetes.io/component"]
        for m in render("cpu", OPTIONAL)
        if m["kind"] != "ConfigMap" or m["metadata"]["name"].startswith("mlflow-auth")
    }
    applied = re.findall(r"^kubectl apply -k (\S+) -l app.kubernetes.io/component=(\w+)$", PAGE, re.MULTILINE)
    assert {component for _, component in applied} == components
    for folder, _ in applied:
        assert (REPOSITORY / folder / "kustomization.yaml").is_file()
    for path in re.findall(r"`(k8s/[\w/.-]+)`", PAGE):
        assert (REPOSITORY / path).exists(), path
    for secret in SECRETS | OPTIONAL_SECRETS:
        assert re.search(rf"create secret (generic|tls) {secret} ", PAGE), secret
    for config in SERVE_CONFIGS:
        for name in yaml.safe_load(config.read_text())["applications"][0]["args"]["priors"].values():
            assert name.removeprefix("models:/").partition("@")[0] in PAGE


def test_the_page_names_every_component() -> None:
    folders = {path.name for path in (K8S / "components").iterdir()}
    assert folders == {"ray", "gpu", "settings", *OPTIONAL}
    for name in folders:
        assert f"`k8s/components/{name}`" in PAGE, name


def test_mlflow_finds_a_driver_for_postgres() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    driver = make_url("postgresql://host").get_dialect().driver
    assert driver in {re.split(r"\W", requirement)[0] for requirement in extras["mlflow-server"]}
    assert {driver, "Flask-WTF"} <= pins().keys()


def test_secrets_have_the_keys_that_are_read(resources: list[Manifest]) -> None:
    """The page makes each secret with every key that a container reads from it."""
    for pod in all_pods(resources).values():
        for container in pod["spec"]["containers"]:
            for entry in container.get("env", []):
                read = entry.get("valueFrom", {}).get("secretKeyRef")
                if read:
                    line = next(line for line in PAGE.splitlines() if f"secret generic {read['name']} " in line)
                    assert f"{read['key']}=" in line, read
