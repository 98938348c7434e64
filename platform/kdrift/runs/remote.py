"""A folder at an fsspec URL (`s3://bucket/x`): objects by their names below it, each of which appears whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kdrift.runs.files import made_once, user_cache
from kdrift.runs.hint import first_line

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
OBJECT_STORES = frozenset(("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oci", "oss", "memory"))
"""Where an object is whole or absent whatever happens to its writer. Elsewhere it is written beside and renamed."""

CONDITIONAL = frozenset(("s3", "s3a"))
"""Where an object can be written on the condition that nobody has written it meanwhile."""

_FEW_TRIES: dict[str, dict[str, Any]] = {
    key: {"config_kwargs": {"retries": {"max_attempts": 1}, "connect_timeout": 10, "read_timeout": 60}}
    for key in ("s3", "s3a")
}
"""Whoever writes tries again, and says so; botocore's own tries take a minute before anything is said."""


def is_url(path: object) -> bool:
    """Whether an output is at an fsspec URL, not in a folder; `file://` is a folder."""
    found = _URL.match(str(path))
    return found is not None and found[1].lower() not in ("file", "local")


class Remote:
    """The objects below a URL.

    Raises ValueError where fsspec has no such protocol, or what speaks it is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        self._protocol = self.url.partition("://")[0].lower()
        try:
            few = _FEW_TRIES.get(self._protocol, {})
            # a file system of its own: fsspec's shared ones keep the server and credentials that they began with
            self._files, self._root = fsspec.core.url_to_fs(self.url, skip_instance_cache=True, **few)
        except (ImportError, ValueError) as error:
            raise ValueError(f"cannot write to {self.url}: {_advice(error, self._protocol)}") from None

    def probe(self) -> None:
        """Write an object, read it back and delete it. Raises ValueError, with what to do, where that fails."""
        name, content = f".probe-{uuid.uuid4().hex[:12]}", uuid.uuid4().bytes
        try:
            self.write(name, content)
            found = self.read(name)
            self.delete(name)
        except Exception as error:  # each protocol has errors of its own
            raise ValueError(f"cannot write to {self.url}: {_advice(error, self._protocol)}") from None
        if found != content:
            raise ValueError(f"{self.url} does not give back what was written to it: it is not the storage it says")

    def names(self) -> dict[str, int]:
        """Return the sizes in bytes of all objects, by their names."""
        self._files.invalidate_cache()
        try:
            found: Mapping[str, Any] = self._files.find(self._root, detail=True)
        except FileNotFoundError:
            return {}
        prefix = f"{self._root.rstrip('/')}/"
        return {name.removeprefix(prefix): int(info["size"]) for name, info in found.items() if name.startswith(prefix)}

    def read(self, name: str) -> bytes | None:
        """Return the content of an object, None where there is none."""
        try:
            content: bytes = self._files.cat_file(self._at(name))
        except FileNotFoundError:
            return None
        return content

    def read_object(self, name: str) -> dict[str, Any]:
        """Return the values of a JSON object, {} where there is none."""
        content = self.read(name)
        values: dict[str, Any] = {} if content is None else json.loads(content)
        return values

    def write(self, name: str, content: bytes) -> None:
        """Make `content` the object of this name."""
        with self._whole(name) as place:
            self._files.pipe_file(place, content)

    def tag(self, name: str) -> str | None:
        """Return what changes with an object, "" where there is none; None where `write_if` cannot go by it."""
        if self._protocol not in CONDITIONAL:
            return None
        try:
            return str(self._files.info(self._at(name), refresh=True)["ETag"])
        except FileNotFoundError:
            return ""

    def write_if(self, name: str, content: bytes, tag: str | None) -> bool:
        """Make `content` the object of this name, if its tag is `tag` still; return whether that is sure to be so.

        Without a tag, or where the server does not know such conditions, it is written whatever is there, and is not
        sure.
        """
        if tag is not None:
            bucket, key, _ = self._files.split_path(self._at(name))
            condition = {"IfMatch": tag} if tag else {"IfNoneMatch": "*"}
            try:
                self._files.call_s3("put_object", Bucket=bucket, Key=key, Body=content, **condition)
                return True
            except Exception as error:  # what s3fs makes of an answer depends on the condition
                code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
                if code in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
                    return False
                if code not in ("NotImplemented", "InvalidArgument", "InvalidRequest", "501"):
                    raise
        self.write(name, content)
        return False

    def send(self, path: Path, name: str) -> None:
        """Make a copy of a file the object of this name."""
        with self._whole(name) as place:
            self._files.put_file(str(path), place)

    def fetch(self, name: str, path: Path) -> None:
        """Copy an object to a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._files.get_file(self._at(name), str(path))

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        with contextlib.suppress(FileNotFoundError, KeyError):
            self._files.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextlib.contextmanager
    def _whole(self, name: str) -> Any:
        """Yield where to write an object, and see that it is whole under its own name."""
        place = self._at(name)
        if self._protocol in OBJECT_STORES:
            yield place
            return
        folder, _, last = place.rpartition("/")
        beside = f"{folder}/.{last}-{uuid.uuid4().hex[:12]}"
        self._files.makedirs(folder, exist_ok=True)
        try:
            yield beside
            self._files.mv(beside, place)
        except BaseException:
            with contextlib.suppress(Exception):
                self._files.rm_file(beside)
            raise


