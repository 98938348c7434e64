"""Who may talk to whom: the network policies of k8s/, read as Kubernetes reads them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from k8s_helpers import SERVE_CONFIGS, SOURCES, Manifest, all_pods, named, render, source_name

OPERATOR = ("kuberay-system", {"app.kubernetes.io/component": "kuberay-operator"})
PROMETHEUS = ("monitoring", {"app.kubernetes.io/name": "prometheus"})
STRANGER = ("default", {"app": "stranger"})
Peer = tuple[str, dict[str, str]]
"""A pod of the cluster: its namespace and its labels."""


@pytest.fixture(scope="module", params=SOURCES, ids=source_name)
def resources(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(*request.param)


def fits(selector: Any, labels: dict[str, str]) -> bool:
    """Tell whether a label selector chooses labels."""
    assert selector.keys() <= {"matchLabels"}
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def allows(rules: list[Any], side: str, other: Peer | None, port: int, protocol: str) -> bool:
    """Tell whether one of a policy's rules lets a peer (None: outside of the cluster) pass at a port."""
    for rule in rules:
        ports = rule.get("ports")
        if ports is not None and {"protocol": protocol, "port": port} not in ports:
            continue
        if side not in rule:
            return True
        if other is None:
            continue
        namespace, labels = other
        for peer in rule[side]:
            assert peer
            assert peer.keys() <= {"podSelector", "namespaceSelector"}
            spaces = peer.get("namespaceSelector", {"matchLabels": {"kubernetes.io/metadata.name": "kdrift"}})
            if fits(spaces, {"kubernetes.io/metadata.name": namespace}) and fits(peer.get("podSelector", {}), labels):
                return True
    return False


def passes(
    resources: list[Manifest], source: Peer | None, target: Peer | None, port: int, protocol: str = "TCP"
) -> bool:
    """Tell whether a connection passes the policies of both its ends that are pods of kdrift's namespace."""
    policies = [m["spec"] for m in resources if m["kind"] == "NetworkPolicy"]
    for end, other, kind, side in ((source, target, "Egress", "to"), (target, source, "Ingress", "from")):
        if end is None or end[0] != "kdrift":
            continue
        chosen = [p for p in policies if kind in p["policyTypes"] and fits(p["podSelector"], end[1])]
        if chosen and not any(allows(p.get(kind.lower(), []), side, other, port, protocol) for p in chosen):
            return False
    return True


def peers(resources: list[Manifest]) -> dict[str, Peer]:
    """Return name to peer of all pods of kdrift, and of others that matter."""
    found = {name: ("kdrift", pod["metadata"]["labels"]) for name, pod in all_pods(resources).items()}
    # KubeRay builds what clears up Redis from the service's head (`buildRedisCleanupJob` in `raycluster_controller.go`)
    cleanup = {**found["kdrift/head"][1], "ray.io/node-type": "redis-cleanup"}
    return {
        **found,
        "cleanup": ("kdrift", cleanup),
        "operator": OPERATOR,
        "prometheus": PROMETHEUS,
        "stranger": STRANGER,
        "new": ("kdrift", {"app": "anything"}),
    }


def test_every_port_is_open_to_whom_it_has_to_be_and_to_no_other(resources: list[Manifest]) -> None:
    kinds = {manifest["kind"] for manifest in resources}
    who = peers(resources)
    ray = {name for name in who if name.endswith(("/head", "/workers", "/samplers"))} | {"cleanup"}
    service = {name for name in who if name in ("kdrift/head", "kdrift/samplers", "cleanup")}
    heads, submitters = ({name for name in who if name.endswith(end)} for end in ("/head", "/submit"))
    asked = (22, 443, 5000, 5432, 6379, 8000, 8080, 8265, 10001)
    wanted: dict[str, dict[int, set[str]]] = {
        "mlflow": {5000: ray},
        "redis": {6379: {"kdrift/head", "cleanup"}},
        "toolbox": {},
        "new": {},
        **({"postgres": {5432: {"mlflow", *service}}} if "postgres" in who else {}),
    }
    for name in ray:
        wanted[name] = {port: set(ray) for port in asked}
        wanted[name][8000] |= {"operator", "prometheus", "stranger"}
        wanted[name][8080] |= {"prometheus"} if "PodMonitor" in kinds else set()
        wanted[name][8265] |= submitters | {"operator"} if name in heads else set()
    for target, ports in wanted.items():
        for port in asked:
            passing = {name for name in who if name != target and passes(resources, who[name], who[target], port)}
            assert passing == ports.get(port, set()) - {target}, (target, port)


def test_what_leaves_the_cluster(resources: list[Manifest]) -> None:
    who = peers(resources)
    ray = {name for name, (_, labels) in who.items() if labels.get("ray.io/is-ray-node")}
    heads = {name for name, (_, labels) in who.items() if labels.get("ray.io/node-type") == "head"}
    for port, wanted in ((443, ray | {"toolbox"}), (6443, heads), (80, set()), (5432, set())):
        leaving = {name for name, peer in who.items() if peer[0] == "kdrift" and passes(resources, peer, None, port)}
        assert leaving == wanted, port
    for name, peer in who.items():
        assert passes(resources, peer, None, 53, "UDP"), name
        assert passes(resources, peer, None, 53), name


def test_only_serve_is_open_to_the_world(resources: list[Manifest]) -> None:
    who = peers(resources)
    reached = {
        (name.rpartition("/")[2], port)
        for name, peer in who.items()
        for port in (22, 443, 5000, 5432, 6379, 8000, 8080, 8265, 10001)
        if peer[0] == "kdrift" and passes(resources, None, peer, port)
    }
    assert {port for _, port in reached} == {8000}
    for path in SERVE_CONFIGS:
        assert yaml.safe_load(path.read_text())["http_options"]["port"] == 8000


def test_a_missing_policy_is_found(resources: list[Manifest]) -> None:
    who = peers(resources)
    fewer = [m for m in resources if m["metadata"]["name"] != "redis"]
    assert not passes(fewer, who["kdrift/head"], who["redis"], 6379)
    wider = copy.deepcopy(resources)
    named(wider, "NetworkPolicy", "mlflow")["spec"]["ingress"] = [{}]
    assert passes(wider, who["stranger"], who["mlflow"], 5000)
    assert not passes(resources, who["stranger"], who["mlflow"], 5000)
