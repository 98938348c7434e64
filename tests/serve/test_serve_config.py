"""The service's configuration and its keys."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
import yaml
from starlette.requests import HTTPConnection

from kdrift_serve import auth
from kdrift_serve.problems import Problem
from kdrift_serve.serve_config import AuthConfig, ServeConfig, load_serve_file
from serve_helpers import KEY

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own dependencies
NO_KEYS = auth.Keys([], None)
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "serve"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_configurations_are_complete_and_have_no_unknown_key(path: Path) -> None:
    """Ray Serve itself accepts unknown keys in silence."""
    from ray.serve.schema import ServeDeploySchema

    values = yaml.safe_load(path.read_text())
    ServeDeploySchema.model_validate(values)
    http, config = load_serve_file(path)
    (application,) = values["applications"]
    assert application["import_path"] == "kdrift_serve.app:build"
    assert set(application["args"]) == {field.name for field in dataclasses.fields(ServeConfig)}
    for name in ("samplers", "auth", "limits"):
        known = {field.name for field in dataclasses.fields(getattr(config, name))}
        assert set(application["args"][name]) == known
    if http.host != "127.0.0.1":
        assert not config.auth.keyless_on_loopback


def test_unknown_and_wrong_values_are_named(tmp_path: Path) -> None:
    from kdrift_serve.app import build

    with pytest.raises(ValueError, match="unknown key 'sampler', did you mean 'samplers'"):
        build({"sampler": {}})
    with pytest.raises(ValueError, match=r"limits\.jobs"):
        build({"limits": {"jobs": "many"}})
    with pytest.raises(ValueError, match=r"storage is at s3://bucket/x: name a database"):
        build({"storage": "s3://bucket/x"})
    with pytest.raises(ValueError, match="replicas and num_cpus of at least 1"):
        build({"samplers": {"replicas": 0}})
    with pytest.raises(ValueError, match="priors is empty"):
        build({"priors": {}})
    path = tmp_path / "serve.yaml"
    path.write_text("applications: [{name: a, import_path: b, arg: {}}]")
    with pytest.raises(ValueError, match="unknown key 'arg', did you mean 'args'"):
        load_serve_file(path)
    http, config = load_serve_file(None, ["samplers.replicas=3"])
    assert (http.host, config.samplers.replicas) == ("127.0.0.1", 3)


def request(server: str, host: str = "localhost", key: str = "") -> HTTPConnection:
    headers = [(b"host", host.encode())] + ([(b"authorization", key.encode())] if key else [])
    return HTTPConnection({"type": "http", "server": (server, 8000), "headers": headers})


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDRIFT_API_KEYS", raising=False)
    with pytest.raises(ValueError, match="no API keys"):
        auth.load_keys(AuthConfig())
    file = tmp_path / "keys.yaml"
    file.write_text(f"keys: [{{name: ward 3, sha256: {digest(KEY[::-1])}, scopes: [read]}}]\n")
    monkeypatch.setenv("KDRIFT_API_KEYS", KEY)
    keys = auth.load_keys(AuthConfig(keys_file=str(file), keyless_on_loopback=True))
    assert KEY not in repr(keys)
    assert auth.check(keys, request("10.0.0.1", key=f"Bearer {KEY}")).scopes == {"read", "submit"}
    reader = auth.check(keys, request("10.0.0.1", key=f"bearer  {KEY[::-1]} "))
    assert (reader.name, reader.scopes) == ("ward 3", {"read"})
    reader.need("read")
    with pytest.raises(Problem, match="403"):
        reader.need("submit")
    assert (reader.may_see("ward 3"), reader.may_see("ward 4")) == (True, False)
    for key in ("", "Bearer ", "Bearer wrong", f"Basic {KEY}"):
        with pytest.raises(Problem) as error:
            auth.check(keys, request("127.0.0.1", key=key))
        assert error.value.status == 401


def test_keys_come_and_go_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDRIFT_API_KEYS", raising=False)
    file = tmp_path / "keys.yaml"
    file.write_text(f"keys: [{{name: a, sha256: {digest(KEY)}}}]")
    keys = auth.load_keys(AuthConfig(keys_file=str(file)))
    assert auth.check(keys, request("10.0.0.1", key=f"Bearer {KEY}")).name == "a"
    file.write_text(f"keys: [{{name: a, sha256: {digest('another key of the ward')}, scopes: [admin]}}]")
    with pytest.raises(Problem, match="not known"):
        auth.check(keys, request("10.0.0.1", key=f"Bearer {KEY}"))
    admin = auth.check(keys, request("10.0.0.1", key="Bearer another key of the ward"))
    admin.need("submit")
    assert admin.may_see("b")
    assert keys.fault == ""
    twice = f"{{name: a, sha256: {digest(KEY)}}}"
    for text, why in (("keys: [{", "not valid YAML"), (f"keys: [{twice}, {twice}]", "give each its own")):
        file.write_text(text)
        assert auth.check(keys, request("10.0.0.1", key="Bearer another key of the ward")).name == "a"
        assert "the keys of before hold, removed ones too" in keys.fault
        assert why in keys.fault
    file.write_text(f"keys: [{{name: a, sha256: {digest('another key of the ward')}}}]")
    assert (keys.all()[0].name, keys.fault) == ("a", "")
    file.rename(tmp_path / "away")
    assert (keys.all()[0].name, "No such file" in keys.fault) == ("a", True)
    (tmp_path / "away").rename(file)
    assert (keys.all()[0].name, keys.fault) == ("a", "")
    file.write_text(f"keys: [{{name: a, sha256: {digest(KEY)}, expires: 2020-01-01}}]")
    with pytest.raises(Problem, match="expired on 2020-01-01"):
        auth.check(keys, request("10.0.0.1", key=f"Bearer {KEY}"))
    assert keys.fault == ""
    for text, sentence in (
        (f"keys: [{{name: a, sha256: {KEY}}}]", "is no SHA-256"),
        (f"keys: [{{name: a, sha256: {digest('x')}, scope: [read]}}]", "did you mean 'scopes'"),
        (f"keys: [{{name: a/b, sha256: {digest('x')}}}]", "a key's name"),
        (f"keys: [{{name: a, sha256: {digest('x')}}}, {{name: a, sha256: {digest('y')}}}]", "give each its own"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=sentence):
            auth.load_keys(AuthConfig(keys_file=str(file)))


@pytest.mark.parametrize(
    ("server", "host", "passes"),
    [
        ("127.0.0.1", "localhost:8000", True), ("127.0.0.1", "127.0.0.1", True), ("::1", "[::1]:8000", True),
        ("10.0.0.1", "localhost", False), ("127.0.0.1", "evil.example:8000", False),
        ("127.0.0.1", "localhost.evil.example", False), ("127.0.0.1", "", False),
    ],
)  # fmt: skip
def test_without_keys_only_loopback_passes(server: str, host: str, passes: bool) -> None:
    if passes:
        auth.check(NO_KEYS, request(server, host))
        return
    with pytest.raises(Problem, match="403"):
        auth.check(NO_KEYS, request(server, host))
