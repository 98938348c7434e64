"""API keys: sent as `Authorization: Bearer KEY`, compared in constant time, kept as digests."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import re
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Literal

from starlette.requests import HTTPConnection

from kdrift.runs.config import load_config
from kdrift_serve.problems import Problem
from kdrift_serve.serve_config import AuthConfig

logger = logging.getLogger("ray.serve")
Scope = Literal["read", "submit", "admin"]
SHORTEST_KEY = 16
_LOCAL_HOST = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Caller:
    """Who asks."""

    name: str
    """Name of the key; empty where the service asks for none."""
    scopes: frozenset[Scope]

    def may_see(self, key: str) -> bool:
        """Whether a job of this key is the caller's, or the caller sees all."""
        return key == self.name or "admin" in self.scopes

    def need(self, scope: Scope) -> None:
        """Raise a `Problem` (403) unless the key has this scope."""
        if scope not in self.scopes and "admin" not in self.scopes:
            raise Problem(
                403, f"this API key may not {scope}: its scopes are {', '.join(sorted(self.scopes)) or 'none'}"
            )


@dataclass(frozen=True)
class NamedKey:
    """A key of the file."""

    name: str
    """Shown in logs and metrics; jobs belong to it, so that a key can be replaced under the same name."""
    sha256: str
    """Digest of the key, in hexadecimal: printf %s KEY | sha256sum."""
    scopes: tuple[Scope, ...] = ("read", "submit")
    """`read`: jobs and results of its own; `submit`: send and cancel; `admin`: both, for the jobs of all keys."""
    expires: date | None = None
    """The last day that it is taken."""

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 of key {self.name!r} is no SHA-256: make it with printf %s KEY | sha256sum")
        if not re.fullmatch(r"[\w.@ -]{1,64}", self.name):
            raise ValueError(f"a key's name has at most 64 letters, digits and . _ @ -, got {self.name[:80]!r}")


@dataclass(frozen=True)
class KeyFile:
    """The file of keys."""

    keys: list[NamedKey] = field(default_factory=list)


@dataclass
class Keys:
    """The keys that are known."""

    environment: list[NamedKey]
    file: Path | None
    fault: str = ""
    """Why the file, as it is now, is not used, and the keys of before are."""
    _stamp: tuple[int, int] = (0, 0)
    _of_file: list[NamedKey] | None = None

    def __bool__(self) -> bool:
        return bool(self.environment) or self.file is not None

    def all(self) -> list[NamedKey]:
        """Return the keys as they are now: the file is read again where it has changed.

        A file that cannot be used any more leaves the keys as they were, and `fault` says so. Raises ValueError where
        none could be used yet.
        """
        if self.file is None:
            return self.environment
        try:
            stat = self.file.stat()
            stamp = stat.st_mtime_ns, stat.st_size
            if stamp == self._stamp:
                return [*self.environment, *(self._of_file or ())]
            self._stamp = stamp
            found = load_config(KeyFile, self.file).keys
            _check_names([*self.environment, *found])
            self._of_file, self.fault = found, ""
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                self._stamp = (0, 0)  # it is looked at again, even if it comes back as it was
            if self._of_file is None:
                raise ValueError(f"auth.keys_file cannot be used: {error}") from None
            fault = f"the file of API keys cannot be used, so the keys of before hold, removed ones too: {error}"
            if fault != self.fault:
                logger.error("%s", fault)
            self.fault = fault
        return [*self.environment, *self._of_file]


def load_keys(config: AuthConfig) -> Keys:
    """Return the keys of the environment and the file.

    Raises ValueError if there is none and the configuration does not allow that, one is too short to be a secret, or
    the file cannot be read.
    """
    given = keys_given(config)
    if any(len(key) < SHORTEST_KEY for key in given):
        raise ValueError(f"an API key has fewer than {SHORTEST_KEY} characters; make one with: openssl rand -hex 24")
    own = [NamedKey(f"key-{digest[:8]}", digest) for digest in map(_digest, given)]
    keys = Keys(own, Path(config.keys_file).expanduser() if config.keys_file is not None else None)
    if not keys and not config.keyless_on_loopback:
        raise ValueError(
            f"no API keys: set {config.keys_env} or auth.keys_file, or, for requests from this machine alone,"
            " auth.keyless_on_loopback: true"
        )
    _check_names(keys.all())
    return keys


def _check_names(keys: list[NamedKey]) -> None:
    names = [key.name for key in keys]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(
            f"several API keys are called {', '.join(sorted(twice))}: jobs belong to a name, give each its own"
        )


def keys_given(config: AuthConfig) -> list[str]:
    """Return the keys of the environment themselves."""
    return [key for key in re.split(r"[\s,]+", os.environ.get(config.keys_env, "")) if key]


def check(keys: Keys, request: HTTPConnection) -> Caller:
    """Return who asks, or raise a `Problem`.

    Without keys only requests pass that arrive on a loopback address under a loopback name (the name keeps out web
    pages whose own name was made to point here), and of pages only the service's own (others may send forms).
    """
    if not keys:
        server = request.scope.get("server")
        if not (server and _is_loopback(server[0]) and _LOCAL_HOST.fullmatch(request.headers.get("host", ""))):
            raise Problem(403, "this service has no API keys and so answers requests from its own machine only")
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != request.headers["host"]:
            raise Problem(403, "this service has no API keys and so answers no page of another site")
        return Caller("", frozenset(("read", "submit")))
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Problem(401, "an API key is needed: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})
    given = _digest(key.strip())
    same = [known for known in keys.all() if hmac.compare_digest(given, known.sha256)]  # all are compared
    if not same:
        raise Problem(401, "this API key is not known", {"WWW-Authenticate": "Bearer"})
    if same[0].expires is not None and date.today() > same[0].expires:
        raise Problem(401, f"this API key expired on {same[0].expires}", {"WWW-Authenticate": "Bearer"})
    return Caller(same[0].name, frozenset(same[0].scopes))


def is_loopback_host(host: str) -> bool:
    """Whether a server bound to `host` is reached from this machine alone."""
    return host == "localhost" or _is_loopback(host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()
