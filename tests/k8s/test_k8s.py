"""The manifests of k8s/: schemas with unknown fields forbidden, restricted pods, named secrets and claims, priorities.

`python tests/k8s/test_k8s.py` copies configs/serve/ into the manifests.
"""

from __future__ import annotations

from typing import Any

import pytest

from k8s_helpers import (
    CRDS,
    FOREIGN,
    OPTIONAL_SECRETS,
    SECRETS,
    SERVE_TEXTS,
    SOURCES,
    Manifest,
    all_pods,
    base_manifests,
    changed,
    cluster_spec,
    crd_validator,
    embed,
    errors,
    named,
    render,
    source_name,
)
from kdrift.cli import VERBS

JOBS = [f"kdrift-{name}" for name, verb in VERBS.items() if verb.is_job]
CLUSTERED = [("RayCluster", "kdrift-interactive"), ("RayService", "kdrift"), *(("RayJob", name) for name in JOBS)]


@pytest.fixture(scope="module", params=SOURCES, ids=source_name)
def resources(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(*request.param)


def test_ray_resources_pass_the_crds_without_unknown_fields(resources: list[Manifest]) -> None:
    found = [manifest for manifest in resources if manifest["kind"] in CRDS]
    assert sorted((m["kind"], m["metadata"]["name"]) for m in found) == sorted(CLUSTERED)
    for manifest in found:
        assert errors(manifest, crd_validator(manifest["kind"])) == []


MISTAKES: list[tuple[str, str, Any]] = [
    ("RayService", "spec.serveConfigV3", "x"),
    ("RayService", "spec.upgradeStrategy.typ", "NewCluster"),
    ("RayService", "spec.rayClusterConfig.headGroupSpec.template.spec.containers.0.volumeMount", []),
    ("RayService", "spec.rayClusterConfig.workerGroupSpecs.0.minReplica", 1),
    ("RayService", "spec.rayClusterConfig.workerGroupSpecs.0.minReplicas", "two"),
    ("RayService", "spec.rayClusterConfig.workerGroupSpecs.0.groupName", None),
    ("RayService", "spec.rayClusterConfig.authOptions.mode", "tokens"),
    ("RayService", "spec.rayClusterConfig.gcsFaultToleranceOptions.redisAdress", "redis"),
    ("RayService", "spec.rayClusterConfig.headGroupSpec.rayStartParams.num-cpus", 0),
    ("RayService", "spec.rayClusterConfig.headGroupSpec.template.spec.containers.0.resources.limits.memory", "6 GB"),
    ("RayService", "metadata.label", {}),
    ("RayJob", "spec.entryPoint", "python"),
    ("RayJob", "spec.backoffLimit", "3"),
    ("RayJob", "spec.submitterPodTemplate.spec.containers.0.securityContext.readonlyRootFilesystem", True),
    ("RayJob", "spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.livenessProbe.httpGet.prot", 1),
    ("RayCluster", "spec.autoscalerOptions.idleTimeoutS", 60),
    ("RayCluster", "spec.autoscalerOptions.version", "v3"),
]


@pytest.mark.parametrize(("kind", "path", "value"), MISTAKES, ids=[path for _, path, _ in MISTAKES])
def test_a_mistake_in_a_ray_resource_is_found(kind: str, path: str, value: Any) -> None:
    manifest = next(m for m in render("cpu") if m["kind"] == kind)
    found = errors(changed(manifest, path, value), crd_validator(kind))
    assert found
    assert path.rpartition(".")[2] in " ".join(found)


def core(resources: list[Manifest]) -> list[Manifest]:
    return [manifest for manifest in resources if manifest["kind"] not in {*CRDS, *FOREIGN}]


def test_core_resources_pass_kubernetes_validate(resources: list[Manifest]) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for manifest in [*core(resources), *core(base_manifests())]:
        kubernetes_validate.validate(manifest, "1.37", strict=True)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", "spec.replica", 1),
        ("Deployment", "spec.template.spec.containers.0.readinessProbe.httpGet.prot", 1),
        ("StatefulSet", "spec.volumeClaimTemplates.0.spec.accessMode", "ReadWriteOnce"),
        ("Service", "spec.ports.0.targetport", "http"),
        ("PersistentVolumeClaim", "spec.accessMode", "ReadWriteMany"),
        ("NetworkPolicy", "spec.ingres", []),
        ("PodDisruptionBudget", "spec.minAvailabl", 1),
        ("PriorityClass", "preemptionPolic", "Never"),
        ("Ingress", "spec.rules.0.http.paths.0.backend.service.port.nummer", 1),
        ("Pod", "spec.runAsNonRoot", True),
    ],
)
def test_a_mistake_in_a_core_resource_is_found(kind: str, path: str, value: Any) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    manifest = next(m for m in render(*SOURCES[1]) if m["kind"] == kind)
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
    for kind, name in CLUSTERED:
        cluster = cluster_spec(named(resources, kind, name))
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert cluster["authOptions"] == {"mode": "token", "secretName": "kdrift-ray-token"}
        for group in cluster["workerGroupSpecs"]:
            assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_pods_are_restricted(resources: list[Manifest]) -> None:
    pods = all_pods(resources)
    ray = [name for name in pods if "/" in name and not name.endswith("/submit")]
    assert len(ray) == 2 * len(CLUSTERED)
    assert set(pods) - set(ray) - {f"{job}/submit" for job in JOBS} in (
        {"mlflow", "redis", "toolbox"},
        {"mlflow", "redis", "toolbox", "postgres"},
    )
    for name, pod in pods.items():
        spec = pod["spec"]
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] == 10001, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            for amount in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][amount].keys(), name
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}, name
            if not name.endswith(("/submit", "toolbox")) and container["name"] != "autoscaler":  # these serve nothing
                assert {"livenessProbe", "readinessProbe"} <= container.keys(), name
        mounted = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}, name


