"""API keys: sent as `Authorization: Bearer KEY`, compared in constant time, kept as digests."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
from pathlib import Path

from starlette.requests import HTTPConnection

from kdrift_serve.problems import Problem
from kdrift_serve.serve_config import AuthConfig

SHORTEST_KEY = 16
_LOCAL_HOST = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?")


def load_keys(config: AuthConfig) -> list[bytes]:
    """Return the digests of the keys in the environment and the file.

    Raises ValueError if there is none and the configuration does not allow that, or one is too short to be a secret.
    """
    text = os.environ.get(config.keys_env, "")
    if config.keys_file is not None:
        text += "\n" + Path(config.keys_file).expanduser().read_text()
    keys = [key for key in re.split(r"[\s,]+", text) if key]
    if not keys and not config.keyless_on_loopback:
        raise ValueError(
            f"no API keys: set {config.keys_env} or auth.keys_file, or, for requests from this machine alone,"
            " auth.keyless_on_loopback: true"
        )
    if any(len(key) < SHORTEST_KEY for key in keys):
        raise ValueError(f"an API key has fewer than {SHORTEST_KEY} characters; make one with: openssl rand -hex 24")
    return [_digest(key) for key in keys]


def check(keys: list[bytes], request: HTTPConnection) -> None:
    """Let a request through, or raise a `Problem`.

    Without keys only requests pass that arrive on a loopback address under a loopback name (the name keeps out web
    pages whose own name was made to point here).
    """
    if not keys:
        server = request.scope.get("server")
        if not (server and _is_loopback(server[0]) and _LOCAL_HOST.fullmatch(request.headers.get("host", ""))):
            raise Problem(403, "this service has no API keys and so answers requests from its own machine only")
        return
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Problem(401, "an API key is needed: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})
    given = _digest(key.strip())
    if not sum(hmac.compare_digest(given, known) for known in keys):  # not any(): all are compared
        raise Problem(401, "this API key is not known", {"WWW-Authenticate": "Bearer"})


def is_loopback_host(host: str) -> bool:
    """Whether a server bound to `host` is reached from this machine alone."""
    return host == "localhost" or _is_loopback(host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()
