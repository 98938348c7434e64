"""Files and folders that appear whole or not at all: the one module that writes them so.

What is written goes to a hidden name beside its place first and is renamed when it is whole. A process that is killed
leaves the hidden name behind, never a half file under the real one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""What begins an address: `s3:` of s3://bucket/x."""


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str], *, mode: int = 0o644, durable: bool = True) -> Iterator[Path]:
    """Yield a path to write to; after the block it is `path`, and where the block raised, `path` is as it was.

    The yielded path has the suffix of `path` (writers go by it) and is of this call alone. Missing folders are made.
    The file gets `mode`, less what the umask takes away. Without `durable` the disk is not waited for, and after a
    power cut the file may be an older one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
    granted = temporary.stat().st_mode & 0o777
    try:
        yield temporary
        temporary.chmod(granted)  # some libraries put a file of their own there
        if durable:
            _sync(temporary)
        os.replace(temporary, path)
        if durable:
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def check_folder(path: str | os.PathLike[str], names: Iterable[str] = ()) -> None:
    """Raise ValueError where files called `names` cannot be written into a folder, which may not exist yet.

    It is tried, and left as it was found.
    """
    path = Path(path)
    made: list[Path] = []
    try:
        for folder in (*reversed(path.parents), path):
            if not folder.exists():
                folder.mkdir()
                made.append(folder)
            elif not folder.is_dir():
                raise ValueError(f"cannot write into {path}: {folder} is a file, expected a folder")
        for name in names:
            if (path / name).is_dir():
                raise ValueError(f"cannot write into {path}: {name} in it is a folder, expected a file or nothing")
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(f"cannot write into {path}: {error.strerror or error}; name a folder to write to") from None
    finally:
        for folder in reversed(made):
            folder.rmdir()


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Yield a new folder to fill; after the block it is `path`, and where the block raised, `path` is as it was.

    Files in it are readable by whom the folder is, whatever library wrote them.

    Raises ValueError if `path` exists and `replace` is false.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.mkdir(mode=0o755)
    granted = temporary.stat().st_mode & 0o777
    try:
        yield temporary
        for entry in sorted(temporary.rglob("*"), reverse=True):  # a folder after what it holds
            entry.chmod(granted if entry.is_dir() else granted & 0o666)
            _sync(entry)
        _sync(temporary)
        put_folder(temporary, path, replace=replace)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def user_cache(folder: str) -> Path:
    """Return where kdrift keeps a kind of thing in the user's cache (XDG_CACHE_HOME); it may not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdrift" / folder


def made_once(path: Path, make: Callable[[Path], Path]) -> Path:
    """Return a folder that is made when it is not there yet; `make` fills a folder and returns what in it is wanted."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
            made = make(Path(temporary))
            with contextlib.suppress(ValueError):  # another process was faster
                put_folder(made, path)
    return path


def put_folder(temporary: Path, path: Path, *, replace: bool = False, aside: Path | None = None) -> None:
    """Rename a finished folder to `path`, on the same disk.

    With `replace` an older one steps aside first (to the path `aside`, by default a hidden name) and is then deleted;
    it comes back where the new one cannot take its place.

    Raises ValueError if `path` exists and `replace` is false.
    """
    if not path.exists():
        os.rename(temporary, path)
        return
    if not replace:
        raise ValueError(f"{path} exists already; remove it or choose another name")
    aside = aside or _beside(path)
    os.rename(path, aside)
    try:
        os.rename(temporary, path)
    except BaseException:
        os.rename(aside, path)
        raise
    shutil.rmtree(aside)


def put_file(temporary: Path, path: Path, *, mode: int = 0o644) -> None:
    """Make a finished file, which is given away, the one of the name `path` on the same disk; `mode` as in
    `whole_file`."""
    with whole_file(path, mode=mode) as beside:
        os.replace(temporary, beside)


def write_text(path: str | os.PathLike[str], text: str, *, durable: bool = True) -> None:
    """Write a text file in UTF-8; `durable` as in `whole_file`."""
    with whole_file(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], values: Mapping[str, Any] | list[Any], *, durable: bool = True) -> None:
    """Write a JSON file; `durable` as in `whole_file`."""
    write_text(path, json.dumps(values, indent=2) + "\n", durable=durable)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file, {} where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_yaml(path: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Write a YAML file, its keys in the order they have."""
    write_text(path, yaml.safe_dump(values, sort_keys=False))


def refuse_address(path: str | os.PathLike[str], what: str) -> None:
    """Raise ValueError where what is to be written names an address such as s3://bucket/x, not a path.

    A `Path` of one would be a folder named `s3:` here.
    """
    parts = Path(path).parts
    if any(_SCHEME.fullmatch(part) for part in parts[:-1]):
        raise ValueError(f"{what} {os.fspath(path)} is an address; expected a folder here, or one that all nodes share")


def whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a journal. One that its process was killed in is cut off the file."""
    whole, _, torn = path.read_bytes().rpartition(b"\n")
    if torn:
        with path.open("r+b") as stream:
            stream.truncate(len(whole) + 1 if whole else 0)
    return whole.splitlines()


def folder_bytes(folder: Path) -> int:
    """Return the size of all files in a folder and below it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_zip(path: Path, folder: Path, files: Iterable[Path]) -> None:
    """Write an archive of files, named as they lie in `folder`; what is a folder goes in with all its files."""
    with whole_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for each in files:
            for file in sorted(each.rglob("*")) if each.is_dir() else [each]:
                if file.is_file():
                    archive.write(file, file.relative_to(folder))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def only_user(path: str | Path | None, taken: str) -> Iterator[None]:
    """Hold a lock on a local file or folder; the kernel releases it when its owner dies. None holds nothing.

    Raises ValueError, which begins with `taken`, while another process holds it.
    """
    if path is None:
        yield
        return
    import fcntl

    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{taken}; wait for it to end") from None
        yield
    finally:
        os.close(handle)


def _beside(path: Path) -> Path:
    """Return a hidden name in the same folder that nobody else has, with the last two suffixes (`.nii.gz`)."""
    return path.with_name(f".{path.name[:40]}-{uuid.uuid4().hex[:12]}{''.join(path.suffixes[-2:])}")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