def test_the_autoscaler_alone_has_a_token_of_the_api_server(resources: list[Manifest]) -> None:
    scaled = set()
    for name, pod in all_pods(resources).items():
        projected = {volume["name"] for volume in pod["spec"]["volumes"] if "projected" in volume}
        for container in pod["spec"]["containers"]:
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            has_token = bool(projected & mounts.keys())
            assert has_token == (container["name"] == "autoscaler"), name
            if has_token:
                assert mounts["api-token"] == "/var/run/secrets/kubernetes.io/serviceaccount"
                scaled.add(name)
    queued = "LocalQueue" in {manifest["kind"] for manifest in resources}
    # Kueue's jobs have what they ask for
    assert scaled == {f"{name}/head" for name in ["kdrift-interactive", "kdrift", *([] if queued else JOBS)]}


def test_gpu_workers_ask_for_gpus_on_nodes_that_have_them() -> None:
    for kind, name in CLUSTERED:
        cluster = cluster_spec(named(render("gpu"), kind, name))
        for group in cluster["workerGroupSpecs"]:
            pod = group["template"]["spec"]
            assert int(pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]) == 1
            assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
            assert "nvidia.com/gpu" in {toleration["key"] for toleration in pod["tolerations"]}
        assert "nvidia.com/gpu" not in str(cluster["headGroupSpec"])
    assert "nvidia.com/gpu" not in str(render("cpu"))


def test_secrets_are_names_only(resources: list[Manifest]) -> None:
    kinds = {manifest["kind"] for manifest in resources}
    assert "Secret" not in kinds
    assert secret_names(resources) == SECRETS | (OPTIONAL_SECRETS if "Ingress" in kinds else set())


def test_claims_exist(resources: list[Manifest]) -> None:
    made = {m["metadata"]["name"] for m in resources if m["kind"] == "PersistentVolumeClaim"}
    volumes = [volume for pod in all_pods(resources).values() for volume in pod["spec"]["volumes"]]
    used = {v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v}
    assert used == made


def test_the_service_goes_before_jobs(resources: list[Manifest]) -> None:
    classes = {m["metadata"]["name"]: m for m in resources if m["kind"] == "PriorityClass"}
    assert classes["kdrift-service"]["value"] > classes["kdrift-job"]["value"] > 0
    assert "preemptionPolicy" not in classes["kdrift-service"]  # it may take room
    assert classes["kdrift-job"]["preemptionPolicy"] == "Never"
    assert not any(m.get("globalDefault") or "namespace" in m["metadata"] for m in classes.values())
    for name, pod in all_pods(resources).items():
        if name == "toolbox":
            continue
        is_service = name.startswith("kdrift/") or "/" not in name
        assert pod["spec"]["priorityClassName"] == ("kdrift-service" if is_service else "kdrift-job"), name


def test_disruption_budgets_are_of_the_service_and_of_mlflow(resources: list[Manifest]) -> None:
    pods = all_pods(resources)
    budgets = {}
    for manifest in resources:
        if manifest["kind"] == "PodDisruptionBudget":
            # pods of an operator: Kubernetes takes no maxUnavailable and no percentage
            assert manifest["spec"].keys() == {"minAvailable", "selector"}
            assert manifest["spec"]["minAvailable"] == 1
            wanted = manifest["spec"]["selector"]["matchLabels"].items()
            chosen = {name for name, pod in pods.items() if wanted <= pod["metadata"]["labels"].items()}
            budgets[manifest["metadata"]["name"]] = chosen
    assert budgets == {"kdrift-samplers": {"kdrift/samplers"}, "kdrift-head": {"kdrift/head"}, "mlflow": {"mlflow"}}
    (group,) = cluster_spec(named(resources, "RayService"))["workerGroupSpecs"]
    assert group["minReplicas"] > 1, "a node can be drained"


if __name__ == "__main__":
    for target, config in SERVE_TEXTS.items():
        target.write_text(embed(target, config))
