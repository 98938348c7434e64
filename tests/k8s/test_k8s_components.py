"""The components of k8s/: settings in one place, PostgreSQL, Kueue, Ingress, monitoring, the service's Redis.

PodMonitor and LocalQueue have no schema here: their fields are compared with what their operators document.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from k8s_helpers import (
    CRDS,
    K8S,
    OPTIONAL,
    OVERLAYS,
    SERVE_CONFIGS,
    Manifest,
    all_pods,
    build,
    changed,
    cluster_spec,
    copy_of_k8s,
    named,
    render,
)
from kdrift_serve.job_table import JobTable, StateLost
from kdrift_serve.routes import open_to_all
from kdrift_serve.serve_config import ServeConfig
from postgres_helpers import PLACES, postgres

SETTINGS = dict(
    line.split("=") for line in (K8S / "components" / "settings" / "settings.env").read_text().split() if line
)


@pytest.fixture(scope="module", params=OVERLAYS)
def resources(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(request.param, OPTIONAL)


def settings_of(resources: list[Manifest]) -> dict[str, Any]:
    """Return the settings as they arrive."""

    def size(kind: str, name: str) -> Any:
        spec = named(resources, kind, name)["spec"]
        claim = spec["volumeClaimTemplates"][0]["spec"] if kind == "StatefulSet" else spec
        return claim["resources"]["requests"]["storage"]

    ingress, policy = named(resources, "Ingress")["spec"], named(resources, "NetworkPolicy", "prometheus")["spec"]
    assert ingress["tls"][0]["hosts"] == [ingress["rules"][0]["host"]]
    (source,) = policy["ingress"][0]["from"]
    return {
        "RUNS_SIZE": size("PersistentVolumeClaim", "kdrift-runs"),
        "MLFLOW_SIZE": size("PersistentVolumeClaim", "mlflow"),
        "REDIS_SIZE": size("StatefulSet", "redis"),
        "POSTGRES_SIZE": size("StatefulSet", "postgres"),
        "HOST": ingress["rules"][0]["host"],
        "PROMETHEUS_NAMESPACE": source["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"],
        "CLUSTER_QUEUE": named(resources, "LocalQueue")["spec"]["clusterQueue"],
    }


def test_settings_arrive_and_are_not_applied_themselves(resources: list[Manifest]) -> None:
    assert settings_of(resources) == SETTINGS
    maps = sorted(m["metadata"]["name"] for m in resources if m["kind"] == "ConfigMap")
    assert [name.partition("auth-")[0] for name in maps] == [
        "kdrift-dashboard", "mlflow-", next(name for name in maps if name.startswith("postgres-init-")),
    ]  # fmt: skip


def test_the_dashboard_shows_metrics_that_the_service_has(resources: list[Manifest]) -> None:
    (board,) = [m for m in resources if m["metadata"]["name"] == "kdrift-dashboard"]
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    shown = json.loads(board["data"]["dashboard.json"])
    expressions = " ".join(each["expr"] for panel in shown["panels"] for each in panel["targets"])
    asked = set(re.findall(r"ray_kdrift_\w+", expressions))
    text = (K8S.parent / "serve" / "kdrift_serve" / "service_metrics.py").read_text()
    known = {f"ray_{name}" for name in re.findall(r'"(kdrift_\w+)"', text)}
    assert {re.sub("_(total|bucket)$", "", name) for name in asked} == known


def test_changed_settings_namespace_and_image_arrive_everywhere(tmp_path: Path) -> None:
    k8s = copy_of_k8s(tmp_path, OPTIONAL)
    other = {name: f"{number}Gi" if name.endswith("_SIZE") else f"x{number}" for number, name in enumerate(SETTINGS, 1)}
    folder = k8s / "components" / "settings"
    (folder / "settings.env").write_text("".join(f"{name}={value}\n" for name, value in other.items()))
    file = folder / "kustomization.yaml"
    assert file.read_text().count("namespace: kdrift") == 1
    file.write_text(file.read_text().replace("namespace: kdrift", "namespace: other"))
    overlay = k8s / "overlays" / "cpu" / "kustomization.yaml"
    digest = f"sha256:{'0' * 64}"
    text = overlay.read_text()
    assert text.count("newTag: ") == 1
    overlay.write_text(f"{text.partition('    newTag: ')[0]}    newName: registry/kdrift\n    digest: {digest}\n")
    resources = build(k8s, "cpu")
    assert settings_of(resources) == other
    free = {"Namespace", "PriorityClass"}
    assert {m["metadata"].get("namespace") for m in resources if m["kind"] not in free} == {"other"}
    assert named(resources, "Namespace")["metadata"]["name"] == "other"
    containers = [c for pod in all_pods(resources).values() for c in pod["spec"]["containers"]]
    images = {c["image"] for c in containers if c["name"] not in ("redis", "postgres")}
    assert images == {f"registry/kdrift@{digest}"}


def test_the_service_keeps_its_state_in_redis(resources: list[Manifest]) -> None:
    options = cluster_spec(named(resources, "RayService"))["gcsFaultToleranceOptions"]
    redis = named(resources, "StatefulSet", "redis")["spec"]
    (container,) = redis["template"]["spec"]["containers"]
    assert options["redisAddress"] == f"redis:{container['ports'][0]['containerPort']}"
    (password,) = container["env"]
    assert options["redisPassword"]["valueFrom"] == password["valueFrom"]
    assert container["args"][-2:] == ["--requirepass", f"$({password['name']})"]
    assert container["args"][:4] == ["--dir", container["volumeMounts"][0]["mountPath"], "--appendonly", "yes"]
    for manifest in resources:  # a job's head that is lost begins anew with its job
        if manifest["kind"] in ("RayJob", "RayCluster"):
            assert "gcsFaultToleranceOptions" not in cluster_spec(manifest)


def test_postgres_takes_the_place_of_mlflows_files(resources: list[Manifest]) -> None:
    def server(resources: list[Manifest]) -> tuple[dict[str, Any], str]:
        (container,) = named(resources, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
        (accounts,) = [m for m in resources if m["metadata"]["name"].startswith("mlflow-auth-")]
        volumes = named(resources, "Deployment", "mlflow")["spec"]["template"]["spec"]["volumes"]
        assert accounts["metadata"]["name"] in [v["configMap"]["name"] for v in volumes if "configMap" in v]
        return {e["name"]: e.get("value", e.get("valueFrom")) for e in container["env"]}, accounts["data"][
            "basic_auth.ini"
        ]

    before, accounts = server(render("cpu"))
    assert before["MLFLOW_BACKEND_STORE_URI"].startswith("sqlite:////mlflow/")
    assert "database_uri = sqlite:////mlflow/" in accounts
    after, accounts = server(resources)
    database = {e["name"]: e.get("value", e.get("valueFrom")) for e in _postgres(resources)["env"]}
    port = named(resources, "Service", "postgres")["spec"]["ports"][0]["port"]
    uri = f"postgresql://{database['POSTGRES_USER']}@postgres:{port}/{database['POSTGRES_DB']}"
    assert after["MLFLOW_BACKEND_STORE_URI"] == uri
    assert f"database_uri = {uri}\n" in accounts
    assert after["PGPASSWORD"] == database["POSTGRES_PASSWORD"]
    assert after.keys() - before.keys() == {"PGPASSWORD"}


def test_postgres_has_the_services_table_too(resources: list[Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is one that the service takes, of a role that its script makes with the password that pods get."""
    spec = cluster_spec(named(resources, "RayService"))
    pods = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    found = [{e["name"]: e for e in pod["template"]["spec"]["containers"][0]["env"]} for pod in pods]
    database = _postgres(resources)
    password = {e["name"]: e.get("valueFrom") for e in database["env"]}["KDRIFT_SERVE_PASSWORD"]
    (init,) = [m for m in resources if m["metadata"]["name"].startswith("postgres-init-")]
    volumes = named(resources, "StatefulSet", "postgres")["spec"]["template"]["spec"]["volumes"]
    assert init["metadata"]["labels"] == {"app.kubernetes.io/component": "platform"}, "it is applied with the rest"
    assert init["metadata"]["name"] in [v["configMap"]["name"] for v in volumes if "configMap" in v]
    for environment in found:
        assert environment["PGPASSWORD"]["valueFrom"] == password
        monkeypatch.setenv("KDRIFT_SERVE_DATABASE", environment["KDRIFT_SERVE_DATABASE"]["value"])
        url = sa.make_url(ServeConfig().database_url)
        port = named(resources, "Service", "postgres")["spec"]["ports"][0]["port"]
        assert (url.drivername, url.host, url.port) == ("postgresql+psycopg", "postgres", port)
        assert f"CREATE ROLE {url.username} LOGIN" in init["data"]["service.sh"]
        assert f"CREATE DATABASE {url.database} OWNER {url.username}" in init["data"]["service.sh"]
    labels = [pod["template"]["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods]
    inward = named(resources, "NetworkPolicy", "postgres")["spec"]["ingress"][0]["from"][1]["podSelector"]
    outward = named(resources, "NetworkPolicy", "serve-postgres")["spec"]["podSelector"]
    assert inward == outward
    assert {inward["matchLabels"]["app.kubernetes.io/component"]} == set(labels)
    for manifest in resources:
        if manifest["kind"] in ("RayJob", "RayCluster"):
            assert "PGPASSWORD" not in str(manifest), "jobs have no account there"
    for cluster in (cluster_spec(named(render("cpu"), "RayService")),):
        assert "KDRIFT_SERVE_DATABASE" not in str(cluster)


def test_the_services_role_is_made(caplog: pytest.LogCaptureFixture) -> None:
    """By the script itself, on a real server, twice: the second time says what is there."""
    with postgres() as server:
        url = sa.make_url(server.url)
        places = [str(place) for place in PLACES]
        environment = {
            "PATH": ":".join([*places, os.environ["PATH"]]), "PGHOST": str(url.host), "PGPORT": str(url.port),
            "POSTGRES_USER": "kdrift_admin", "POSTGRES_DB": "mlflow", "KDRIFT_SERVE_PASSWORD": "it's \"quoted\" $HOME",
        }  # fmt: skip
        made = {
            "kdrift": "CREATE ROLE kdrift_admin SUPERUSER LOGIN",
            "kdrift_admin": "ALTER ROLE kdrift RENAME TO somebody",
        }
        for user, statement in {**made, "somebody": "CREATE DATABASE mlflow"}.items():
            engine = sa.create_engine(url.set(username=user), isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                connection.execute(sa.text(statement))
            engine.dispose()
        script = ["sh", str(K8S / "components" / "postgres" / "service.sh")]
        done = subprocess.run(script, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        own = url.set(username="kdrift", database="kdrift", password=environment["KDRIFT_SERVE_PASSWORD"])
        table = JobTable(own.render_as_string(hide_password=False))
        table.live("a" * 32, "1")
        assert table.services() == {"a" * 32}
        table.close()
        with pytest.raises(StateLost):
            JobTable(own.set(database="mlflow").render_as_string(hide_password=False))
        assert "permission denied" in caplog.text
        again = subprocess.run(script, env=environment, capture_output=True, text=True)
        assert (again.returncode != 0, "already exists" in again.stderr) == (True, True)


def test_traffic_waits_until_a_job_would_be_run(resources: list[Manifest]) -> None:
    spec = cluster_spec(named(resources, "RayService"))
    for group in spec["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        probe = container["readinessProbe"]["httpGet"]
        assert probe["path"] in {route.path for route in open_to_all.routes}
        assert probe["port"] in {port["name"] for port in container["ports"]}
        assert container["livenessProbe"]["httpGet"]["path"] == "/api/healthz"


def _postgres(resources: list[Manifest]) -> dict[str, Any]:
    container: dict[str, Any]
    (container,) = named(resources, "StatefulSet", "postgres")["spec"]["template"]["spec"]["containers"]
    for mount in container["volumeMounts"]:
        if mount["name"] == "data":
            (data,) = [e["value"] for e in container["env"] if e["name"] == "PGDATA"]
            assert data.startswith(f"{mount['mountPath']}/"), "a folder of its own"
    return container


def test_kueue_queues_jobs_that_do_not_grow(resources: list[Manifest]) -> None:
    queue = named(resources, "LocalQueue")
    assert queue["apiVersion"] == "kueue.x-k8s.io/v1beta2"
    for manifest in resources:
        queued = manifest["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name")
        assert queued == (queue["metadata"]["name"] if manifest["kind"] == "RayJob" else None)
        if manifest["kind"] == "RayJob":
            # what Kueue's webhook of RayJobs asks for
            assert manifest["spec"]["suspend"] is True
            assert manifest["spec"]["shutdownAfterJobFinishes"] is True
            assert "enableInTreeAutoscaling" not in cluster_spec(manifest)
            assert "head" not in [group["groupName"] for group in cluster_spec(manifest)["workerGroupSpecs"]]
    flavor, cluster_queue = yaml.safe_load_all((K8S / "components" / "kueue" / "cluster-queue.yaml").read_text())
    assert cluster_queue["metadata"]["name"] == SETTINGS["CLUSTER_QUEUE"]
    (group,) = cluster_queue["spec"]["resourceGroups"]
    assert [f["name"] for f in group["flavors"]] == [flavor["metadata"]["name"]]
    assert [r["name"] for r in group["flavors"][0]["resources"]] == group["coveredResources"]
    asked: set[str] = set()
    for pod in all_pods([m for m in resources if m["kind"] == "RayJob"]).values():
        for container in pod["spec"]["containers"]:
            asked |= set(container["resources"]["requests"]) | set(container["resources"]["limits"])
    assert asked <= set(group["coveredResources"])


def test_without_kueue_jobs_start_by_themselves() -> None:
    for overlay in OVERLAYS:
        for manifest in render(overlay):
            if manifest["kind"] in CRDS:
                assert "suspend" not in manifest["spec"]
            assert "kueue" not in str(manifest["metadata"])


def test_the_ingress_lets_pass_what_the_service_takes(resources: list[Manifest]) -> None:
    ingress = named(resources, "Ingress")
    notes = {key.rpartition("/")[2]: value for key, value in ingress["metadata"]["annotations"].items()}
    assert notes["force-ssl-redirect"] == "true"
    assert ingress["spec"]["tls"][0]["secretName"] == "kdrift-tls"
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    for config in SERVE_CONFIGS:
        served = yaml.safe_load(config.read_text())
        upload = served["applications"][0]["args"]["limits"]["upload_mb"]
        assert int(notes["proxy-body-size"].removesuffix("m")) >= upload
        for direction in ("read", "send"):
            assert int(notes[f"proxy-{direction}-timeout"]) >= served["http_options"]["request_timeout_s"]
        service = {"name": f"{named(resources, 'RayService')['metadata']['name']}-serve-svc"}
        assert path["backend"]["service"] == {**service, "port": {"number": served["http_options"]["port"]}}
        assert path["path"] == served["applications"][0]["route_prefix"]


def test_prometheus_finds_the_port_of_ray_pods_and_of_no_other(resources: list[Manifest]) -> None:
    monitor = named(resources, "PodMonitor")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["spec"].keys() == {"selector", "podTargetLabels", "podMetricsEndpoints"}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    for name, pod in all_pods(resources).items():
        ports = {p["name"]: p["containerPort"] for c in pod["spec"]["containers"] for p in c.get("ports", [])}
        is_ray = "/" in name and not name.endswith("/submit")
        assert (wanted <= pod["metadata"]["labels"].items()) == is_ray, name
        assert ports.get(endpoint["port"]) == (8080 if is_ray else None), name
    (rule,) = named(resources, "NetworkPolicy", "prometheus")["spec"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8080}]


def test_components_change_nothing_else(resources: list[Manifest]) -> None:
    overlay = "gpu" if "nvidia.com/gpu" in str(resources) else "cpu"
    before = {(m["kind"], m["metadata"]["name"]): m for m in render(overlay)}
    touched = {"RayJob", "RayService", "ConfigMap", "Deployment"}
    for manifest in resources:
        key = manifest["kind"], manifest["metadata"]["name"]
        if key in before and manifest["kind"] not in touched:
            assert manifest == before[key]
    job = named(resources, "RayJob", "kdrift-train")
    same = before["RayJob", "kdrift-train"]
    for path in ("spec.rayClusterSpec.enableInTreeAutoscaling", "spec.rayClusterSpec.autoscalerOptions"):
        same = changed(same, path, None)
    same = changed(same, "spec.rayClusterSpec.headGroupSpec.template.spec.volumes.2", None)
    labels = {**same["metadata"]["labels"], "kueue.x-k8s.io/queue-name": "kdrift"}
    assert job == changed(changed(same, "metadata.labels", labels), "spec.suspend", True)


def test_placeholders_say_where_their_values_stand() -> None:
    for path in K8S.glob("**/*.yaml"):
        for line in path.read_text().splitlines():
            if any(word in line for word in (" storage: 1Gi", "example.org", "name: monitoring", "clusterQueue:")):
                assert line.endswith("# k8s/components/settings"), f"{path.relative_to(K8S)}: {line}"
