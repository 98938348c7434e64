"""MLflow with the Deployment's own arguments and environment, on this machine: accounts are asked for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from benchmarks.over_http import free_port

from k8s_helpers import named, render
from kdrift.runs.tracking import client, start_run

SECRET = {"username": "kdrift", "password": "0123456789abcdef", "forms": "fedcba9876543210"}
"""What docs/kubernetes.md puts into the secret kdrift-mlflow."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("flask_wtf", reason="Flask-WTF is not installed (extra mlflow-server)")
    folder = tmp_path_factory.mktemp("mlflow")
    resources = render("cpu")
    (container,) = named(resources, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    (accounts,) = [m["data"]["basic_auth.ini"] for m in resources if m["kind"] == "ConfigMap"]
    port = free_port()

    def here(text: str) -> str:
        """Put this machine's folders, address and port in the place of the pod's."""
        text = text.replace("0.0.0.0", "127.0.0.1").replace("--port=5000", f"--port={port}")
        return text.replace("/etc/mlflow", str(folder)).replace("/mlflow/", f"{folder}/")

    (folder / "basic_auth.ini").write_text(here(accounts))
    values = {}
    for entry in container["env"]:
        read = entry.get("valueFrom", {}).get("secretKeyRef")
        values[entry["name"]] = SECRET[read["key"]] if read else here(entry["value"])
    command = [sys.executable, "-m", *container["command"], *map(here, container["args"])]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env={**os.environ, **values}, stdout=log, stderr=log)
    try:
        found = f"http://127.0.0.1:{port}"
        for _ in range(240):
            assert server.poll() is None, (folder / "log").read_text()
            if answers(f"{found}{container['startupProbe']['httpGet']['path']}"):
                break
            time.sleep(0.5)
        else:
            pytest.fail((folder / "log").read_text())
        assert {"mlflow.db", "accounts.db"} <= {path.name for path in folder.iterdir()}, "on the volume, where it says"
        yield found
    finally:
        server.terminate()
        server.wait(60)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_probes_need_no_account_and_all_else_does(address: str) -> None:
    search = f"{address}/api/2.0/mlflow/experiments/search?max_results=1"
    right, wrong = (SECRET["username"], SECRET["password"]), (SECRET["username"], "password1234")
    assert httpx.get(search, trust_env=False, timeout=20).status_code == 401
    assert httpx.get(search, auth=wrong, trust_env=False, timeout=20).status_code == 401
    assert httpx.get(search, auth=right, trust_env=False, timeout=20).status_code == 200


def test_what_ray_pods_have_is_enough_to_track(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pod = named(render("cpu"), "RayCluster")["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    for entry in pod["env"]:
        read = entry.get("valueFrom", {}).get("secretKeyRef", {})
        if read.get("name") == "kdrift-mlflow":
            monkeypatch.setenv(entry["name"], SECRET[read["key"]])
    run = start_run(address, "k8s", {"workers": 2}, tmp_path)
    assert client(address).get_run(run).data.params == {"workers": "2"}
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another one")
    with pytest.raises(Exception, match="not authenticated"):
        client(address).get_run(run)
