"""The manifests of k8s/: schemas with unknown fields forbidden, restricted pods, closed networks, named secrets.

`python tests/k8s/test_k8s.py` copies configs/serve/ into the manifests.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from k8s_helpers import (
    CRDS,
    OVERLAYS,
    SECRETS,
    SERVE_CONFIGS,
    SERVE_TEXTS,
    Manifest,
    base_manifests,
    changed,
    cluster_spec,
    crd_validator,
    embed,
    errors,
    manifests,
    named,
    pod_specs,
    render,
)


@pytest.fixture(scope="module", params=["base", *OVERLAYS])
def resources(request: pytest.FixtureRequest) -> list[Manifest]:
    return manifests(request.param)


@pytest.mark.parametrize("kind", list(CRDS))
def test_ray_resources_pass_the_crds_without_unknown_fields(resources: list[Manifest], kind: str) -> None:
    assert errors(named(resources, kind), crd_validator(kind)) == []


MISTAKES: list[tuple[str, str, Any]] = [
    ("RayService", "spec.serveConfigV3", "x"),
    ("RayService", "spec.upgradeStrategy.typ", "NewCluster"),
    ("RayService", "spec.rayClusterConfig.headGroupSpec.template.spec.containers.0.volumeMount", []),
    ("RayService", "spec.rayClusterConfig.workerGroupSpecs.0.minReplica", 1),
    ("RayService", "spec.rayClusterConfig.workerGroupSpecs.0.minReplicas", "two"),
    ("RayService", "spec.rayClusterConfig.workerGroupSpecs.0.groupName", None),
    ("RayService", "spec.rayClusterConfig.authOptions.mode", "tokens"),
    ("RayService", "spec.rayClusterConfig.headGroupSpec.rayStartParams.num-cpus", 0),
    ("RayService", "spec.rayClusterConfig.headGroupSpec.template.spec.containers.0.resources.limits.memory", "6 GB"),
    ("RayService", "metadata.label", {}),
    ("RayJob", "spec.entryPoint", "python"),
    ("RayJob", "spec.backoffLimit", "3"),
    ("RayJob", "spec.submitterPodTemplate.spec.containers.0.securityContext.readonlyRootFilesystem", True),
    ("RayJob", "spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.livenessProbe.httpGet.prot", 1),
]


@pytest.mark.parametrize(("kind", "path", "value"), MISTAKES, ids=[path for _, path, _ in MISTAKES])
def test_a_mistake_in_a_ray_resource_is_found(kind: str, path: str, value: Any) -> None:
    found = errors(changed(named(base_manifests(), kind), path, value), crd_validator(kind))
    assert found
    assert path.rpartition(".")[2] in " ".join(found)


def core(resources: list[Manifest]) -> list[Manifest]:
    return [manifest for manifest in resources if manifest["kind"] not in CRDS]


def test_core_resources_pass_kubernetes_validate(resources: list[Manifest]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    assert len(core(resources)) >= 8
    for manifest in core(resources):
        kubernetes_validate.validate(manifest, "1.37", strict=True)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", "spec.replica", 1),
        ("Deployment", "spec.template.spec.containers.0.readinessProbe.httpGet.prot", 1),
        ("Service", "spec.ports.0.targetport", "http"),
        ("PersistentVolumeClaim", "spec.accessMode", "ReadWriteMany"),
        ("NetworkPolicy", "spec.ingres", []),
        ("Pod", "spec.runAsNonRoot", True),
    ],
)
def test_a_mistake_in_a_core_resource_is_found(kind: str, path: str, value: Any) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    manifest = next(m for m in base_manifests() if m["kind"] == kind)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(changed(manifest, path, value), "1.37", strict=True)


def secret_names(values: Any) -> set[str]:
    """Return the names of all secrets that nested values refer to."""
    if isinstance(values, list):
        return set().union(*map(secret_names, values))
    if not isinstance(values, dict):
        return set()
    found = {values["secretName"]} if "secretName" in values else set()
    found |= {values[key]["name"] for key in ("secretRef", "secretKeyRef") if key in values}
    return found.union(*map(secret_names, values.values()))


def test_heads_run_no_work_and_groups_say_their_size(resources: list[Manifest]) -> None:
    for kind in CRDS:
        cluster = cluster_spec(named(resources, kind))
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert cluster["authOptions"] == {"mode": "token", "secretName": "kdrift-ray-token"}
        for group in cluster["workerGroupSpecs"]:
            assert {"replicas", "minReplicas", "maxReplicas"} <= group.keys()


def test_pods_are_restricted(resources: list[Manifest]) -> None:
    pods = [pod for manifest in resources for pod in pod_specs(manifest)]
    assert len(pods) == 7
    for name, pod in pods:
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] == 10001, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            for amount in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][amount].keys(), name
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}, name
            if not name.endswith(("/submit", "toolbox")):  # these serve nothing
                assert {"livenessProbe", "readinessProbe"} <= container.keys(), name
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}, name


def test_gpu_workers_ask_for_gpus_and_tolerate_their_taint() -> None:
    for kind in CRDS:
        cluster = cluster_spec(named(render("gpu"), kind))
        for group in cluster["workerGroupSpecs"]:
            pod = group["template"]["spec"]
            assert int(pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]) == 1
            assert "nvidia.com/gpu" in {toleration["key"] for toleration in pod["tolerations"]}
        assert "nvidia.com/gpu" not in str(cluster["headGroupSpec"])
        assert "nvidia.com/gpu" not in str(named(render("cpu"), kind))


def test_secrets_are_names_only(resources: list[Manifest]) -> None:
    assert "Secret" not in {manifest["kind"] for manifest in resources}
    assert secret_names(resources) == SECRETS


def test_claims_exist(resources: list[Manifest]) -> None:
    made = {m["metadata"]["name"] for m in resources if m["kind"] == "PersistentVolumeClaim"}
    volumes = [volume for m in resources for _, pod in pod_specs(m) for volume in pod["volumes"]]
    used = {v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v}
    assert used == made


def test_only_serve_is_open_to_the_world_and_mlflow_to_ray() -> None:
    policies = {m["metadata"]["name"]: m["spec"] for m in base_manifests() if m["kind"] == "NetworkPolicy"}
    assert policies["default-deny"]["podSelector"] == {}
    assert policies["default-deny"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policies["default-deny"]
    open_ports = [
        port["port"]
        for spec in policies.values()
        for rule in spec.get("ingress", [])
        if "from" not in rule
        for port in rule["ports"]
    ]
    assert open_ports == [8000]
    assert SERVE_CONFIGS
    for path in SERVE_CONFIGS:
        assert yaml.safe_load(path.read_text())["http_options"]["port"] == 8000
    (rule,) = policies["mlflow"]["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"ray.io/is-ray-node": "yes"}}}]
    submit = named(base_manifests(), "RayJob")["spec"]["submitterPodTemplate"]["metadata"]["labels"]
    assert submit == policies["submit"]["podSelector"]["matchLabels"]


if __name__ == "__main__":
    for target, config in SERVE_TEXTS.items():
        target.write_text(embed(target, config))