def kept_copy(url: str, digests: str) -> Path:
    """Return a folder in the user's cache with what a URL holds: copied once, and known by its file of digests.

    Raises ValueError where there is no such file, or the URL cannot be read.
    """
    remote = Remote(url)

    def copy(folder: Path) -> Path:
        _copy(remote, folder / "copy")
        return folder / "copy"

    try:
        content = remote.read(digests)
        if content is None:
            raise FileNotFoundError(f"it has no {digests}")
        kept = user_cache("copies") / hashlib.sha256(content).hexdigest()[:16] / remote.url.rpartition("/")[2]
        return made_once(kept, copy)
    except FileNotFoundError as error:
        raise ValueError(f"cannot read {url}: {error}") from None
    except Exception as error:  # each protocol has errors of its own
        raise ValueError(f"cannot read {url}: {_advice(error, url.partition('://')[0].lower())}") from None


@contextlib.contextmanager
def copied(path: str | os.PathLike[str], wanted: Callable[[str], bool] = lambda name: True) -> Iterator[Path]:
    """Yield where a file or folder that is read is on this machine: a path itself, a copy of what is at a URL.

    The copy has the last name of the URL, and goes after the block; of a folder it is the objects whose names below it
    are `wanted`. Errors of the block name the URL.

    Raises ValueError where there is nothing at the URL, or it cannot be read.
    """
    if not is_url(path):
        yield Path(path)
        return
    url = os.fspath(path).rstrip("/")
    above, _, name = url.rpartition("/")
    with tempfile.TemporaryDirectory(prefix="kdrift-") as temporary:
        here = Path(temporary) / name
        try:
            if not _copy(Remote(url), here, wanted):
                Remote(above).fetch(name, here)
        except FileNotFoundError:
            raise ValueError(f"there is nothing at {url}") from None
        except Exception as error:  # each protocol has errors of its own
            raise ValueError(f"cannot read {url}: {_advice(error, url.partition('://')[0].lower())}") from None
        with naming(here, url):
            yield here


@contextlib.contextmanager
def naming(folder: Path, url: str) -> Iterator[None]:
    """Let errors of the block name a URL in place of what is copied from it or sent to it."""
    try:
        yield
    except (ValueError, OSError) as error:
        if type(error) in (ValueError, OSError) and str(folder) in str(error):  # others are made of other parts
            raise type(error)(str(error).replace(str(folder), url)) from None
        raise


def _copy(remote: Remote, folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> bool:
    """Copy the objects below a URL whose names are `wanted`, no hidden ones; return whether there are any at all."""
    names = [name for name in remote.names() if not any(part[:1] in ("", ".") for part in name.split("/"))]
    for name in filter(wanted, names):
        remote.fetch(name, folder / name)
    return bool(names)


def _advice(error: Exception, protocol: str) -> str:
    """Return what went wrong and what helps against it."""
    said, name = f"{first_line(error)[:200]}", type(error).__name__
    if isinstance(error, ImportError):
        extra = "pip install 'kdrift[s3]'" if protocol in ("s3", "s3a") else "install what fsspec asks for"
        return f"{said}; {extra}"
    if isinstance(error, FileNotFoundError):
        return f"{said or name}: there is no such bucket; make it first"
    if isinstance(error, PermissionError) or "redential" in name:
        where = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws" if protocol in ("s3", "s3a") else protocol
        return f"{said or name}; check the credentials ({where}) and what they may do there"
    if protocol in ("s3", "s3a"):
        return f"{said or name}; check the bucket, the credentials and AWS_ENDPOINT_URL of this machine"
    return said or name
